"""How XLA compiles: in a small search that takes longer than what is compiled."""

import functools
from typing import Any

import jax


@functools.cache
def compiler_options(*wanted: str) -> dict[str, Any]:
    """Options for XLA:CPU that shorten compilation; none elsewhere, or where XLA has no such one.

    Args:
      wanted: `light` runs fewer LLVM passes, at no speed that could be told from noise;
        `old_fusion` besides compiles exact programs in about half the time, to programs that run
        slower, above all in nested loops.
    """
    names = {
        "light": {"xla_backend_optimization_level": 1},
        "old_fusion": {"xla_cpu_use_fusion_emitters": False},
    }
    if jax.default_backend() != "cpu":
        return {}
    options = {}
    for name in wanted:
        options |= names[name] if _is_known(names[name]) else {}
    return options


def _is_known(option: dict[str, Any]) -> bool:
    """Whether the installed XLA has an option: they come and go between versions."""
    try:
        jax.jit(lambda x: x, compiler_options=option).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
