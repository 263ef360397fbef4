"""Compound scaling: makes a network wider, deeper and finer at once, or the opposite.

The published FBNetV3-A is B at a lower resolution; F and G are E scaled up (arXiv 2006.02049). The
steps in which the three grow are EfficientNet's (arXiv 1905.11946, section 3.3).
"""

import dataclasses

from jointnas_jax.errors import SpaceError
from jointnas_jax.nets.cost import count
from jointnas_jax.space import ArchSpec
from jointnas_jax.space.arch import round8

# Growth of each per step of the compound coefficient; FLOPs about double.
DEPTH, WIDTH, RESOLUTION = 1.2, 1.1, 1.15
_RESOLUTION_STEP = 8
_HALVINGS = 40
_LARGEST_FACTOR = 100


def scale(
    arch: ArchSpec, *, width: float = 1.0, depth: float = 1.0, resolution: float = 1.0
) -> ArchSpec:
    """Returns a network with scaled numbers of channels and blocks and a scaled resolution.

    Args:
      arch: the network.
      width: factor on the channels of stem and stages, rounded to multiples of 8 as in official
        networks; 1 leaves them alone. The head's last width stays, as in the published ones.
      depth: factor on the blocks of a stage, rounded, at least one. Stages of one block stay.
      resolution: factor on the resolution, rounded to a multiple of 8.

    Raises:
      SpaceError: a factor is not above 0 and at most 100, the resolution falls below the network's
        stride, nothing is left of a map, or a size becomes too large.
    """
    if not all(0 < factor <= _LARGEST_FACTOR for factor in (width, depth, resolution)):
        raise SpaceError(
            f"factors must be above 0 and at most {_LARGEST_FACTOR}, got {width}, {depth} and "
            f"{resolution}"
        )
    scaled = _scaled(arch, width=width, depth=depth, resolution=resolution)
    if scaled.resolution < arch.stride:
        raise SpaceError(
            f"`resolution` must be at least the stride {arch.stride}, got {scaled.resolution}"
        )
    scaled.check()
    return scaled


def _scaled(arch: ArchSpec, *, width: float, depth: float, resolution: float) -> ArchSpec:
    wide = lambda channels: channels if width == 1 else round8(channels * width)
    deep = lambda blocks: blocks if blocks == 1 else max(1, round(blocks * depth))
    stages = tuple(
        dataclasses.replace(s, channels=wide(s.channels), depth=deep(s.depth)) for s in arch.stages
    )
    size = arch.resolution
    if resolution != 1:
        size = max(1, round(size * resolution / _RESOLUTION_STEP)) * _RESOLUTION_STEP
    stem = dataclasses.replace(arch.stem, channels=wide(arch.stem.channels))
    return dataclasses.replace(arch, stem=stem, stages=stages, resolution=size)


def scale_to(arch: ArchSpec, flops: int) -> ArchSpec:
    """Scales width, depth and resolution together to just within a number of FLOPs.

    Raises `SpaceError` if the network cannot be made that small, or that large.
    """
    low, high = -20.0, 20.0
    largest = None
    for _ in range(_HALVINGS):
        step = (low + high) / 2
        scaled = _scaled(arch, width=WIDTH**step, depth=DEPTH**step, resolution=RESOLUTION**step)
        if scaled.resolution < arch.stride or min(scaled.sides()) < 1:
            low = step
        elif count(scaled).flops <= flops:
            largest, low = scaled, step
        else:
            high = step
    if largest is None:
        raise SpaceError(f"the network cannot be scaled to {flops:,} FLOPs; it has too many stages")
    # Widths and depths come in steps; the FLOPs left over go into the resolution.
    while True:
        largest.check()
        finer = dataclasses.replace(largest, resolution=largest.resolution + _RESOLUTION_STEP)
        if count(finer).flops > flops:
            return largest
        largest = finer
