"""Which candidates train in which program.

Candidates that agree in everything an envelope cannot vary (resolution, strides, activations:
their *frame*) can share one. The envelopes of a frame divide the space, not only the candidates at
hand, so that no later candidate needs another program. Where padding costs more than compiling does
(large networks, long training), candidates run in exact programs of their own.
"""

import dataclasses
import functools
from collections.abc import Hashable, Mapping, Sequence

from jointnas_jax.execution.cost_model import Machine, Speed
from jointnas_jax.nets.cost import count
from jointnas_jax.nets.envelope import Envelope, Ranges, is_free, ranges_of
from jointnas_jax.nets.tiled import tiles
from jointnas_jax.space import ArchSpec, JointSpace
from jointnas_jax.space.arch import side

Shape = ArchSpec | Envelope
Frame = tuple[tuple[str, object], ...]

# A training step is worth about three forward passes, a multiply-add two operations.
_OPERATIONS_PER_MAC = 6
# CPU devices that a plan is for, however many there are: last bits differ between programs, and a
# study shall have the same trials on any number. What the devices share is the cores, so it costs
# little; the constants of `execution/cost_model.py` are of two.
_CPU_DEVICES = 2
# Envelopes of a frame, at most.
_MOST_ENVELOPES = 4
# Architectures of a frame that are looked at to choose its envelopes.
_SAMPLE = 24


@dataclasses.dataclass(frozen=True)
class Work:
    """One training to plan.

    Attributes:
      arch: the architecture.
      steps: of the training.
      kind: trainings of other kinds cannot train side by side.
    """

    arch: ArchSpec
    steps: int
    kind: Hashable = None


@dataclasses.dataclass(frozen=True)
class Pack:
    """Trainings that share a program.

    Attributes:
      shape: of the program.
      members: positions of the trainings in what was planned.
    """

    shape: Shape
    members: tuple[int, ...]


