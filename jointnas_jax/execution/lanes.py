"""How many candidates train at once on a device.

The number of lanes is part of a program's shape, and the number of candidates of a shape differs
from round to round. So a shape keeps to few numbers, and lanes that are too many are filled up.
"""

from collections.abc import Callable

from jointnas_jax.execution.hardware import Hardware
from jointnas_jax.execution.packing import Shape

# Share of a device's memory that images and lanes may fill.
_MEMORY_SHARE = 0.8
# So many times the lanes are worth another compilation.
_GROWTH = 4


class LaneCounts:
    """The numbers of lanes of all shapes; those of a shape are at least `_GROWTH` times apart."""

    def __init__(self, most: Callable[[Shape], int]):
        """Creates the counts; `most` returns the lanes of a shape that fit on a device."""
        self._most = most
        self._lanes: dict[Shape, list[int]] = {}
        self._limits: dict[Shape, int] = {}

    def of(self, shape: Shape, wanted: int) -> int:
        """Lanes of the program that trains `wanted` candidates of a shape on a device."""
        used = self._lanes.setdefault(shape, [])
        if enough := [lanes for lanes in used if lanes >= wanted]:
            return min(enough)
        # Some more than are wanted: the next round may bring a few more.
        lanes = min(1 << (wanted - 1).bit_length(), self.most(shape))
        if used and lanes < _GROWTH * max(used):
            return max(used)
        used.append(lanes)
        return lanes

    def most(self, shape: Shape) -> int:
        """Lanes that fit on a device, by the memory model and by what did not fit so far."""
        return min(self._most(shape), self._limits.get(shape, self._most(shape)))

    def limit(self, shape: Shape, lanes: int) -> None:
        """Remembers that more lanes than these did not fit: no later pack tries more."""
        self._limits[shape] = lanes
        self._lanes[shape] = [n for n in self._lanes.get(shape, []) if n < lanes] + [lanes]


def lanes_that_fit(hardware: Hardware, shape: Shape, batch: int) -> int:
    """Lanes that fit in a device's memory, at least 1; 1 on CPU: more fall out of its caches.

    Args:
      hardware: devices to train on.
      shape: shape of the networks.
      batch: images of a step.
    """
    if hardware.platform == "cpu" or not hardware.memory:
        return 1
    lane = hardware.training_bytes(shape, batch)
    return max(1, int((_MEMORY_SHARE * hardware.memory - hardware.taken) / lane))
