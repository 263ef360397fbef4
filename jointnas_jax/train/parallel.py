"""A function of one lane, compiled for all lanes of all devices.

Two ways behind one interface: `Pmapped` on accelerators, `Copied` on CPU; `parallel` chooses.
"""

import abc
import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from jointnas_jax.train.executables import executables_on

_AXIS = "devices"

# JAX makes the shards of an array on the first request, and not for two threads at once: one would
# miss some of them.
_SHARDS = threading.Lock()


class Parallel(abc.ABC):
    """A function of one lane, mapped over lanes: devices, and by `vmap` those of one device."""

    def __init__(
        self,
        function: Callable[..., Any],
        axes: str,
        devices: Sequence[jax.Device],
        *,
        lanes_per_device: int = 1,
        options: dict[str, Any] | None = None,
        donate: tuple[int, ...] = (),
    ):
        """Wraps a function.

        Args:
          function: function of positional arguments.
          axes: one letter for each argument: `l` and `b` differ between lanes (see `DataParallel`
            for `b`), `s` is shared by all.
          devices: the devices.
          lanes_per_device: lanes on each device.
          options: options of XLA.
          donate: arguments that may be overwritten.
        """
        self._mapped = tuple(None if axis == "s" else 0 for axis in axes)
        if lanes_per_device > 1:
            function = jax.vmap(function, in_axes=self._mapped)
        mesh = Mesh(np.array(devices), (_AXIS,))
        self._lanes = NamedSharding(mesh, PartitionSpec(_AXIS))
        self._shared = NamedSharding(mesh, PartitionSpec())
        self._function = function
        self._devices = tuple(devices)
        self._options = options or {}
        self._donate = donate
        self._compiled: dict[tuple, Any] = {}
        self._lock = threading.Lock()

    def compile(self, *values: Any) -> Any:
        """Compiles for arguments of these shapes (arrays or `jax.ShapeDtypeStruct`), once."""
        key = tuple(np.shape(leaf) for leaf in jax.tree.leaves(values))
        with self._lock:
            if key not in self._compiled:
                self._compiled[key] = self._build(values)
            return self._compiled[key]

    def shapes(self, *values: Any) -> Any:
        """Shapes of the results, as `jax.ShapeDtypeStruct`."""
        return jax.eval_shape(jax.vmap(self._function, in_axes=self._mapped), *values)

    def __call__(self, *values: Any) -> Any:
        """Runs it; arguments and results are stacked over devices (and lanes)."""
        program = self.compile(*values)
        # Arrays that are on their devices already are not copied.
        shardings = [self._shared if axis is None else self._lanes for axis in self._mapped]
        return self._run(program, jax.device_put(values, tuple(shardings)))

    @abc.abstractmethod
    def _build(self, values: Sequence[Any]) -> Any:
        """Compiles for arguments of these shapes."""

    @abc.abstractmethod
    def _run(self, program: Any, values: Sequence[Any]) -> Any:
        """Runs a compiled program with arguments that are on the devices."""


class Pmapped(Parallel):
    """One program for all devices, by `jax.pmap`."""

    def _build(self, values: Sequence[Any]) -> Any:
        # A function of leaves, not of trees: jax 0.10 takes the axes of arguments for those of
        # leaves where there happen to be as many of either.
        leaves, structure = jax.tree.flatten(tuple(values))
        owners = [n for n, value in enumerate(values) for _ in jax.tree.leaves(value)]
        program = jax.pmap(
            lambda *leaves: self._function(*jax.tree.unflatten(structure, leaves)),
            _AXIS,  # as in our meshes: arrays sharded by them are where `pmap` needs them
            in_axes=tuple(self._mapped[owner] for owner in owners),
            devices=self._devices,
            donate_argnums=[i for i, owner in enumerate(owners) if owner in self._donate],
        )
        shapes = [jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype) for leaf in leaves]
        return program.lower(*shapes).compile(compiler_options=self._options)

    def _run(self, program: Any, values: Sequence[Any]) -> Any:
        return program(*jax.tree.leaves(values))


class Copied(Parallel):
    """One device's program, compiled once and loaded on every device.

    Its results are the same to the bit on any number of devices. `pmap` makes one module for all
    devices, and XLA:CPU rounds differently in a module for four devices than in one for one.
    """

    def _build(self, values: Sequence[Any]) -> Any:
        def on_one(*args: Any) -> Any:
            """The shard of a device: its first axis is one device long."""
            cut = lambda axis, arg: arg if axis is None else jax.tree.map(lambda a: a[0], arg)
            out = self._function(*map(cut, self._mapped, args))
            return jax.tree.map(lambda a: a[None], out)

        # Unused arguments are kept: the loaded program is called with all of them.
        program = jax.jit(on_one, keep_unused=True, donate_argnums=self._donate)
        lower = lambda device: program.lower(*self._args_of_one(values, device))
        return executables_on(self._devices, lower, self._options)

    def _run(self, program: Any, values: Sequence[Any]) -> Any:
        executables, out = program
        # Cut before anything runs, which may delete donated arrays.
        inputs = [jax.tree.leaves(on_device(values, device)) for device in self._devices]
        # All devices start before the wait for the first.
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
        sharding = SingleDeviceSharding(device)

        def shape(axis: int | None, leaf: Any) -> jax.ShapeDtypeStruct:
            dims = np.shape(leaf) if axis is None else (1, *np.shape(leaf)[1:])
            return jax.ShapeDtypeStruct(dims, leaf.dtype, sharding=sharding)

        return tuple(
            jax.tree.map(functools.partial(shape, axis), value)
            for axis, value in zip(self._mapped, values, strict=True)
        )


def parallel(
    function: Callable[..., Any], axes: str, devices: Sequence[jax.Device], **settings: Any
) -> Parallel:
    """Maps a function over lanes in the way that suits the devices; see `Parallel`."""
    return way_of(devices[0].platform)(function, axes, devices, **settings)


def way_of(platform: str) -> type[Parallel]:
    """The way for the devices of a platform."""
    return Copied if platform == "cpu" else Pmapped


def replicate(tree: Any, devices: Sequence[jax.Device]) -> Any:
    """Puts arrays on every device once; programs on these devices read them where they are."""
    mesh = Mesh(np.array(devices), (_AXIS,))
    return put(tree, NamedSharding(mesh, PartitionSpec()))


def put(tree: Any, sharding: NamedSharding) -> Any:
    """Puts arrays on devices; each process puts on its own what all of them have alike."""
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def one(leaf: Any) -> jax.Array:
        if isinstance(leaf, jax.Array) and leaf.sharding == sharding:
            return leaf
        array = np.asarray(leaf)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(one, tree)


def on_device(tree: Any, device: jax.Device) -> Any:
    """The arrays of `replicate` on one of its devices, without a copy."""
    with _SHARDS:
        return jax.tree.map(
            lambda a: next(s.data for s in a.addressable_shards if s.device == device), tree
        )
