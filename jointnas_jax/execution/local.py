"""Trains candidates: the one place that turns them into networks.

Candidates that share an envelope train side by side in one program on all devices. Those that run
exactly have a program each: every device has a worker thread that compiles and trains one after the
other; XLA compiles and runs without holding Python's lock, so workers really run side by side. One
large network trains on all devices together.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from jointnas_jax.config import Config
from jointnas_jax.data.augment import Augmentation
from jointnas_jax.data.source import Images, SplitOnDisk
from jointnas_jax.errors import ConfigError, InterruptedStudyError
from jointnas_jax.execution.forecast import Counter
from jointnas_jax.execution.hardware import Hardware, machine_here, training_devices
from jointnas_jax.execution.job import Call, Job, RunContext, TrainResult, pack_name
from jointnas_jax.execution.lane_batches import Groups, Place, state_folder
from jointnas_jax.execution.packing import Shape
from jointnas_jax.execution.placing import Placed, Way
from jointnas_jax.execution.planning import Planning, Unit, speed_factors_here
from jointnas_jax.models.teacher import load_teacher
from jointnas_jax.nets.envelope import Envelope
from jointnas_jax.space import ArchSpec, Candidate, JointSpace
from jointnas_jax.storage.provenance import machine_here as described_here
from jointnas_jax.telemetry.time_left import Group
from jointnas_jax.train.checkpoints import Checkpoints
from jointnas_jax.train.feed import feeds
from jointnas_jax.train.parallel import on_device, replicate
from jointnas_jax.train.program import TrainProgram
from jointnas_jax.train.step import Teacher

# Programs of single architectures kept for a second use, retraining a finalist, besides those in
# use. Envelopes are kept for good.
_PROGRAMS_KEPT = 8


class Evaluator:
    """Trains candidates on all devices; the executor of one process, and of each one of several.

    Attributes:
      hardware: that trains.
      pixels: `mean` and `std` per channel of the training split, validation images included.
      packings: of all calls so far.
      speed_factors: that the planner goes by, see `measured_speed_factors`.
    """

    def __init__(
        self,
        config: Config,
        space: JointSpace,
        train: Images,
        validation: np.ndarray,
        test: Images,
        sample: Sequence[ArchSpec] = (),
        keeping: RunContext | None = None,
    ):
        """Puts the images on every device, except for those that stay on disk.

        Args:
          config: of the study.
          space: of all candidates.
          train: the training split.
          validation: `bool[N]`, images of it kept for validation.
          test: the test split, used by final jobs only.
          sample: architectures like them, for the planner.
          keeping: None: nothing is kept.

        Raises:
          ConfigError: devices cannot share a batch as they are told to.
          ModelError: the teacher cannot be loaded, or does not know these images and classes.
        """
        self._train, self._study = config.train, config.study
        self._keeping = keeping or RunContext()
        data = config.data
        self._augmentation = Augmentation(
            data.crop_padding, data.flip, data.min_area, data.transforms, data.strength
        )
        self._devices = training_devices(config)
        self._teacher = replicate(load_teacher(config, space), self._devices)
        if config.train.data_parallel == "always" and config.train.batch_size % self.devices:
            raise ConfigError(
                "`config.train.batch_size` must be a multiple of the "
                f"{self.devices} devices that share a batch, got {config.train.batch_size}"
            )
        self._streamed = isinstance(train, SplitOnDisk)
        self._data = feeds(train, validation, test, self._devices)
        stats = jax.device_get(self._data[False][0].stats)
        self.pixels = {"mean": stats.mean.tolist(), "std": stats.std.tolist()}
        images = {False: int((~validation).sum()), True: len(validation)}
        self._steps = {final: n // config.train.batch_size for final, n in images.items()}
        self.speed_factors = speed_factors_here(config, self._keeping)
        self.hardware = Hardware.here(config, self.speed_factors, self._resident_bytes())
        self._planning = Planning(config, space, self.hardware, self._steps, sample)
        self._placing, self.packings = self._planning.placing, self._planning.packings
        self._planner = self._placing.planner
        machine, taught = machine_here(config, self.speed_factors), self._teacher
        self._counter = Counter(
            *(config, machine, self._planner, self._devices, self.hardware.taken),
            taught and taught.module.arch,
        )
        self._programs: collections.OrderedDict[tuple, TrainProgram] = collections.OrderedDict()
        self._lock = threading.Lock()

    @property
    def devices(self) -> int:
        """Number of devices in use."""
        return len(self._devices)

    @property
    def machine(self) -> dict[str, Any]:
        """What results may depend on, see `Provenance`."""
        return described_here(self.hardware.all_devices)

    def describe(self) -> dict[str, Any]:
        """What somebody else needs to plan for this evaluator."""
        names = ("hardware", "machine", "pixels", "speed_factors")
        return {name: getattr(self, name) for name in names} | {"steps": self._steps}

    def train_unit(self, unit: Unit) -> list[tuple[int, TrainResult]]:
        """Trains a unit; gives positions and outcomes."""
        completed = self.train(unit.packs, unit.jobs_here(), unit.known)
        return [(unit.positions[place], outcome) for place, outcome in completed]

    def close(self) -> None:
        """Nothing of it runs elsewhere."""

    def run(self, jobs: Sequence[Job], later: int = 0) -> list[TrainResult]:
        """Trains all jobs; `later` as in `completed`."""
        return [outcome for _, outcome in sorted(self.completed(jobs, later), key=lambda d: d[0])]

    def completed(
        self, jobs: Sequence[Job], later: int = 0, known: Collection[int] = ()
    ) -> Iterator[tuple[int, TrainResult]]:
        """Trains all jobs; yields their positions and outcomes, each as soon as it is there.

        Args:
          jobs: to train.
          later: how many jobs like these will follow; it can pay to compile for them as well.
          known: positions of jobs that are planned, but do not train.

        Whoever stops asking closes the generator: what trains then ends after its epoch.
        """
        return self.train(self._planning.place(jobs, later), jobs, known)

    def train(
        self, packs: Sequence[Placed], jobs: Sequence[Job], known: Collection[int] = ()
    ) -> Iterator[tuple[int, TrainResult]]:
        """Trains packs as they are placed; yields positions and outcomes.

        Args:
          packs: some of the jobs, or all of them.
          jobs: that the packs are made of.
          known: positions of jobs that do not train.

        Whoever stops asking closes the generator: what trains then ends after its epoch.
        """
        call = self.begin(packs, jobs, known)
        try:
            for _ in set().union(*(pack.members for pack in packs)) - call.known:
                done = call.done.get()
                if isinstance(done, BaseException):
                    raise done
                yield done
        finally:
            call.stop.set()
            self._keeping.progress.batch_ends()

    def begin(
        self, packs: Sequence[Placed], jobs: Sequence[Job], known: Collection[int] = ()
    ) -> Call:
        """Begins to train as `train` does; what comes out, and how to stop it, is in the call."""
        call = Call(jobs, known)
        self._tell(packs, call)

        exact = [p for p in packs if p.way is Way.ONE]

        def work() -> None:
            try:
                self._run_on_all([p for p in packs if p.way is not Way.ONE], call)
                if exact:
                    self._run_exact(exact, call)
            except BaseException as error:  # whoever waits must hear of it
                call.done.put(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        self._keeping.interrupt.worker = thread
        return call

    def _tell(self, packs: Sequence[Placed], call: Call) -> None:
        """Tells of a call that begins, and what those of its jobs that train will take."""
        left = [
            dataclasses.replace(p, members=tuple(i for i in p.members if i not in call.known))
            for p in packs
        ]
        left = [pack for pack in left if pack.members]
        seconds = (0.0, 0.0)
        if left:
            works, together = self._planning.works(call.jobs), left[0].way is Way.TOGETHER
            seconds = self._counter.add_packs(works, left, together, call.jobs[0].on_full_split)
        useful = self.packings[-1].efficiency if self.packings else 1.0  # planned elsewhere
        self._keeping.progress.batch_begins(sum(len(p.members) for p in left), *seconds, useful)

    def _run_on_all(self, packs: Sequence[Placed], call: Call) -> None:
        """Trains packs one after the other, each on all devices."""
        self._compile_side_by_side([p for p in packs if isinstance(p.shape, Envelope)], call)
        for pack in packs:
            self._run_pack(pack, call, None)

    def _compile_side_by_side(self, packs: Sequence[Placed], call: Call) -> None:
        """Compiles the programs of packs that train on all devices."""
        waiting = [pack for pack in packs if set(pack.members) - call.known]
        if len(waiting) < 2:
            return
        with concurrent.futures.ThreadPoolExecutor(self.devices) as workers:
            for pack in waiting:
                jobs = [call.jobs[i] for i in pack.members]
                for final in {job.on_full_split for job in jobs}:
                    workers.submit(self._compile_one, pack, jobs[0].candidate, final)

    def _compile_one(self, pack: Placed, candidate: Candidate, final: bool) -> None:
        teacher = self._teacher if final else None
        program = self._program(pack.shape, None, pack.lanes, self._devices, False, teacher)
        # What goes wrong does so again when the pack trains, and is dealt with there.
        with contextlib.suppress(Exception):
            program.compile(candidate, *self._data[final])

    def _run_exact(self, packs: Sequence[Placed], call: Call) -> None:
        """One worker for each device takes one architecture after the other.

        In the end a worker without one helps the others with theirs: it has their program in less
        time than a training takes.
        """
        cost = lambda p: self._planner.macs(p.shape, p.shape) * len(set(p.members) - call.known)
        waiting = sorted(packs, key=cost, reverse=True)

        def take(worker: int) -> Placed | None:
            """An architecture that this device compiled before, or no other did, or any."""
            with self._lock:
                for others in (False, True):
                    for position, pack in enumerate(waiting):
                        homes = {name[1] for name in self._programs if name[0] == pack.shape}
                        if others or not homes - {None} or worker in homes:
                            return waiting.pop(position)
            return next((pack for pack in packs if call.waiting(pack.members)), None)

        def work(worker: int) -> None:
            try:
                while pack := take(worker):
                    self._run_pack(pack, call, worker)
            except InterruptedStudyError:  # the other workers save their states as well
                raise
            except BaseException as error:  # they shall not go on for hours
                call.done.put(error)
                call.stop.set()

        with concurrent.futures.ThreadPoolExecutor(self.devices) as pool:
            list(pool.map(work, range(self.devices)))

    def _run_pack(self, pack: Placed, call: Call, device: int | None) -> None:
        """Trains a pack on one device, or on all (None); jobs of one kind side by side."""
        together, devices = pack.way is Way.TOGETHER, self.devices if device is None else 1
        place = Place(pack.shape, pack.lanes, device, together, devices)
        groups = Groups(call, self._train_at, self._keeping)
        for ordered in self._placing.in_order(pack, self._planning.works(call.jobs)):
            fitting = groups.train(place, ordered)
            if fitting != place:  # what comes later need not find out again
                place = fitting
                self._placing.limit(pack.shape, place.lanes)

    def _train_at(
        self, place: Place, jobs: Sequence[Job], stop: threading.Event
    ) -> list[TrainResult]:
        return self._train_lanes(place.shape, jobs, place.lanes, place.device, place.together, stop)

    def _train_lanes(
        self,
        shape: Shape,
        jobs: Sequence[Job],
        lanes: int,
        device: int | None,
        together: bool,
        stop: threading.Event,
    ) -> list[TrainResult]:
        """Trains jobs of one kind at once."""
        final, epochs = jobs[0].on_full_split, jobs[0].epochs
        data, evaluation = self._data[final]
        devices = self._devices
        if device is not None:
            devices = devices[device : device + 1]
            if not self._streamed:
                data, evaluation = on_device((data, evaluation), devices[0])
        teacher = self._teacher if final else None
        program = self._program(shape, device, lanes, devices, together, teacher)
        place = Place(shape, lanes, device, together, len(devices))
        with jax.default_device(devices[0]):
            trainings = program.train(
                [job.candidate for job in jobs],
                [job.key for job in jobs],
                data,
                evaluation,
                epochs,
                every_epoch=not final,
                checkpoints=self._checkpoints(place, jobs),
                stop=self._keeping.interrupt.asked,
                progress=self._progress(jobs, shape, device, stop),
            )
        return [TrainResult(t.accuracies, t.reason, t.variables) for t in trainings]

    def _checkpoints(self, place: Place, jobs: Sequence[Job]) -> Checkpoints | None:
        """States of these trainings side by side."""
        folder = state_folder(self._keeping.folder, place, jobs)
        if folder is None:
            return None
        return Checkpoints(folder, 60 * self._study.checkpoint_minutes, self._keeping.progress.say)

    def _progress(
        self, jobs: Sequence[Job], shape: Shape, device: int | None, stop: threading.Event
    ) -> Callable[[int, float], None]:
        """What is called after each epoch of jobs that train side by side.

        The time of a trial counts from its first epoch in this run, which follows compilation.
        """
        start, minutes = None, self._study.trial_minutes
        images = len(jobs) * self._steps[jobs[0].on_full_split] * self._train.batch_size
        group = Group(pack_name(shape), len(jobs), jobs[0].epochs, device)
        tell = self._keeping.progress.group(group, images)

        def progress(epoch: int, loss: float) -> None:
            nonlocal start
            if stop.is_set():
                raise InterruptedStudyError
            tell(epoch)
            if jobs[0].progress:
                jobs[0].progress(epoch, loss)
            start = time.monotonic() if start is None else start
            if 0 < minutes < (time.monotonic() - start) / 60 and epoch < jobs[0].epochs:
                raise TimeoutError(
                    f"took longer than `config.study.trial_minutes` = {minutes:g}, after epoch "
                    f"{epoch} of {jobs[0].epochs}"
                )

        return progress

    def _resident_bytes(self) -> int:
        """Bytes of images that stay on the devices."""
        if self._streamed:
            return 0
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self._data))

    def _program(
        self,
        shape: Shape,
        device: int | None,
        lanes: int,
        devices: Sequence[jax.Device],
        together: bool,
        teacher: Teacher | None,
    ) -> TrainProgram:
        name = (shape, device, lanes, together, teacher is not None)
        with self._lock:
            if name in self._programs:
                self._programs.move_to_end(name)
                return self._programs[name]
            if device is not None:
                teacher = on_device(teacher, devices[0])
            kind = (lanes, self._streamed, together, teacher)
            program = TrainProgram(shape, self._train, self._augmentation, devices, *kind)
            self._programs[name] = program
            exact = [n for n in self._programs if not isinstance(n[0], Envelope)]
            for old in exact[: -_PROGRAMS_KEPT - self.devices]:
                del self._programs[old]
            return program
