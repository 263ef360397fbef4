"""How far training is from what the machine can do at most: its roofline.

Two roofs, measured on all devices at once: float32 operations of a square matmul, and bytes of a
map that is read from memory and written back. Training cannot be faster than its operations under
the first and its traffic under the second, where its maps do not stay in a cache.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jointnas_jax.nets.cost import count
from jointnas_jax.space import ArchSpec
from jointnas_jax.space.arch import side
from jointnas_jax.train.parallel import parallel

_MATMUL, _MATMULS = 512, 20
# Much larger than any cache.
_STREAMED, _STREAMS = 2**24, 4
_REPEATS = 5
# A training step is worth about three forward passes, a multiply-add two operations.
_STEP = 3


@dataclasses.dataclass(frozen=True)
class Roofline:
    """What all devices together do at most."""

    operations: float  # per second, in float32 matmuls
    traffic: float  # bytes per second, read and written

    @classmethod
    def measured(cls, devices: Sequence[jax.Device]) -> "Roofline":
        """Measures both roofs; takes about a second."""
        square = np.ones((len(devices), _MATMUL, _MATMUL), np.float32) / _MATMUL
        long = np.ones((len(devices), _STREAMED), np.float32)
        matmuls = _seconds(lambda x: x @ x, _MATMULS, square, devices)
        streams = _seconds(lambda x: x * 0.5 + 1.0, _STREAMS, long, devices)
        return cls(
            len(devices) * _MATMULS * 2 * _MATMUL**3 / matmuls,
            len(devices) * _STREAMS * 2 * 4 * _STREAMED / streams,
        )

    def shares(self, archs: Sequence[ArchSpec], batch: int, seconds: float) -> dict[str, float]:
        """What steps reach of both roofs.

        Args:
          archs: networks that train.
          batch: images of a step.
          seconds: mean time of a step of one network, with all devices at work.
        """
        operations = float(np.mean([2 * _STEP * count(arch).macs * batch for arch in archs]))
        traffic = float(np.mean([_STEP * map_bytes(arch) * batch for arch in archs]))
        return {
            "gigaoperations_per_second": operations / seconds / 1e9,
            "of_matmul_roof": operations / seconds / self.operations,
            "gigabytes_per_second": traffic / seconds / 1e9,
            "of_memory_roof": traffic / seconds / self.traffic,
        }


def map_bytes(arch: ArchSpec) -> int:
    """Bytes that a forward pass reads and writes per image, if no map stays in a cache.

    Every convolution reads its input and writes its output once; a BN reads it for its statistics,
    and with the activation reads it again and writes it.
    """
    size = side(arch.resolution, arch.stem.stride)
    values = 4 * arch.stem.channels * size**2
    for block in arch.blocks():
        before, size = size, side(size, block.stride, block.trim)
        wide = block.hidden * before**2 if block.expands else 0
        values += block.in_channels * before**2 + 4 * wide  # expansion and its BN
        values += block.hidden * (before**2 + 5 * size**2)  # depthwise, its BN, projection
        values += 4 * block.out_channels * size**2
    return 4 * (values + (block.out_channels + 4 * arch.head_hidden) * size**2)


def _seconds(
    step: Callable[[jax.Array], jax.Array],
    times: int,
    lanes: np.ndarray,
    devices: Sequence[jax.Device],
) -> float:
    """Median time of so many steps of one lane in a row, on all devices at once."""
    again = lambda x: jax.lax.fori_loop(0, times, lambda _, y: step(y), x)
    program = parallel(again, "l", devices)
    on_devices = jnp.asarray(program(lanes))  # compiles, and leaves the result on the devices
    seconds = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(program(on_devices))
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))
