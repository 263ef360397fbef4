"""What trains where: jobs become assignments, and an estimate of what they take.

The executors train by the schedules of a `Scheduler`, a dry run adds up those of a fresh one, and
the time left starts from them. What only the search will find out is not in them: the early-stop
rule, failures, and which candidates come after the first round.
"""

import dataclasses
import enum
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from jointnas_jax.config import Config
from jointnas_jax.execution.cost_model import CostModel, cost_model_of
from jointnas_jax.execution.hardware import Hardware
from jointnas_jax.execution.job import Job
from jointnas_jax.execution.lanes import LaneCounts, lanes_that_fit
from jointnas_jax.execution.packing import OPERATIONS_PER_MAC, Packer, Shape
from jointnas_jax.nets.cost import count, inference_bytes, training_bytes
from jointnas_jax.nets.envelope import Envelope
from jointnas_jax.space import ArchSpec, JointSpace
from jointnas_jax.telemetry.progress import Progress

# Operations of a multiply-add in a forward pass.
_FORWARD = 2


class Layout(enum.Enum):
    """How the jobs of an assignment lie on the devices of a worker.

    `ALL`: side by side on all of them; `ONE`: on one, while other assignments have the others;
    `TOGETHER`: one after the other, each on all of them, which share its batches.
    """

    ALL, ONE, TOGETHER = "all", "one", "together"


