"""A function of one lane, compiled for all lanes of all devices."""

import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


class Parallel:
    """A function of one lane, mapped over lanes by `pmap` and, on one device, `vmap`.

    Compiled ahead of time for each set of argument shapes, because `pmap` takes no compiler
    options, and so that several programs can be compiled side by side.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        axes: str,
        devices: Sequence[jax.Device],
        lanes_per_device: int = 1,
        options: dict[str, Any] | None = None,
        donate: tuple[int, ...] = (),
    ):
        """Wraps a function.

        Args:
          function: of positional arguments.
          axes: one letter for each of them: `l` differs between lanes, `s` is shared by all.
          devices: to run on.
          lanes_per_device: on each.
          options: for XLA.
          donate: arguments that may be overwritten.
        """
        mapped = tuple(0 if a == "l" else None for a in axes)
        if lanes_per_device > 1:
            function = jax.vmap(function, in_axes=mapped)
        # Every argument in a tuple of its own: where there are as many arguments as leaves, `pmap`
        # of jax 0.10 takes `in_axes` for the axes of the leaves, and mixes up None and containers.
        self._program = jax.pmap(
            lambda *args: function(*(value for (value,) in args)),
            in_axes=tuple((axis,) for axis in mapped),
            devices=devices,
            donate_argnums=donate,
        )
        self._options = options or {}
        self._compiled: dict[tuple, Any] = {}
        self._lock = threading.Lock()

    def compile(self, *values: Any) -> Any:
        """Compiles for arguments of these shapes (arrays or `jax.ShapeDtypeStruct`), once."""
        args = tuple((value,) for value in values)
        shapes = tuple(np.shape(leaf) for leaf in jax.tree.leaves(args))
        with self._lock:
            if shapes not in self._compiled:
                lowered = self._program.lower(*args)
                self._compiled[shapes] = lowered.compile(compiler_options=self._options)
            return self._compiled[shapes]

    def shapes(self, *values: Any) -> Any:
        """Shapes of the results, as `jax.ShapeDtypeStruct`."""
        return jax.eval_shape(self._program, *((value,) for value in values))

    def __call__(self, *values: Any) -> Any:
        """Runs it; arguments and results are stacked over devices (and lanes)."""
        return self.compile(*values)(*((value,) for value in values))


def replicate(tree: Any, devices: Sequence[jax.Device]) -> Any:
    """Puts arrays on every device once; programs on these devices read them where they are."""
    mesh = Mesh(np.array(devices), ("devices",))
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def on_device(tree: Any, device: jax.Device) -> Any:
    """What `replicate` put on a device, without a copy."""
    return jax.tree.map(
        lambda a: next(shard.data for shard in a.addressable_shards if shard.device == device), tree
    )


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
