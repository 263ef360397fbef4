"""What trains where: jobs become assignments, and an estimate of what they take.

The executors train by the schedules of a `Scheduler`, a dry run adds up those of a fresh one, and
the time left starts from them. What only the search will find out is not in them: the early-stop
rule, failures, and which candidates come after the first round.
"""

import dataclasses
import enum
import functools
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence

from jointnas_jax.config import Config
from jointnas_jax.execution.cost_model import CostModel, cost_model_of
from jointnas_jax.execution.hardware import Hardware
from jointnas_jax.execution.job import Job
from jointnas_jax.execution.lanes import LaneCounts, lanes_that_fit
from jointnas_jax.execution.packing import OPERATIONS_PER_MAC, Packer, Shape
from jointnas_jax.nets.cost import count, inference_bytes
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
      shape: shape of the program.
      jobs: position in the batch -> job, in the order in which they fill lanes: those of a kind are
        neighbours, and cost less and less.
      lanes: lanes of the program, on each device.
      layout: how the jobs lie on the devices.
      device: the one that a worker took it for, where the layout is `ONE`.
    """

    shape: Shape
    jobs: Mapping[int, Job]
    lanes: int
    layout: Layout
    device: int | None = None

    @property
    def on_full_split(self) -> bool:
        """Whether its jobs, or the first of them, train on the whole training split."""
        return next(iter(self.jobs.values())).on_full_split

    def devices(self, available: int) -> int:
        """Number of devices that its program runs on, of those of a worker."""
        return 1 if self.layout is Layout.ONE else available

    def size(self, available: int) -> int:
        """Jobs that train at once, on the devices of a worker."""
        return self.lanes * (1 if self.layout is Layout.TOGETHER else self.devices(available))

    def kinds(self) -> Iterator[list[int]]:
        """Yields the positions of the jobs of each kind."""
        for _, positions in itertools.groupby(self.jobs, lambda i: self.jobs[i].kind):
            yield list(positions)

    def only(self, positions: Collection[int]) -> "Assignment":
        """The assignment of some of its jobs."""
        jobs = {i: job for i, job in self.jobs.items() if i in positions}
        return dataclasses.replace(self, jobs=jobs)

    def on(self, device: int) -> "Assignment":
        """The assignment on one device."""
        return dataclasses.replace(self, device=device)

    def with_fewer_lanes(self) -> "Assignment":
        """The next power of two below, so that it is the same whatever was tried before."""
        return dataclasses.replace(self, lanes=1 << (self.lanes - 1).bit_length() - 1)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What trainings take, roughly; estimates of batches add up.

    Attributes:
      useful: operations, without the padding of envelopes.
      executed: operations with it.
      memory: bytes that a device needs at most: maps, weights, teacher, resident images.
      compiling: seconds of wall time.
      training: seconds of wall time.
      envelopes: programs to compile that several architectures share; earlier ones are kept.
      exact: programs to compile for one architecture.
    """

    useful: float = 0.0
    executed: float = 0.0
    memory: int = 0
    compiling: float = 0.0
    training: float = 0.0
    envelopes: int = 0
    exact: int = 0

    @property
    def efficiency(self) -> float:
        """Useful over executed operations."""
        return self.useful / self.executed

    def __add__(self, other: "Estimate") -> "Estimate":
        one, two = dataclasses.astuple(self), dataclasses.astuple(other)
        total = Estimate(*map(sum, zip(one, two, strict=True)))
        return dataclasses.replace(total, memory=max(self.memory, other.memory))


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Who trains what, of one batch of jobs.

    Attributes:
      assignments: assignments of all jobs.
      stored: positions of jobs that have a result and do not train. They are scheduled all the
        same, so that programs are those of a run without interruption.
      estimate: operations of all jobs; programs, memory and time of those that train.
    """

    assignments: tuple[Assignment, ...]
    stored: frozenset[int]
    estimate: Estimate = Estimate()

    @property
    def jobs(self) -> dict[int, Job]:
        """Position -> job."""
        return {i: job for a in self.assignments for i, job in a.jobs.items()}

    @property
    def waiting(self) -> list[int]:
        """Positions of the jobs that train."""
        return [i for i in self.jobs if i not in self.stored]

    def report(self, progress: Progress) -> None:
        """Reports that the batch begins."""
        seen = self.estimate
        trainings = len(self.waiting)
        progress.batch_begins(trainings, seen.compiling, seen.training, seen.efficiency)

    def part(self, assignments: Sequence[Assignment]) -> "Schedule":
        """Some of the assignments, or parts of them, without an estimate."""
        return Schedule(tuple(assignments), self.stored)

    def __str__(self) -> str:
        envelopes = sum(isinstance(a.shape, Envelope) for a in self.assignments)
        return (
            f"{len(self.jobs)} trainings in {envelopes} envelopes and "
            f"{len(self.assignments) - envelopes} exact programs, "
            f"{self.estimate.efficiency:.0%} of the executed FLOPs useful"
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
          config: config of the study.
          space: all candidates that may come.
          hardware: to schedule for.
          steps: steps of an epoch, without the validation images (False) and with them (True).
          sample: architectures like those that will come, for the packer.
          teacher: network that jobs on the full split learn from.
          cost_model: what compiling and training cost; None: that of the hardware.
        """
        cost_model = cost_model or cost_model_of(
            hardware.kind, hardware.speed_factors, fast_compile=config.train.fast_compile
        )
        self.hardware = hardware
        self.packer = Packer(
            space,
            cost_model,
            devices=hardware.all_devices,
            batch=config.train.batch_size,
            tiled=hardware.tiled,
            program=config.train.program,
            sample=sample,
            lanes=self._most_lanes,
        )
        self._train = config.train
        self._rate = cost_model.rate
        self._steps = steps
        self._teacher = teacher
        # Operations of its answer for an image.
        self._answer = _FORWARD * count(teacher).macs if teacher else 0
        self._lanes = LaneCounts(self._most_lanes)
        self._layouts: dict[Shape, Layout] = {}
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
        assignments = tuple(self._assign(jobs, later))
        estimate = self._estimate(assignments, jobs.keys() - set(stored))
        return Schedule(assignments, frozenset(stored), estimate)

    def limit(self, shape: Shape, lanes: int) -> None:
        """Notes that more lanes than these did not fit."""
        self._lanes.limit(shape, lanes)

    def steps(self, job: Job) -> int:
        """Number of training steps of a job."""
        return (job.epochs - job.first_epoch) * self._steps[job.on_full_split]

    # -- who trains what -------------------------------------------------------------------------

    def _assign(self, jobs: Mapping[int, Job], later: int) -> Iterator[Assignment]:
        archs = [job.candidate.arch for job in jobs.values()]
        if self._shares_batches(len(jobs)):
            for arch, (i, job) in zip(archs, jobs.items(), strict=True):
                yield Assignment(arch, {i: job}, 1, Layout.TOGETHER)
            return
        positions = list(jobs)
        packs = self.packer.pack(archs, [self.steps(job) for job in jobs.values()], later)
        exact = sum(not isinstance(shape, Envelope) for shape in packs)
        # Few architectures: the trainings of one share its program, on all devices.
        few = exact < self.hardware.all_devices
        for shape, indices in packs.items():
            costs = {positions[n]: self.packer.macs(shape, archs[n]) for n in indices}
            kinds: dict[tuple[int | bool, ...], list[int]] = {}
            for i in costs:
                kinds.setdefault(jobs[i].kind, []).append(i)
            # Lanes wait for each other: neighbours take about as long.
            order = [i for k in kinds.values() for i in sorted(k, key=lambda i: (-costs[i], i))]
            layout = Layout.ALL if few or isinstance(shape, Envelope) else Layout.ONE
            if any(jobs[i].resumed for i in order):
                # What goes on keeps its program: that for all devices is another one.
                layout = self._layouts.get(shape, layout)
            self._layouts[shape] = layout
            devices = self.hardware.all_devices if layout is Layout.ALL else 1
            wanted = -(-max(map(len, kinds.values())) // devices)
            steps = sum(self.steps(jobs[i]) for i in order) * (1 + later / len(jobs)) / devices
            wanted = self._worth_lanes(shape, archs[indices[0]], wanted, int(steps))
            lanes = self._lanes.of(shape, wanted)
            yield Assignment(shape, {i: jobs[i] for i in order}, lanes, layout)

    def _shares_batches(self, jobs: int) -> bool:
        """Whether all devices share the batches of one candidate after the other."""
        several = self.hardware.devices > 1
        if self._train.data_parallel != "auto":
            return several and self._train.data_parallel == "always"
        fits = self._train.batch_size % self.hardware.devices == 0
        return several and fits and jobs == 1 and self.hardware.platform != "cpu"

    def _worth_lanes(self, shape: Shape, arch: ArchSpec, wanted: int, steps: int) -> int:
        """Lanes with which a device compiles and takes so many steps of a shape in least time.

        More lanes than these are wanted by no round; they share what a step costs besides, and
        take longer to compile, on TPUs by more than short trainings win.
        """
        if self._train.lanes or self._most_lanes(shape) == 1:
            return wanted

        def seconds(lanes: int) -> tuple[float, int]:
            packer = self.packer
            training = packer.train_seconds(shape, arch, steps, lanes)
            return packer.compile_seconds(shape, lanes) + training, -lanes

        return min((2**power for power in range((wanted - 1).bit_length() + 1)), key=seconds)

    def _most_lanes(self, shape: Shape) -> int:
        """Lanes of a shape on one device, at most."""
        train = self._train
        return train.lanes or lanes_that_fit(self.hardware, shape, train.batch_size)

    def units(self, schedule: Schedule) -> list[Schedule]:
        """Divides a schedule into the parts that one worker trains at a time, in good order."""
        size = self.hardware.devices
        exact = [a for a in schedule.assignments if a.layout is Layout.ONE]
        exact.sort(key=lambda a: -self._operations(a))
        units = [exact[i : i + size] for i in range(0, len(exact), size)]
        for assignment in schedule.assignments:
            if assignment.layout is not Layout.ONE:
                step = assignment.size(size)
                for kind in assignment.kinds():
                    cuts = [kind[i : i + step] for i in range(0, len(kind), step)]
                    units += [[assignment.only(cut)] for cut in cuts]
        return [schedule.part(unit) for unit in units]

    def share(self, schedule: Schedule, worker: int) -> Schedule:
        """The part of one of the workers; every job is in the part of exactly one."""
        workers = self.hardware.workers
        whole = [a for a in schedule.assignments if a.layout is not Layout.ALL]
        costs = {tuple(a.jobs): self._operations(a) for a in whole}
        loads = [0] * workers
        owner = {}
        for name in sorted(costs, key=lambda name: (-costs[name], name)):
            owner[name] = loads.index(min(loads))
            loads[owner[name]] += costs[name]
        part, dealt = [], 0
        for assignment in schedule.assignments:
            name = tuple(assignment.jobs)
            if assignment.layout is Layout.ALL:
                mine = name[(worker - dealt) % workers :: workers]
                dealt += len(name)
            else:
                mine = name if owner[name] == worker else ()
            part += [assignment.only(mine)] if mine else []
        return schedule.part(part)

    def dearest_first(
        self, assignments: Sequence[Assignment], stored: Collection[int] = ()
    ) -> list[Assignment]:
        """Exact programs in the order in which devices take them."""

        def cost(assignment: Assignment) -> int:
            arch = next(iter(assignment.jobs.values())).candidate.arch
            return count(arch).macs * len(assignment.jobs.keys() - set(stored))

        return sorted(assignments, key=cost, reverse=True)

    def _operations(self, assignment: Assignment) -> int:
        """Multiply-adds of an assignment, for as many images as there are steps."""
        macs, shape = self.packer.macs, assignment.shape
        return sum(macs(shape, j.candidate.arch) * self.steps(j) for j in assignment.jobs.values())

    # -- what it takes ---------------------------------------------------------------------------

    def _estimate(self, assignments: Sequence[Assignment], waiting: Collection[int]) -> Estimate:
        useful = executed = 0.0
        for assignment in assignments:
            answer = self._answer if assignment.on_full_split else 0
            for job in assignment.jobs.values():
                images = self.steps(job) * self._train.batch_size
                arch = job.candidate.arch
                useful += images * (OPERATIONS_PER_MAC * count(arch).macs + answer)
                macs = self.packer.macs(assignment.shape, arch)
                executed += images * (OPERATIONS_PER_MAC * macs + answer)
        before = set(self._programs)
        left = [a for a in (a.only(waiting) for a in assignments) if a.jobs]
        compiling, training = self._seconds(left)
        new = [shape for shape, *_ in self._programs - before]
        envelopes = sum(isinstance(shape, Envelope) for shape in new)
        return Estimate(
            useful=useful,
            executed=executed,
            memory=self.hardware.taken + max(map(self._bytes, left), default=0),
            compiling=compiling,
            training=training,
            envelopes=envelopes,
            exact=len(new) - envelopes,
        )

    def _seconds(self, assignments: Sequence[Assignment]) -> tuple[float, float]:
        """Wall time of compiling and of training."""
        # One after the other on all devices; envelopes are compiled before, side by side.
        on_all = [a for a in assignments if a.layout is not Layout.ONE]
        busy = [0.0] * self.hardware.all_devices
        alone = 0.0
        for assignment in on_all:
            if isinstance(assignment.shape, Envelope):
                busy[busy.index(min(busy))] += self._compile(assignment)
            else:
                alone += self._compile(assignment)
        training = sum(map(self._train_all, on_all))
        exact = [a for a in assignments if a.layout is Layout.ONE]
        more = self._exact_seconds(exact) if exact else (0.0, 0.0)
        return max(busy) + alone + more[0], training + more[1]

    def _exact_seconds(self, assignments: Sequence[Assignment]) -> tuple[float, float]:
        """A worker for each device takes one after the other, and helps the others in the end."""
        devices = self.hardware.all_devices
        compiling, training = [0.0] * devices, [0.0] * devices
        for assignment in self.dearest_first(assignments):
            busy = [c + t for c, t in zip(compiling, training, strict=True)]
            homes = [d for shape, d, *_ in self._programs if shape == assignment.shape]
            device = min((d for d in homes if d is not None), default=busy.index(min(busy)))
            compiling[device] += self._compile(assignment.on(device))
            training[device] += self._train_all(assignment)
        longest = max(max(self._train_seconds(assignment)) for assignment in assignments)
        alone = max(c + t for c, t in zip(compiling, training, strict=True))
        # Whoever helps loads a program and can come a training too late: say half of one.
        shared = (sum(compiling) + sum(training)) / devices + longest / 2
        mean = sum(compiling) / devices
        return mean, min(alone, shared) - mean

    def _compile(self, assignment: Assignment) -> float:
        """Seconds to compile the program of an assignment, once."""
        together = assignment.layout is Layout.TOGETHER
        taught = bool(self._teacher) and assignment.on_full_split
        name = (assignment.shape, assignment.device, assignment.lanes, together, taught)
        if name in self._programs:
            return 0.0
        self._programs.add(name)
        return self.packer.compile_seconds(assignment.shape, assignment.lanes)

    def _train_all(self, assignment: Assignment) -> float:
        """Wall time of the trainings of an assignment."""
        alone = self._train_seconds(assignment)
        devices = assignment.devices(self.hardware.all_devices)
        if assignment.layout is Layout.TOGETHER:
            return sum(alone) / devices
        # Lanes wait for each other: so those that train at once take about as long.
        lanes = assignment.lanes
        return lanes * sum(sorted(alone, reverse=True)[:: lanes * devices])

    def _train_seconds(self, assignment: Assignment) -> list[float]:
        """Seconds of each training of an assignment on one device."""
        answers = self._answer * self._train.batch_size if assignment.on_full_split else 0
        seconds = functools.partial(self.packer.train_seconds, lanes=assignment.lanes)
        return [
            seconds(assignment.shape, job.candidate.arch, self.steps(job))
            + self.steps(job) * answers / self._rate
            for job in assignment.jobs.values()
        ]

    def _bytes(self, assignment: Assignment) -> int:
        """Memory that an assignment takes on a device, images that stay there left out."""
        shared = self.hardware.devices if assignment.layout is Layout.TOGETHER else 1
        images = -(-self._train.batch_size // shared)
        needed = assignment.lanes * self.hardware.training_bytes(assignment.shape, images)
        if self._teacher and assignment.on_full_split:
            all_images, value = assignment.lanes * images, self.hardware.value_bytes
            needed += inference_bytes(self._teacher, all_images, value)
        return needed