@dataclasses.dataclass(frozen=True)
class Assignment:
    """Jobs that train in one program.

    Attributes:
      shape: of the program.
      members: positions of the jobs, in the order in which they fill lanes: those of a kind are
        neighbours, and cost less and less.
      lanes: of the program, on each device.
      layout: how the jobs lie on the devices.
      device: the one that a worker took it for, where the layout is `ONE`.
    """

    shape: Shape
    members: tuple[int, ...]
    lanes: int
    layout: Layout
    device: int | None = None

    def devices(self, available: int) -> int:
        """Number of devices that its program runs on, of those of a worker."""
        return 1 if self.layout is Layout.ONE else available

    def size(self, available: int) -> int:
        """Jobs that train at once, on the devices of a worker."""
        return self.lanes * (1 if self.layout is Layout.TOGETHER else self.devices(available))

    def kinds(self, jobs: Mapping[int, Job]) -> Iterator[list[int]]:
        """Yields the members of each kind."""
        for _, members in itertools.groupby(self.members, lambda i: jobs[i].kind):
            yield list(members)

    def on(self, device: int) -> "Assignment":
        """The assignment on one device."""
        return dataclasses.replace(self, device=device)

    def with_fewer_lanes(self) -> "Assignment":
        """The next power of two below, so that it is the same whatever was tried before."""
        return dataclasses.replace(self, lanes=1 << (self.lanes - 1).bit_length() - 1)

    def only(self, members: Collection[int]) -> "Assignment":
        """The assignment of some of its members."""
        wanted = set(members)
        return dataclasses.replace(self, members=tuple(i for i in self.members if i in wanted))


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The assignments of one batch of jobs, and an estimate of what they take.

    Attributes:
      jobs: position -> job.
      stored: positions of jobs that have a result and do not train. They are scheduled all the
        same, so that programs are those of a run without interruption.
      assignments: of all jobs.
      useful: operations of all jobs, without the padding of envelopes.
      executed: operations with it.
      memory: bytes that a device needs at most: maps, weights, teacher, resident images.
      compiling: seconds of wall time.
      training: seconds of wall time.
      new_envelopes: programs of several architectures that no earlier batch compiled.
      new_exact: programs of one architecture, likewise.
    """

    jobs: Mapping[int, Job]
    stored: frozenset[int]
    assignments: tuple[Assignment, ...]
    useful: float = 0.0
    executed: float = 0.0
    memory: int = 0
    compiling: float = 0.0
    training: float = 0.0
    new_envelopes: int = 0
    new_exact: int = 0

    @property
    def waiting(self) -> list[int]:
        """Positions of the jobs that train."""
        return [i for i in self.jobs if i not in self.stored]

    @property
    def efficiency(self) -> float:
        """Useful over executed operations."""
        return self.useful / self.executed

    def report(self, progress: Progress) -> None:
        """Reports that the batch begins."""
        trainings = len(self.waiting)
        progress.batch_begins(trainings, self.compiling, self.training, self.efficiency)

    def part(self, assignments: Sequence[Assignment]) -> "Schedule":
        """Some of the assignments, or parts of them, with their jobs and without an estimate."""
        jobs = {i: self.jobs[i] for assignment in assignments for i in assignment.members}
        return Schedule(jobs, self.stored & jobs.keys(), tuple(assignments))

    def __str__(self) -> str:
        envelopes = sum(isinstance(a.shape, Envelope) for a in self.assignments)
        return (
            f"{len(self.jobs)} trainings in {envelopes} envelopes and "
            f"{len(self.assignments) - envelopes} exact programs, {self.efficiency:.0%} of the "
            "executed FLOPs useful"
        )


class Scheduler:
    """Schedules batches of jobs, one after the other.

    What comes out depends on what was scheduled before, and on nothing else: every process that
    schedules the same jobs for the same hardware gets the same.

    Attributes:
      hardware: that it schedules for.
      packer: divides jobs among programs.
    """

    def __init__(
        self,
        config: Config,
        space: JointSpace,
        hardware: Hardware,
        steps: Mapping[bool, int],
        *,
        sample: Sequence[ArchSpec] = (),
        teacher: ArchSpec | None = None,
        cost_model: CostModel | None = None,
    ):
        """Has scheduled nothing yet.

        Args:
          config: of the study.
          space: all candidates that may come.
          hardware: to schedule for.
          steps: of an epoch, without the validation images (False) and with them (True).
          sample: architectures like those that will come, for the packer.
          teacher: network that jobs on the full split learn from.
          cost_model: what compiling and training cost; None: that of the hardware.
        """
        self.hardware = hardware
        self._train = config.train
        cost_model = cost_model or cost_model_of(
            hardware.platform, hardware.speed_factors, fast_compile=config.train.fast_compile
        )
        self._rate = cost_model.rate
        self.packer = Packer(
            space,
            cost_model,
            devices=hardware.all_devices,
            batch=config.train.batch_size,
            tiled=hardware.tiled,
            program=config.train.program,
            sample=sample,
        )
        self._steps = steps
        self._teacher = teacher
        # Operations of its answer for an image.
        self._answer = _FORWARD * count(teacher).macs if teacher else 0
        self._lanes = LaneCounts(self._most_lanes)
        self._programs: set[tuple] = set()

    def schedule(
        self, jobs: Mapping[int, Job], *, later: int = 0, stored: Collection[int] = ()
    ) -> Schedule:
        """Schedules a batch.

        Args:
          jobs: position -> job.
          later: how many jobs like these will follow; it can pay to compile for them as well.
          stored: see `Schedule`.
        """
        assignments = self._assign(jobs, later)
        useful = executed = 0.0
        for assignment in assignments:
            answers = self._answers(assignment, jobs)
            for job in (jobs[i] for i in assignment.members):
                images = self.steps(job) * self._train.batch_size
                arch = job.candidate.arch
                useful += images * (OPERATIONS_PER_MAC * count(arch).macs + answers)
                macs = self.packer.macs(assignment.shape, arch)
                executed += images * (OPERATIONS_PER_MAC * macs + answers)
        before = set(self._programs)
        left = [a.only(jobs.keys() - set(stored)) for a in assignments]
        left = [a for a in left if a.members]
        compiling, training = self._seconds(left, jobs)
        new = [shape for shape, *_ in self._programs - before]
        envelopes = sum(isinstance(shape, Envelope) for shape in new)
        return Schedule(
            jobs=jobs,
            stored=frozenset(stored),
            assignments=tuple(assignments),
            useful=useful,
            executed=executed,
            memory=self.hardware.taken + max((self._bytes(a, jobs) for a in left), default=0),
            compiling=compiling,
            training=training,
            new_envelopes=envelopes,
            new_exact=len(new) - envelopes,
        )

    def limit(self, shape: Shape, lanes: int) -> None:
        """Notes that more lanes than these did not fit."""
        self._lanes.limit(shape, lanes)

    def steps(self, job: Job) -> int:
        """Number of training steps of a job."""
        return job.epochs * self._steps[job.on_full_split]

    # -- who trains what -------------------------------------------------------------------------

    def _assign(self, jobs: Mapping[int, Job], later: int) -> list[Assignment]:
        archs = [job.candidate.arch for job in jobs.values()]
        positions = list(jobs)
        if self._shares_batches(len(jobs)):
            return [
                Assignment(arch, (i,), 1, Layout.TOGETHER)
                for i, arch in zip(positions, archs, strict=True)
            ]
        packs = self.packer.pack(archs, [self.steps(job) for job in jobs.values()], later)
        exact = sum(not isinstance(shape, Envelope) for shape in packs)
        # Few architectures: the trainings of one share its program, on all devices.
        few = exact < self.hardware.all_devices
        assignments = []
        for shape, indices in packs.items():
            costs = {positions[n]: self.packer.macs(shape, archs[n]) for n in indices}
            kinds: dict[tuple[int, bool], list[int]] = {}
            for i in costs:
                kinds.setdefault(jobs[i].kind, []).append(i)
            on_all = few or isinstance(shape, Envelope)
            devices = self.hardware.all_devices if on_all else 1
            lanes = self._lanes.of(shape, -(-max(map(len, kinds.values())) // devices))
            # Lanes wait for each other: neighbours take about as long.
            members = [i for k in kinds.values() for i in sorted(k, key=lambda i: (-costs[i], i))]
            layout = Layout.ALL if on_all else Layout.ONE
            assignments.append(Assignment(shape, tuple(members), lanes, layout))
        return assignments

    def _shares_batches(self, jobs: int) -> bool:
        """Whether all devices share the batches of one candidate after the other."""
        several = self.hardware.devices > 1
        if self._train.data_parallel != "auto":
            return several and self._train.data_parallel == "always"
        fits = self._train.batch_size % self.hardware.devices == 0
        return several and fits and jobs == 1 and self.hardware.platform != "cpu"

    def _most_lanes(self, shape: Shape) -> int:
        """Lanes of a shape on one device, at most."""
        train = self._train
        return train.lanes or lanes_that_fit(self.hardware, shape, train.batch_size)

    def dearest_first(
        self,
        assignments: Sequence[Assignment],
        jobs: Mapping[int, Job],
        stored: Collection[int] = (),
    ) -> list[Assignment]:
        """Exact programs in the order in which devices take them."""

        def cost(assignment: Assignment) -> int:
            arch = jobs[assignment.members[0]].candidate.arch
            return count(arch).macs * len(set(assignment.members) - set(stored))

        return sorted(assignments, key=cost, reverse=True)

    def units(self, schedule: Schedule) -> list[Schedule]:
        """Divides a schedule into the parts that one worker trains at a time, in good order."""
        size = self.hardware.devices
        exact = [a for a in schedule.assignments if a.layout is Layout.ONE]
        exact.sort(key=lambda a: -self._operations(a, schedule.jobs))
        units = [exact[i : i + size] for i in range(0, len(exact), size)]
        for assignment in schedule.assignments:
            if assignment.layout is Layout.ONE:
                continue
            step = assignment.size(size)
            for kind in assignment.kinds(schedule.jobs):
                cuts = [kind[i : i + step] for i in range(0, len(kind), step)]
                units += [[assignment.only(cut)] for cut in cuts]
        return [schedule.part(unit) for unit in units]

    def share(self, schedule: Schedule, worker: int) -> Schedule:
        """The part of one of the workers; every job is in the part of exactly one."""
        workers = self.hardware.workers
        loads = np.zeros(workers)
        whole = [a for a in schedule.assignments if a.layout is not Layout.ALL]
        costs = {a.members: self._operations(a, schedule.jobs) for a in whole}
        owner = {}
        for members in sorted(costs, key=lambda members: (-costs[members], members)):
            owner[members] = int(loads.argmin())
            loads[owner[members]] += costs[members]
        part, dealt = [], 0
        for assignment in schedule.assignments:
            members = assignment.members
            if assignment.layout is Layout.ALL:
                mine = members[(worker - dealt) % workers :: workers]
                dealt += len(members)
            else:
                mine = members if owner[members] == worker else ()
            if mine:
                part.append(assignment.only(mine))
        return schedule.part(part)

    def _operations(self, assignment: Assignment, jobs: Mapping[int, Job]) -> int:
        """Multiply-adds of an assignment, for as many images as there are steps."""
        members = [jobs[i] for i in assignment.members]
        macs = self.packer.macs
        return sum(macs(assignment.shape, j.candidate.arch) * self.steps(j) for j in members)

    # -- what it takes ---------------------------------------------------------------------------

    def _seconds(
        self, assignments: Sequence[Assignment], jobs: Mapping[int, Job]
    ) -> tuple[float, float]:
        """Wall time of compiling and of training."""
        devices = self.hardware.all_devices
        # One after the other on all devices; envelopes are compiled before, side by side.
        on_all = [a for a in assignments if a.layout is not Layout.ONE]
        busy = [0.0] * devices
        compiling = 0.0
        for assignment in on_all:
            seconds = self._compile(assignment, jobs)
            if isinstance(assignment.shape, Envelope):
                busy[busy.index(min(busy))] += seconds
            else:
                compiling += seconds
        training = sum(self._train_all(a, jobs) for a in on_all)
        exact = [a for a in assignments if a.layout is Layout.ONE]
        more = self._exact_seconds(exact, jobs) if exact else (0.0, 0.0)
        return compiling + max(busy) + more[0], training + more[1]

    def _exact_seconds(
        self, assignments: Sequence[Assignment], jobs: Mapping[int, Job]
    ) -> tuple[float, float]:
        """A worker for each device takes one after the other, and helps the others in the end."""
        devices = self.hardware.all_devices
        compiling, training = [0.0] * devices, [0.0] * devices
        for assignment in self.dearest_first(assignments, jobs):
            busy = [c + t for c, t in zip(compiling, training, strict=True)]
            homes = [d for shape, d, *_ in self._programs if shape == assignment.shape]
            device = min((d for d in homes if d is not None), default=busy.index(min(busy)))
            compiling[device] += self._compile(assignment.on(device), jobs)
            training[device] += self._train_all(assignment, jobs)
        longest = max(s for a in assignments for s in self._train_seconds(a, jobs))
        alone = max(c + t for c, t in zip(compiling, training, strict=True))
        # Whoever helps loads a program and can come a training too late: say half of one.
        shared = (sum(compiling) + sum(training)) / devices + longest / 2
        mean = sum(compiling) / devices
        return mean, min(alone, shared) - mean

    def _compile(self, assignment: Assignment, jobs: Mapping[int, Job]) -> float:
        """Seconds to compile the program of an assignment, once."""
        together = assignment.layout is Layout.TOGETHER
        taught = self._answers(assignment, jobs) > 0
        name = (assignment.shape, assignment.device, assignment.lanes, together, taught)
        if name in self._programs:
            return 0.0
        self._programs.add(name)
        return self.packer.compile_seconds(assignment.shape)

    def _train_all(self, assignment: Assignment, jobs: Mapping[int, Job]) -> float:
        """Wall time of the trainings of an assignment."""
        alone = self._train_seconds(assignment, jobs)
        devices = assignment.devices(self.hardware.all_devices)
        if assignment.layout is Layout.TOGETHER:
            return sum(alone) / devices
        # Lanes wait for each other: so those that train at once take about as long.
        lanes = assignment.lanes
        return lanes * sum(sorted(alone, reverse=True)[:: lanes * devices])

    def _train_seconds(self, assignment: Assignment, jobs: Mapping[int, Job]) -> list[float]:
        """Seconds of each training of an assignment on one device."""
        answers = self._answers(assignment, jobs) * self._train.batch_size / self._rate
        return [
            self.packer.train_seconds(assignment.shape, job.candidate.arch, self.steps(job))
            + self.steps(job) * answers
            for job in (jobs[i] for i in assignment.members)
        ]

    def _bytes(self, assignment: Assignment, jobs: Mapping[int, Job]) -> int:
        """Memory that an assignment takes on a device, images that stay there left out."""
        shared = self.hardware.devices if assignment.layout is Layout.TOGETHER else 1
        images = -(-self._train.batch_size // shared)
        value = self.hardware.value_bytes
        needed = assignment.lanes * training_bytes(assignment.shape, images, value)
        if self._teacher and self._answers(assignment, jobs):
            needed += inference_bytes(self._teacher, assignment.lanes * images, value)
        return needed

    def _answers(self, assignment: Assignment, jobs: Mapping[int, Job]) -> int:
        """Operations of the teacher for an image."""
        return self._answer if jobs[assignment.members[0]].on_full_split else 0
