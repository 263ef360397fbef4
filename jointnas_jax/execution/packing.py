"""Which candidates train in which program.

Candidates that agree in everything an envelope cannot vary (resolution, strides, activations:
their *frame*) can share one. The envelopes of a frame divide the space, not only the candidates at
hand, so that no later candidate needs another program. Where padding costs more than compiling does
(large networks, long training), candidates run in exact programs of their own.
"""

import collections
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence

from jointnas_jax.execution.cost_model import CostModel, Speed
from jointnas_jax.nets.cost import count, map_values
from jointnas_jax.nets.envelope import Envelope, Ranges, is_free, ranges_of
from jointnas_jax.nets.tiled import tiles
from jointnas_jax.space import ArchSpec, JointSpace
from jointnas_jax.space.arch import side

Shape = ArchSpec | Envelope
Frame = tuple[tuple[str, object], ...]

# A training step is worth about three forward passes, a multiply-add two operations.
OPERATIONS_PER_MAC = 6
# CPU devices that packs are for, however many there are: last bits differ between programs, and a
# study shall have the same trials on any number. What the devices share is the cores, so it costs
# little; the constants of `execution/cost_model.py` are of two.
_CPU_DEVICES = 2
# Envelopes of a frame, at most.
_MOST_ENVELOPES = 4
# Architectures of a frame that are looked at to choose its envelopes.
_SAMPLE = 24


