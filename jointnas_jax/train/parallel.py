"""A function of one lane, compiled for all lanes of all devices."""

import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from jointnas_jax.train.executables import executables_on


class Parallel:
    """A function of one lane, mapped over lanes: devices, and by `vmap` those of one device.

    It does what `pmap` does, but bit for bit alike on any number of devices. `pmap` of jax 0.10
    makes one module for all devices, and XLA rounds differently in a module for four devices than
    in a module for one. Here one device's module is compiled, once, and loaded on every device.
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
          axes: one letter for each of them: `l` and `b` differ between lanes, `s` is shared by all
            (see `DataParallel` for `b`).
          devices: to run on.
          lanes_per_device: on each.
          options: for XLA.
          donate: arguments that may be overwritten.
        """
        axes = axes.replace("b", "l")
        mesh = Mesh(np.array(devices), ("devices",))
        self._lanes = NamedSharding(mesh, PartitionSpec("devices"))
        self._shared = NamedSharding(mesh, PartitionSpec())
        self._axes, self._devices = axes, tuple(devices)
        if lanes_per_device > 1:
            mapped = tuple(0 if axis == "l" else None for axis in axes)
            function = jax.vmap(function, in_axes=mapped)

        def on_one(*args: Any) -> Any:
            """The shard of a device: its first axis is one device long."""
            cut = lambda axis, arg: jax.tree.map(lambda a: a[0], arg) if axis == "l" else arg
            out = function(*map(cut, axes, args))
            return jax.tree.map(lambda a: a[None], out)

        # Unused arguments are kept: the loaded program is called with all of them.
        self._program = jax.jit(on_one, keep_unused=True, donate_argnums=donate)
        self._options = options or {}
        self._compiled: dict[tuple, tuple] = {}
        self._lock = threading.Lock()

    def compile(self, *values: Any) -> tuple[list[Any], Any]:
        """Compiles for arguments of these shapes (arrays or `jax.ShapeDtypeStruct`), once.

        Returns:
          The executable of each device, and shapes of the results on one.
        """
        key = tuple(np.shape(leaf) for leaf in jax.tree.leaves(values))
        with self._lock:
            if key not in self._compiled:
                lower = lambda device: self._program.lower(*self._args_of_one(values, device))
                self._compiled[key] = executables_on(self._devices, lower, self._options)
            return self._compiled[key]

    def shapes(self, *values: Any) -> Any:
        """Shapes of the results, as `jax.ShapeDtypeStruct`."""
        out = jax.eval_shape(self._program, *self._args_of_one(values, self._devices[0]))
        stack = lambda a: jax.ShapeDtypeStruct((len(self._devices), *a.shape[1:]), a.dtype)
        return jax.tree.map(stack, out)

    def __call__(self, *values: Any) -> Any:
        """Runs it; arguments and results are stacked over devices (and lanes)."""
        executables, out = self.compile(*values)
        placed = [
            jax.device_put(value, self._lanes if axis == "l" else self._shared)
            for axis, value in zip(self._axes, values, strict=True)
        ]
        # Cut before anything runs, which may delete what it was donated.
        inputs = [jax.tree.leaves(on_device(placed, device)) for device in self._devices]
        # All devices are started before any is waited for.
        results = [run.execute_sharded(i) for run, i in zip(executables, inputs, strict=True)]
        parts = [result.disassemble_into_single_device_arrays() for result in results]
        leaves, structure = jax.tree.flatten(out)
        gathered = [
            jax.make_array_from_single_device_arrays(
                (len(self._devices), *leaf.shape[1:]), self._lanes, [shard for (shard,) in shards]
            )
            for leaf, shards in zip(leaves, zip(*parts, strict=True), strict=True)
        ]
        return jax.tree.unflatten(structure, gathered)

    def _args_of_one(self, values: Sequence[Any], device: jax.Device) -> tuple:
        """Shapes of the arguments of one device."""
        place = SingleDeviceSharding(device)

        def shape(axis: str, leaf: Any) -> jax.ShapeDtypeStruct:
            dims = (1, *np.shape(leaf)[1:]) if axis == "l" else np.shape(leaf)
            return jax.ShapeDtypeStruct(dims, leaf.dtype, sharding=place)

        return tuple(
            jax.tree.map(functools.partial(shape, axis), value)
            for axis, value in zip(self._axes, values, strict=True)
        )


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