class Planner:
    """Chooses the envelopes of a space as its frames come up, and keeps to them.

    Attributes:
      envelopes: chosen so far, by frame; none where exact programs are cheaper.
    """

    def __init__(
        self,
        space: JointSpace,
        machine: Machine,
        devices: int,
        batch: int,
        tiled: bool,
        program: str = "auto",
        sample: Sequence[ArchSpec] = (),
    ):
        """Creates a planner.

        Args:
          space: all candidates that may come.
          machine: what compiling and training cost.
          devices: that train side by side; makes no difference where envelopes are tiled (CPU).
          batch: images of a step.
          tiled: whether envelopes compute true channels only, see `nets/tiled.py`.
          program: `auto`, `envelope` or `exact`.
          sample: architectures like those that will come; none: like the first that come.
        """
        self.envelopes: dict[Frame, list[Envelope]] = {}
        self._space, self._machine = space, machine
        self._devices = _CPU_DEVICES if tiled else devices
        self._batch, self._tiled, self._program = batch, tiled, program
        self._sample = sample

    def plan(self, works: Sequence[Work], later: int = 0) -> list[Pack]:
        """Divides trainings into packs.

        Args:
          works: the trainings.
          later: how many trainings like these will follow.
        """
        by_frame: dict[Frame, list[int]] = {}
        for index, work in enumerate(works):
            by_frame.setdefault(frame(work.arch), []).append(index)
        packs: dict[Shape, list[int]] = {}
        for key, indices in by_frame.items():
            own = [works[i] for i in indices]
            if key not in self.envelopes:
                self.envelopes[key] = self._choose(own, 1 + later / len(works))
            envelopes = self.envelopes[key]
            homes: dict[ArchSpec, Shape] = {
                arch: next((e for e in envelopes if e.holds(arch)), arch)
                for arch in {w.arch for w in own}
            }
            long = self._worth_exact(own, homes)
            for index in indices:
                arch = works[index].arch
                packs.setdefault(arch if arch in long else homes[arch], []).append(index)
        return [Pack(shape, tuple(indices)) for shape, indices in packs.items()]

    def _worth_exact(self, works: Sequence[Work], homes: Mapping[ArchSpec, Shape]) -> set[ArchSpec]:
        """Architectures that train so long here that a program of their own takes less time."""
        if self._program == "envelope":
            return set()
        gains: dict[ArchSpec, float] = {}
        for work in works:
            arch = work.arch
            gain = self._train_seconds(homes[arch], work) - self._train_seconds(arch, work)
            gains[arch] = gains.get(arch, 0.0) + gain
        return {arch for arch, gain in gains.items() if gain > self._compile_seconds(arch)}

    def efficiency(self, works: Sequence[Work], packs: Sequence[Pack]) -> float:
        """Useful over executed multiply-adds of a plan."""
        useful = sum(count(w.arch).macs * w.steps for w in works)
        executed = sum(
            self.macs(pack.shape, works[i].arch) * works[i].steps
            for pack in packs
            for i in pack.members
        )
        return useful / executed

    def _choose(self, works: Sequence[Work], repeats: float) -> list[Envelope]:
        """The envelopes of a frame.

        Starts with one for all of it, and divides or drops parts of the space while that saves more
        than it costs: a part costs a compilation and its padding, what is in no part is compiled
        one by one.
        """
        if self._program == "exact" or self._only_exact(works):
            return []
        whole = ranges_of(self._space, works[0].arch)
        steps = sum(w.steps for w in works) // len(works)
        key = frame(works[0].arch)
        # What comes later looks like the sample; a few candidates say little about where it lies.
        archs = [a for a in self._sample if frame(a) == key] or [w.arch for w in works]
        inside = [a for a in archs if self._envelope(whole).holds(a)][:_SAMPLE]
        if not inside:
            return []
        each = [Work(arch, steps) for arch in inside]
        weight = len(works) * repeats / len(inside)
        alone = [
            (self._train_seconds(w.arch, w) + self._compile_seconds(w.arch))
            * (weight / self._devices)
            for w in each
        ]
        slots = [w.arch.to_slots() for w in each]
        known: dict[tuple, tuple[float, float, frozenset[int]]] = {}

        def priced(part: Ranges) -> tuple[float, float, frozenset[int]]:
            """Seconds that a part trains and compiles, and which of the sample it holds."""
            name = tuple(part.items())
            if name not in known:
                holds = lambda own: all(own[slot] in values for slot, values in part.items())
                held = [i for i, own in enumerate(slots) if holds(own)]
                envelope = self._envelope(part)
                seconds = sum(self._train_seconds(envelope, each[i]) for i in held)
                seconds *= weight / self._devices
                known[name] = seconds, self._compile_seconds(envelope), frozenset(held)
            return known[name]

        def cost(parts: Sequence[Ranges]) -> float:
            training, compiling, holds = (
                zip(*map(priced, parts), strict=True) if parts else [()] * 3
            )
            held = frozenset().union(*holds)
            left = sum(seconds for i, seconds in enumerate(alone) if i not in held)
            # Side by side. On CPU that gains nothing to count on: the devices are the cores, and
            # one compilation alone keeps several of them busy.
            at_once = 1 if self._tiled else self._devices
            together = max(max(compiling, default=0.0), sum(compiling) / at_once)
            return left + sum(training) + together

        may_drop = self._program == "auto"
        parts, best = [whole], cost([whole])
        while True:
            options = [
                [*parts[:i], *pieces, *parts[i + 1 :]]
                for i, part in enumerate(parts)
                for low, high in _cuts(part)
                for pieces in ([low, high], *([[low], [high]] if may_drop else []))
            ]
            options += [[]] if may_drop else []
            fitting = (option for option in options if len(option) <= _MOST_ENVELOPES)
            found = min(fitting, key=cost, default=parts)
            if (seconds := cost(found)) >= best:
                return [self._envelope(part) for part in parts]
            parts, best = found, seconds

    def _only_exact(self, works: Sequence[Work]) -> bool:
        """Whether no envelope can serve, or there is one architecture alone."""
        trimmed = any(stage.trim for stage in works[0].arch.stages)  # tiles know no such padding
        return trimmed or len({w.arch for w in works}) == 1 == self._space.arch_size

    def _envelope(self, ranges: Ranges) -> Envelope:
        return Envelope.of(ranges, self._space.image_channels, self._space.num_classes)

    def _speed(self, shape: Shape) -> Speed:
        return self._machine.envelope if isinstance(shape, Envelope) else self._machine.exact

    def _compile_seconds(self, shape: Shape) -> float:
        speed = self._speed(shape)
        return speed.compile_fixed + speed.compile_block * sum(1 for _ in shape.blocks())

    def _train_seconds(self, shape: Shape, work: Work) -> float:
        operations = self.macs(shape, work.arch) * self._batch * _OPERATIONS_PER_MAC
        blocks = sum(1 for _ in work.arch.blocks())
        overhead = blocks * self._speed(shape).step_block
        return work.steps * (operations / self._machine.rate + overhead)

    def seconds(self, shape: Shape, work: Work) -> tuple[float, float]:
        """Seconds that compiling a program takes, and a training in it on one device."""
        return self._compile_seconds(shape), self._train_seconds(shape, work)

    def macs(self, shape: Shape, arch: ArchSpec) -> int:
        """Multiply-adds that a forward pass of an architecture executes per image."""
        return executed_macs(shape, arch, self._batch if self._tiled else 0)


def executed_macs(shape: Shape, arch: ArchSpec, tile_batch: int) -> int:
    """Multiply-adds of one forward pass of an architecture in a shape, per image.

    Args:
      shape: of the program.
      arch: inside of it.
      tile_batch: images of a step, where envelopes run in tiles; else 0.
    """
    if shape == arch:
        return count(arch).macs
    own = _hidden(arch)
    size = side(shape.resolution, shape.stem.stride)
    stem = shape.stem
    total = stem.kernel**2 * shape.image_channels * stem.channels * size**2
    for block in shape.blocks():
        before, size = size, side(size, block.stride, block.trim)
        hidden = block.hidden
        if tile_batch:
            true = own.get(block.name, 0)
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


def frame(arch: ArchSpec) -> Frame:
    """What architectures must agree on to share an envelope."""
    fixed = tuple((slot, value) for slot, value in arch.to_slots().items() if not is_free(slot))
    return (*fixed, ("image_channels", arch.image_channels), ("num_classes", arch.num_classes))


def _cuts(ranges: Ranges) -> list[tuple[Ranges, Ranges]]:
    """All ways to cut a part of the space in two, between two values of one knob."""
    return [
        (ranges | {slot: values[:i]}, ranges | {slot: values[i:]})
        for slot, values in ranges.items()
        for i in range(1, len(values))
    ]
