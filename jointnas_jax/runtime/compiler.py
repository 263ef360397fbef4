"""Options of XLA: in a small search, compiling takes longer than running."""

import functools
from typing import Any

import jax

_OPTIONS: dict[str, dict[str, Any]] = {
    # Fewer LLVM passes; the programs are as fast, to measurement noise.
    "light": {"xla_backend_optimization_level": 1},
    # Exact programs compile in about half the time, and run slower, above all in nested loops.
    "old_fusion": {
        "xla_cpu_use_fusion_emitters": False,
        # A tenth of the memory maps, see `runtime/memory_maps.py`.
        "xla_cpu_parallel_codegen_split_count": 1,
    },
}


def platform_here() -> str:
    """The platform of the devices at hand: `cpu`, `gpu`, `tpu`."""
    return jax.devices()[0].platform


@functools.cache
def compiler_options(*names: str, platform: str = "") -> dict[str, Any]:
    """Options for XLA:CPU by their `names` in `_OPTIONS`; {} for other platforms.

    "" is the platform of the devices at hand.
    """
    if (platform or platform_here()) != "cpu":
        return {}
    options = [_OPTIONS[name] for name in names if _is_supported(_OPTIONS[name])]
    return {key: value for option in options for key, value in option.items()}


def _is_supported(option: dict[str, Any]) -> bool:
    """Whether the installed XLA has an option: they come and go between versions."""
    try:
        jax.jit(lambda x: x, compiler_options=option).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
