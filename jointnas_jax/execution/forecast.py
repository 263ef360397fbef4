"""What trainings will take, before any runs: programs, operations, memory and time.

Batches of trainings are divided, packed and queued as the evaluator does it, with the times that
the planner goes by. What only the search will know is left out: the early-stop rule, failures, and
which candidates come after the first round.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax

from jointnas_jax.config import Config
from jointnas_jax.execution.cost_model import Machine
from jointnas_jax.execution.hardware import most_lanes, shares_batches, value_bytes
from jointnas_jax.execution.lanes import LaneCounts
from jointnas_jax.execution.packing import Pack, Planner, Shape, Work
from jointnas_jax.nets.cost import count, inference_bytes, training_bytes
from jointnas_jax.nets.envelope import Envelope
from jointnas_jax.space import ArchSpec

# A training program is two to XLA: an epoch, and the accuracy after it.
_XLA_PROGRAMS = 2
_OVERHEAD = 10  # seconds of imports, pretraining, fits, evolution
# Operations of a multiply-add: forward alone, and in training, whose step is three forward passes.
_FORWARD, _TRAINING = 2, 6


@dataclasses.dataclass(frozen=True)
class Batch:
    """Trainings that the evaluator gets at once.

    Attributes:
      archs: one of each.
      epochs: of each.
      images: that one epoch trains on.
      final: trained on all images, with the teacher if there is one.
      stage: of the study, "" outside of one.
    """

    archs: Sequence[ArchSpec]
    epochs: int
    images: int
    final: bool = False
    stage: str = ""


@dataclasses.dataclass(frozen=True)
class Forecast:
    """What trainings take, roughly.

    Attributes:
      envelopes: programs that are compiled for several architectures.
      exact: programs that are compiled for one.
      useful: operations of all trainings, if none stops early.
      executed: operations with the padding of envelopes.
      memory: bytes that a device needs at most: maps, weights, teacher, resident images.
      seconds: wall time.
      devices: that train.
      parts: of each batch, seconds of compiling and of training.
    """

    envelopes: int
    exact: int
    useful: float
    executed: float
    memory: int
    seconds: float
    devices: int
    parts: tuple[tuple[float, float], ...] = ()

    @property
    def programs(self) -> int:
        """Programs that are compiled to train in."""
        return self.envelopes + self.exact

    @property
    def device_hours(self) -> float:
        """Hours of all devices together."""
        return self.devices * self.seconds / 3600

    def lines(self) -> dict[str, str]:
        """The forecast for people, by name."""
        hours = self.seconds / 3600
        time = f"{60 * hours:.1f} minutes" if hours < 2 else f"{hours:,.1f} hours"
        return {
            "programs": f"{self.programs} to train in ({self.envelopes} envelopes, {self.exact} "
            f"exact), {_XLA_PROGRAMS * self.programs} for XLA",
            "training FLOPs": f"{self.useful:.2g} useful, {self.executed:.2g} executed",
            "memory": f"{self.memory / 1e9:.2g} GB per device in training (rough)",
            "estimated time": f"{time} on {self.devices} devices, "
            f"{self.device_hours:,.2g} device-hours (rough)",
        }


def forecast(
    config: Config,
    machine: Machine,
    planner: Planner,
    devices: Sequence[jax.Device],
    batches: Sequence[Batch],
    resident: int = 0,
    teacher: ArchSpec | None = None,
) -> Forecast:
    """Adds up what batches of trainings take, one after the other.

    Args:
      config: of training.
      machine: what compiling and training cost.
      planner: not used before.
      devices: that train.
      batches: in order.
      resident: bytes of images that stay on every device.
      teacher: that final trainings learn from.
    """
    counter = Counter(config, machine, planner, tuple(devices), resident, teacher)
    left, parts = sum(len(batch.archs) for batch in batches), []
    for batch in batches:
        left -= len(batch.archs)
        parts.append(counter.add(batch, left))
    shapes = [name[0] for name in counter.programs]
    envelopes = sum(isinstance(shape, Envelope) for shape in shapes)
    return Forecast(
        envelopes,
        len(shapes) - envelopes,
        counter.useful,
        counter.executed,
        max(counter.programs.values()) + resident,
        counter.seconds + _OVERHEAD,
        len(devices),
        tuple(parts),
    )


class _Group(NamedTuple):
    """Trainings in one program.

    Attributes:
      shape: of the program.
      works: the trainings.
      teacher: that they learn from.
    """

    shape: Shape
    works: Sequence[Work]
    teacher: ArchSpec | None


def _side_by_side(seconds: Sequence[float], workers: int) -> float:
    """Wall time of tasks that so many workers take one after the other."""
    busy = [0.0] * workers
    for task in seconds:
        busy[busy.index(min(busy))] += task
    return max(busy)


class Counter:
    """Counts while batches come; mirrors `Evaluator.completed`.

    Attributes:
      programs: name of each program -> bytes that it needs on a device.
      useful, executed: see `Forecast`.
      compiling, training: seconds of wall time so far.
    """

    def __init__(
        self,
        config: Config,
        machine: Machine,
        planner: Planner,
        devices: tuple[jax.Device, ...],
        resident: int,
        teacher: ArchSpec | None,
    ):
        self._train, self._planner, self._devices = config.train, planner, devices
        most = lambda shape: most_lanes(config.train, devices[0], shape, resident)
        self._lane_counts = LaneCounts(most)
        self._rate, self._teacher = machine.rate, teacher
        self.programs: dict[tuple, int] = {}
        self.useful = self.executed = self.compiling = self.training = 0.0

    @property
    def seconds(self) -> float:
        """Wall time so far."""
        return self.compiling + self.training

    def add(self, batch: Batch, later: int) -> tuple[float, float]:
        """Counts a batch that so many trainings will follow; returns as `add_packs` does."""
        # Less than a batch does not train; that there is no more, the plan says beside this.
        steps = max(1, batch.images // self._train.batch_size) * batch.epochs
        works = [Work(arch, steps) for arch in batch.archs]
        together = shares_batches(self._train, self._devices, len(works))
        if together:
            packs = [Pack(work.arch, (i,)) for i, work in enumerate(works)]
        else:
            packs = self._planner.plan(works, later)
        return self.add_packs(works, packs, together, batch.final)

    def add_packs(
        self, works: Sequence[Work], packs: Sequence[Pack], together: bool, final: bool
    ) -> tuple[float, float]:
        """Counts packs of trainings; returns the seconds that compiling and training them take."""
        before, teacher = (self.compiling, self.training), self._teacher if final else None
        self._add_operations(works, packs, teacher)
        groups = [_Group(pack.shape, [works[i] for i in pack.members], teacher) for pack in packs]
        shared = [g for g in groups if isinstance(g.shape, Envelope)]
        exact = [g for g in groups if not isinstance(g.shape, Envelope)]
        self._add_shared(shared)
        if together or len(exact) < len(self._devices):
            for group in exact:
                self.compiling += self._compile(group, None, together)
                self.training += self._train_all(group, None, together)
        else:
            self._add_exact(exact)
        return self.compiling - before[0], self.training - before[1]

    def _add_shared(self, groups: Sequence[_Group]) -> None:
        """One after the other on all devices; they are compiled before, side by side."""
        compiling = [self._compile(group, None) for group in groups]
        self.compiling += _side_by_side(compiling, len(self._devices))
        self.training += sum(self._train_all(group, None) for group in groups)

    def _add_exact(self, groups: Sequence[_Group]) -> None:
        """A worker for each device takes one after the other, and helps the others in the end."""
        devices = len(self._devices)
        busy = [(0.0, 0.0)] * devices  # compiling, training
        for group in sorted(groups, key=lambda g: -count(g.shape).macs * len(g.works)):
            homes = {name[1] for name in self.programs if name[0] == group.shape} - {None}
            device = min(homes, default=min(range(devices), key=lambda d: sum(busy[d])))
            compiling, training = busy[device]
            compiling += self._compile(group, device)
            busy[device] = compiling, training + self._train_all(group, device)
        longest = max(self._train_seconds(g.shape, w, g.teacher) for g in groups for w in g.works)
        # Whoever helps loads a program and can come a training too late: say half of one.
        shared = sum(map(sum, busy)) / devices + longest / 2
        alone = max(map(sum, busy))
        compiling = sum(own for own, _ in busy) / devices
        self.compiling += compiling
        self.training += min(alone, shared) - compiling

    def _add_operations(
        self, works: Sequence[Work], packs: Sequence[Pack], teacher: ArchSpec | None
    ) -> None:
        answers = _FORWARD * count(teacher).macs if teacher else 0
        for pack in packs:
            for work in (works[i] for i in pack.members):
                images = work.steps * self._train.batch_size
                executed = self._planner.macs(pack.shape, work.arch)
                self.useful += images * (_TRAINING * count(work.arch).macs + answers)
                self.executed += images * (_TRAINING * executed + answers)

    def _lanes(self, group: _Group, device: int | None, together: bool) -> int:
        devices = len(self._devices) if device is None else 1
        return 1 if together else self._lane_counts.of(group.shape, -(-len(group.works) // devices))

    def _compile(self, group: _Group, device: int | None, together: bool = False) -> float:
        """Seconds to compile the program for a group on a device (None: on all), once."""
        lanes = self._lanes(group, device, together)
        name = (group.shape, device, lanes, together, group.teacher)
        if name in self.programs:
            return 0.0
        self.programs[name] = self._bytes(group.shape, lanes, together, group.teacher)
        return self._planner.seconds(group.shape, group.works[0])[0]

    def _train_all(self, group: _Group, device: int | None, together: bool = False) -> float:
        """Wall time of the trainings of a group."""
        lanes = self._lanes(group, device, together)
        devices = len(self._devices) if device is None else 1
        alone = [self._train_seconds(group.shape, work, group.teacher) for work in group.works]
        if together:
            return sum(alone) / devices
        # Lanes wait for each other: so those that train at once take about as long.
        return lanes * sum(sorted(alone, reverse=True)[:: lanes * devices])

    def _train_seconds(self, shape: Shape, work: Work, teacher: ArchSpec | None) -> float:
        seconds = self._planner.seconds(shape, work)[1]
        if teacher:
            images = work.steps * self._train.batch_size
            seconds += images * _FORWARD * count(teacher).macs / self._rate
        return seconds

    def _bytes(self, shape: Shape, lanes: int, together: bool, teacher: ArchSpec | None) -> int:
        shared = len(self._devices) if together else 1
        images = -(-self._train.batch_size // shared)
        value = value_bytes(self._train)
        needed = lanes * training_bytes(shape, images, value)
        return needed + (inference_bytes(teacher, lanes * images, value) if teacher else 0)
