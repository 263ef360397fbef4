"""A function of one lane, computed by all devices together."""

import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jointnas_jax.train.parallel import put

_AXIS = "devices"


class DataParallel:
    """One candidate on all devices, also of several processes: each has a part of every batch.

    XLA cuts one program up: what sums over a batch (BN statistics, gradients, the loss) sums over
    all devices, so a training is that of one device to float rounding. `Parallel` has the same
    interface and gives every device a candidate of its own; small networks are better off there.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        axes: str,
        devices: Sequence[jax.Device],
        *,
        options: dict[str, Any] | None = None,
        donate: tuple[int, ...] = (),
    ):
        """Wraps a function, which calls `batch_spread(devices)` for its batches.

        Args:
          function: function of one lane with positional arguments.
          axes: one letter for each argument: `l` has a leading axis of one lane, `b` has the images
            of K steps, `[1, K, B, ...]`, `i` those of one batch, `[B, ...]`, and `s` is shared.
            Each process passes its part of the images, and everything else whole.
          devices: the devices, process by process.
          options: options of XLA.
          donate: arguments that may be overwritten.
        """
        mesh = _mesh(tuple(devices))
        self._everywhere = NamedSharding(mesh, PartitionSpec())
        batches = {"b": PartitionSpec(None, None, _AXIS), "i": PartitionSpec(_AXIS)}
        self._places = [NamedSharding(mesh, batches.get(axis, PartitionSpec())) for axis in axes]

        def on_all(*args: Any) -> Any:
            cut = lambda axis, arg: jax.tree.map(lambda a: a[0], arg) if axis in "lb" else arg
            out = function(*map(cut, axes, args))
            return jax.tree.map(lambda a: a[None], out)

        self._program = jax.jit(
            on_all, keep_unused=True, donate_argnums=donate, out_shardings=self._everywhere
        )
        self._processes = len({device.process_index for device in devices})
        self._options = options or {}
        self._compiled: dict[tuple, Any] = {}
        self._lock = threading.Lock()

    def compile(self, *values: Any) -> Any:
        """Compiles for arguments of these shapes (arrays or `jax.ShapeDtypeStruct`), once."""
        key = tuple(np.shape(leaf) for leaf in jax.tree.leaves(values))
        with self._lock:
            if key not in self._compiled:
                lowered = self._program.lower(*self._shapes(values))
                self._compiled[key] = lowered.compile(compiler_options=self._options)
            return self._compiled[key]

    def __call__(self, *values: Any) -> Any:
        """Runs it; results have the leading axis of one lane and are on every device."""
        program = self.compile(*values)
        return program(*map(self._put, values, self._places))

    def _put(self, value: Any, place: NamedSharding) -> Any:
        if place.is_fully_replicated:
            return put(value, place)
        return jax.tree.map(
            lambda leaf: jax.make_array_from_process_local_data(place, np.asarray(leaf)), value
        )

    def _shapes(self, values: Sequence[Any]) -> tuple:
        def shape(leaf: Any, place: NamedSharding) -> jax.ShapeDtypeStruct:
            """Of what the parts of all processes make up."""
            sizes = list(np.shape(leaf))
            for axis, name in enumerate(place.spec):
                sizes[axis] *= self._processes if name else 1
            return jax.ShapeDtypeStruct(tuple(sizes), leaf.dtype, sharding=place)

        return tuple(
            jax.tree.map(lambda leaf, place=place: shape(leaf, place), value)
            for place, value in zip(self._places, values, strict=True)
        )


def batch_spread(devices: Sequence[jax.Device]) -> Callable[[Any], Any]:
    """Returns a function for use under `jit` that shares the images `[B, ...]` of a batch out.

    A B that the devices do not divide stays whole on each of them.
    """
    place = NamedSharding(_mesh(tuple(devices)), PartitionSpec(_AXIS))

    def spread(batch: Any) -> Any:
        fits = lambda leaf: leaf.ndim > 0 and leaf.shape[0] % len(devices) == 0
        constrain = lambda leaf: jax.lax.with_sharding_constraint(leaf, place)
        return jax.tree.map(lambda leaf: constrain(leaf) if fits(leaf) else leaf, batch)

    return spread


@functools.cache
def _mesh(devices: tuple[jax.Device, ...]) -> Mesh:
    return Mesh(np.array(devices), (_AXIS,))