class Packer:
    """Chooses the envelopes of a space as its frames come up, and keeps to them.

    Attributes:
      envelopes: chosen so far, by frame; none where exact programs are cheaper.
    """

    def __init__(
        self,
        space: JointSpace,
        cost_model: CostModel,
        *,
        devices: int,
        batch: int,
        tiled: bool,
        program: str = "auto",
        sample: Sequence[ArchSpec] = (),
        lanes: Callable[[Shape], int] = lambda shape: 1,
    ):
        """Creates a packer.

        Args:
          space: all candidates that may come.
          cost_model: what compiling and training cost.
          devices: that train side by side; makes no difference where envelopes are tiled (CPU).
          batch: images of a step.
          tiled: whether envelopes compute true channels only, see `nets/tiled.py`.
          program: `auto`, `envelope` or `exact`.
          sample: architectures like those that will come; none: like the first that come.
          lanes: of a shape on a device, at most.
        """
        self.envelopes: dict[Frame, list[Envelope]] = {}
        self._space = space
        self._cost_model = cost_model
        self._devices = _CPU_DEVICES if tiled else devices
        self._batch = batch
        self._tiled = tiled
        self._program = program
        self._sample = sample
        self._most_lanes = lanes

    def pack(
        self, archs: Sequence[ArchSpec], steps: Sequence[int], later: int = 0
    ) -> dict[Shape, list[int]]:
        """Divides N trainings into packs.

        Args:
          archs: N architectures.
          steps: N numbers of training steps.
          later: how many trainings like these will follow.

        Returns:
          Shape of each program -> positions of its trainings.
        """
        by_frame: dict[Frame, list[int]] = {}
        for index, arch in enumerate(archs):
            by_frame.setdefault(frame(arch), []).append(index)
        packs: dict[Shape, list[int]] = {}
        for key, indices in by_frame.items():
            some = [archs[i] for i in indices]
            lengths = [steps[i] for i in indices]
            if key not in self.envelopes:
                self.envelopes[key] = self._choose(some, lengths, 1 + later / len(archs))
            envelopes = self.envelopes[key]
            homes: dict[ArchSpec, Shape] = {
                arch: next((e for e in envelopes if e.holds(arch)), arch) for arch in set(some)
            }
            long = self._worth_exact(some, lengths, homes)
            for index, arch in zip(indices, some, strict=True):
                packs.setdefault(arch if arch in long else homes[arch], []).append(index)
        return packs

    def _worth_exact(
        self, archs: Sequence[ArchSpec], steps: Sequence[int], homes: Mapping[ArchSpec, Shape]
    ) -> set[ArchSpec]:
        """Architectures that train so long here that a program of their own takes less time."""
        if self._program == "envelope":
            return set()
        gains: dict[ArchSpec, float] = {}
        sizes = collections.Counter(homes[arch] for arch in archs)
        for arch, length in zip(archs, steps, strict=True):
            home = homes[arch]
            lanes = self._lanes(home, sizes[home])
            padded = self.train_seconds(home, arch, length, lanes)
            gain = padded - self.train_seconds(arch, arch, length)
            gains[arch] = gains.get(arch, 0.0) + gain
        return {arch for arch, gain in gains.items() if gain > self.compile_seconds(arch)}

    def _choose(
        self, archs: Sequence[ArchSpec], lengths: Sequence[int], repeats: float
    ) -> list[Envelope]:
        """The envelopes of a frame.

        Starts with one for all of it, and divides or drops parts of the space while that saves more
        than it costs: a part costs a compilation and its padding, what is in no part is compiled
        one by one.
        """
        if self._program == "exact" or self._only_exact(archs):
            return []
        whole = ranges_of(self._space, archs[0])
        steps = sum(lengths) // len(lengths)
        key = frame(archs[0])
        # What comes later looks like the sample; a few candidates say little about where it lies.
        likely = [a for a in self._sample if frame(a) == key] or archs
        inside = [a for a in likely if self._envelope(whole).holds(a)][:_SAMPLE]
        if not inside:
            return []
        weight = len(archs) * repeats / len(inside)
        alone = [
            (self.train_seconds(arch, arch, steps) + self.compile_seconds(arch))
            * (weight / self._devices)
            for arch in inside
        ]
        slots = [arch.to_slots() for arch in inside]
        prices: dict[tuple, tuple[float, float, frozenset[int]]] = {}

        def price(part: Ranges) -> tuple[float, float, frozenset[int]]:
            """Seconds that a part trains and compiles, and which of the sample it holds."""
            name = tuple(part.items())
            if name not in prices:
                held = [
                    i
                    for i, row in enumerate(slots)
                    if all(row[slot] in values for slot, values in part.items())
                ]
                envelope = self._envelope(part)
                # So many train at once, as later ones come in rounds like this.
                lanes = self._lanes(envelope, len(held) * len(archs) // len(inside))
                seconds = sum(self.train_seconds(envelope, inside[i], steps, lanes) for i in held)
                seconds *= weight / self._devices
                prices[name] = seconds, self.compile_seconds(envelope, lanes), frozenset(held)
            return prices[name]

        def cost(parts: Sequence[Ranges]) -> float:
            priced = [price(part) for part in parts]
            held = frozenset[int]().union(*(held for *_, held in priced))
            left = sum(seconds for i, seconds in enumerate(alone) if i not in held)
            # Side by side. On CPU that gains nothing to count on: the devices are the cores, and
            # one compilation alone keeps several of them busy.
            at_once = 1 if self._tiled else self._devices
            compiling = [seconds for _, seconds, _ in priced]
            together = max(max(compiling, default=0.0), sum(compiling) / at_once)
            return left + sum(training for training, *_ in priced) + together

        may_drop = self._program == "auto"
        parts: list[Ranges] = [whole]
        best = cost(parts)
        while True:
            options = [
                [*parts[:i], *pieces, *parts[i + 1 :]]
                for i, part in enumerate(parts)
                for low, high in _cuts(part)
                for pieces in ([low, high], *([[low], [high]] if may_drop else []))
            ]
            options += [[]] if may_drop else []
            fitting = (option for option in options if len(option) <= _MOST_ENVELOPES)
            cheapest = min(fitting, key=cost, default=parts)
            if (seconds := cost(cheapest)) >= best:
                return [self._envelope(part) for part in parts]
            parts, best = cheapest, seconds

    def _only_exact(self, archs: Sequence[ArchSpec]) -> bool:
        """Whether no envelope can serve, or there is one architecture alone."""
        trimmed = any(stage.trim for stage in archs[0].stages)  # tiles know no such padding
        return trimmed or len(set(archs)) == 1 == self._space.arch_size

    def _envelope(self, ranges: Ranges) -> Envelope:
        return Envelope.of(ranges, self._space.image_channels, self._space.num_classes)

    def _speed(self, shape: Shape) -> Speed:
        model = self._cost_model
        return model.envelope if isinstance(shape, Envelope) else model.exact

    def _lanes(self, shape: Shape, candidates: int) -> int:
        """Lanes in which so many candidates train on the devices."""
        return max(1, min(-(-candidates // self._devices), self._most_lanes(shape)))

    def compile_seconds(self, shape: Shape, lanes: int = 1) -> float:
        """Seconds that compiling a program takes."""
        speed, model = self._speed(shape), self._cost_model
        blocks: float = sum(1 for _ in shape.blocks())
        if model.growth:
            blocks *= (lanes * self._values(shape) / blocks / 1e6) ** model.growth
        return speed.compile_fixed + speed.compile_block * blocks

    def train_seconds(self, shape: Shape, arch: ArchSpec, steps: int, lanes: int = 1) -> float:
        """Seconds that a training takes on one device, of a program of so many lanes."""
        speed = self._speed(shape)
        operations = self.macs(shape, arch) * self._batch * OPERATIONS_PER_MAC
        own = operations / self._cost_model.rate
        if speed.value:
            own += self._values(shape) * speed.value
        # Tiles leave out absent blocks.
        blocks = sum(1 for _ in (arch if self._tiled else shape).blocks())
        return steps * (own + (speed.step_fixed + blocks * speed.step_block) / lanes)

    def _values(self, shape: Shape) -> int:
        """Values of the maps of a step in a lane."""
        return map_values(shape, self._cost_model.tile) * self._batch

    def macs(self, shape: Shape, arch: ArchSpec) -> int:
        """Multiply-adds that a forward pass of an architecture executes per image."""
        return executed_macs(shape, arch, self._batch if self._tiled else 0)


def executed_macs(shape: Shape, arch: ArchSpec, tile_batch: int) -> int:
    """Multiply-adds of one forward pass of an architecture in a shape, per image.

    Args:
      shape: shape of the program.
      arch: inside of it.
      tile_batch: images of a step, where envelopes run in tiles; else 0.
    """
    if shape == arch:
        return count(arch).macs
    widths = _hidden(arch)
    size = side(shape.resolution, shape.stem.stride)
    stem = shape.stem
    total = stem.kernel**2 * shape.image_channels * stem.channels * size**2
    for block in shape.blocks():
        before, size = size, side(size, block.stride, block.trim)
        hidden = block.hidden
        if tile_batch:
            true = widths.get(block.name, 0)
            width, _ = tiles(block.hidden, before**2 * tile_batch)
            hidden = -(-true // width) * width
        expand = block.in_channels * before**2 if block.expands else 0
        rest = (block.kernel**2 + block.out_channels) * size**2
        total += hidden * (expand + rest) + 2 * hidden * block.se_channels
        out = block.out_channels
    head = shape.head.channels * (shape.head_hidden + shape.num_classes)
    return total + out * shape.head_hidden * size**2 + head


@functools.lru_cache(maxsize=1024)
def _hidden(arch: ArchSpec) -> dict[str, int]:
    """Width of every block after expansion, by the block's name."""
    return {block.name: block.hidden for block in arch.blocks()}


def pack_name(shape: Shape) -> str:
    """What a trial calls the pack that it trained in."""
    if not isinstance(shape, Envelope):
        return "exact"
    return "envelope-" + hashlib.sha256(repr(shape).encode()).hexdigest()[:8]


def frame(arch: ArchSpec) -> Frame:
    """What architectures must agree on to share an envelope."""
    fixed = tuple((slot, value) for slot, value in arch.to_slots().items() if not is_free(slot))
    return (*fixed, ("image_channels", arch.image_channels), ("num_classes", arch.num_classes))


def _cuts(ranges: Ranges) -> list[tuple[Ranges, Ranges]]:
    """All ways to cut a part of the space in two, between two values of one knob."""
    return [
        ({**ranges, slot: values[:i]}, {**ranges, slot: values[i:]})
        for slot, values in ranges.items()
        for i in range(1, len(values))
    ]
