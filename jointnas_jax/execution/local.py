"""Trains candidates on the devices of this process: the one place that turns them into networks.

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
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import numpy as np

from jointnas_jax.config import Config
from jointnas_jax.data.augment import Augmentation
from jointnas_jax.data.division import balanced_weights
from jointnas_jax.data.source import Images, SplitOnDisk
from jointnas_jax.errors import ConfigError, InterruptedStudyError
from jointnas_jax.execution.hardware import Hardware, training_devices
from jointnas_jax.execution.job import Job, Results, RunContext, TrainResult
from jointnas_jax.execution.lane_batches import LaneBatcher, TrainFn, state_folder
from jointnas_jax.execution.packing import pack_name
from jointnas_jax.execution.schedule import Assignment, Layout, Schedule, Scheduler
from jointnas_jax.models.initial import load_initial
from jointnas_jax.models.teacher import load_teacher
from jointnas_jax.nets.envelope import Envelope
from jointnas_jax.space import ArchSpec, JointSpace
from jointnas_jax.storage.provenance import environment
from jointnas_jax.telemetry.time_left import Lanes
from jointnas_jax.train.checkpoints import Checkpoints
from jointnas_jax.train.feed import feeds
from jointnas_jax.train.parallel import on_device, replicate
from jointnas_jax.train.program import AVERAGED, RAW, TRAINED, TrainProgram

# Programs of single architectures kept for a second use, retraining a finalist, besides those in
# use. Envelopes are kept for good.
_PROGRAMS_KEPT = 8


class LocalExecutor:
    """Trains candidates on all devices of this process; an `Executor`, and a part of others.

    Attributes:
      hardware: that trains.
      scheduler: scheduler of its batches.
      schedules: schedules of all batches so far.
      pixels: `mean` and `std` per channel of the training split, validation images included.
    """

    def __init__(
        self,
        config: Config,
        space: JointSpace,
        images: tuple[Images, np.ndarray, Images],
        *,
        sample: Sequence[ArchSpec] = (),
        context: RunContext | None = None,
        train_fn: TrainFn | None = None,
        devices: Sequence[jax.Device] = (),
    ):
        """Puts the images on every device, except for those that stay on disk.

        Args:
          config: config of the study.
          space: space of all candidates.
          images: the training split; `bool[N]`, images of it for validation; the test split, which
            only jobs on the full split use.
          sample: architectures like the candidates, for the packer.
          context: context of the run; None: nothing is saved.
          train_fn: trains one lane batch; None: it is really trained.
          devices: to train on, where they are not those of this process.

        Raises:
          ConfigError: devices cannot share a batch as they are told to.
          ModelError: the weights to start from cannot be loaded, nor the teacher, or it does not
            know these images and classes.
        """
        train, validation, test = images
        self._config = config
        self._context = context or RunContext()
        self._train_fn = train_fn or self._train_lanes
        data = config.data
        self._augmentation = Augmentation(
            data.crop_padding, data.flip, data.min_area, data.transforms, data.strength
        )
        self._devices = tuple(devices) or training_devices(config)
        teacher = load_teacher(config, space)
        self._teacher = replicate(teacher, self._devices)
        batch = config.train.batch_size
        if config.train.data_parallel == "always" and batch % self.devices:
            raise ConfigError(
                "`config.train.batch_size` must be a multiple of the "
                f"{self.devices} devices that share a batch, got {batch}"
            )
        self._streamed = isinstance(train, SplitOnDisk)
        self._data = feeds(train, validation, test, devices=self._devices)
        stats = jax.device_get(self._data[False].train.stats)
        self.pixels = {"mean": stats.mean.tolist(), "std": stats.std.tolist()}
        resident = 0 if self._streamed else sum(x.nbytes for x in jax.tree.leaves(self._data))
        here = Hardware.here(config, self._context.speed_factors, resident)
        self.hardware = dataclasses.replace(here, devices=self.devices)
        self._init = load_initial(config)
        self._class_weights = None
        if config.train.class_weights == "balanced":
            self._class_weights = balanced_weights(train.labels, space.num_classes)
        self._steps = {False: int((~validation).sum()) // batch, True: len(validation) // batch}
        self._taught_by = teacher.module.arch if teacher else None
        assert not isinstance(self._taught_by, Envelope)
        self.scheduler = Scheduler(
            config, space, self.hardware, self._steps, sample=sample, teacher=self._taught_by
        )
        self.schedules: list[Schedule] = []
        self._programs: collections.OrderedDict[tuple, TrainProgram] = collections.OrderedDict()
        self._lock = threading.Lock()

    @property
    def devices(self) -> int:
        """Number of devices in use."""
        return len(self._devices)

    @property
    def speed_factors(self) -> tuple[float, float]:
        """See `Executor`."""
        return self.hardware.speed_factors

    @property
    def machine(self) -> dict[str, Any]:
        """See `Executor`."""
        return environment(self.hardware.all_devices)

    def describe(self) -> dict[str, Any]:
        """What another process needs to schedule for this one."""
        return {
            "hardware": self.hardware,
            "machine": self.machine,
            "pixels": self.pixels,
            "steps": self._steps,
            "teacher": self._taught_by,
        }

    def close(self) -> None:
        """Nothing of it runs elsewhere."""

    def run(self, jobs: Sequence[Job], *, later: int = 0) -> list[TrainResult]:
        """Trains all jobs; `later` as in `train`."""
        results = dict(self.train(jobs, later=later))
        return [results[i] for i in range(len(jobs))]

    def train(
        self, jobs: Sequence[Job], *, later: int = 0, stored: Collection[int] = ()
    ) -> Results:
        """See `Executor`. After closing the generator, what trains ends after its epoch."""
        schedule = self.scheduler.schedule(dict(enumerate(jobs)), later=later, stored=stored)
        self.schedules.append(schedule)
        schedule.report(self._context.progress)
        try:
            yield from self.train_schedule(schedule)
        finally:
            self._context.progress.batch_ends()

    def train_schedule(self, schedule: Schedule) -> Results:
        """Trains a schedule, or a part of one, which may come from another process.

        Yields as `train` does, and ends as it does.
        """
        batcher = LaneBatcher(schedule, self.devices, self._train_fn, self._context)

        def work() -> None:
            try:
                self._run_on_all(schedule, batcher)
                self._run_exact(schedule, batcher)
            except BaseException as error:  # the generator must raise it
                batcher.results.put(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        self._context.interrupt.worker = thread
        try:
            for _ in schedule.waiting:
                result = batcher.results.get()
                if isinstance(result, BaseException):
                    raise result
                yield result
        finally:
            batcher.stop.set()

    def _run_on_all(self, schedule: Schedule, batcher: LaneBatcher) -> None:
        """Trains assignments one after the other, each on all devices."""
        on_all = [a for a in schedule.assignments if a.layout is not Layout.ONE]
        self._compile_side_by_side([a for a in on_all if isinstance(a.shape, Envelope)], batcher)
        for assignment in on_all:
            self._run(assignment, batcher)

    def _compile_side_by_side(
        self, assignments: Sequence[Assignment], batcher: LaneBatcher
    ) -> None:
        """Compiles the programs of assignments that train on all devices."""
        waiting = [a for a in assignments if batcher.waiting(a)]
        if len(waiting) < 2:
            return
        with concurrent.futures.ThreadPoolExecutor(self.devices) as workers:
            for assignment in waiting:
                jobs = assignment.jobs.values()
                for job in {job.on_full_split: job for job in jobs}.values():
                    workers.submit(self._compile, assignment, job)

    def _compile(self, assignment: Assignment, job: Job) -> None:
        program = self._program(assignment, job.on_full_split)
        # What goes wrong does so again when the assignment trains, and is dealt with there.
        with contextlib.suppress(Exception):
            program.compile(job.candidate, self._data[job.on_full_split])

    def _run_exact(self, schedule: Schedule, batcher: LaneBatcher) -> None:
        """One worker for each device takes one architecture after the other.

        In the end a worker without one helps the others with theirs: it has their program in less
        time than a training takes.
        """
        exact = [a for a in schedule.assignments if a.layout is Layout.ONE]
        if not exact:
            return
        waiting = self.scheduler.dearest_first(exact, schedule.stored)

        def take(worker: int) -> Assignment | None:
            """An architecture that this device compiled before, or no other did, or any."""
            with self._lock:
                for others in (False, True):
                    for position, assignment in enumerate(waiting):
                        homes = {n[1] for n in self._programs if n[0] == assignment.shape}
                        if others or not homes - {None} or worker in homes:
                            return waiting.pop(position)
            return next((a for a in exact if batcher.waiting(a)), None)

        def work(worker: int) -> None:
            try:
                while assignment := take(worker):
                    self._run(assignment.on(worker), batcher)
            except InterruptedStudyError:  # the other workers save their states as well
                raise
            except BaseException as error:  # they shall not go on for hours
                batcher.results.put(error)
                batcher.stop.set()

        with concurrent.futures.ThreadPoolExecutor(self.devices) as pool:
            list(pool.map(work, range(self.devices)))

    def _run(self, assignment: Assignment, batcher: LaneBatcher) -> None:
        """Trains an assignment; later ones of its shape need not try again how many lanes fit."""
        lanes = batcher.train(assignment)
        if lanes != assignment.lanes:
            self.scheduler.limit(assignment.shape, lanes)

    def _train_lanes(
        self, assignment: Assignment, jobs: Sequence[Job], stop: threading.Event
    ) -> list[TrainResult]:
        """Trains jobs of one kind at once; a `TrainFn`."""
        on_full_split, recorded = jobs[0].on_full_split, jobs[0].recorded
        feed, test = self._data[on_full_split], self._data[True].evaluation
        devices = self._devices_of(assignment)
        if assignment.device is not None and not self._streamed:
            feed, test = on_device((feed, test), devices[0])
        program = self._program(assignment, on_full_split)
        here = next(d for d in devices if d.process_index == jax.process_index())
        with jax.default_device(here):
            trainings = program.train(
                [job.candidate for job in jobs],
                [job.key for job in jobs],
                feed,
                epochs=jobs[0].epochs,
                full_epochs=jobs[0].full_epochs,
                resumed=[job.resumed for job in jobs],
                pauses=jobs[0].pauses,
                every_epoch=not on_full_split,
                weights=(TRAINED, RAW, AVERAGED) if recorded else (TRAINED,),
                test=test if recorded else None,
                checkpoints=self._checkpoints(assignment, jobs),
                stop=self._context.interrupt.asked,
                progress=self._after_epoch(assignment, jobs, stop),
            )
        score, metric = self._config.search.score, self._config.search.metric
        return [
            TrainResult(
                tuple(m.score("accuracy", metric) for m in t.metrics),
                t.reason,
                t.variables,
                scores=()
                if score == "accuracy"
                else tuple(m.score(score, metric) for m in t.metrics),
                curves=t.curves if recorded else {},
                answers=t.answers if on_full_split else None,
                paused=t.paused,
            )
            for t in trainings
        ]

    def _checkpoints(self, assignment: Assignment, jobs: Sequence[Job]) -> Checkpoints | None:
        """States of these trainings side by side."""
        folder = state_folder(self._context.folder, assignment, jobs, self.devices)
        seconds = 60 * self._config.study.checkpoint_minutes
        return Checkpoints(folder, seconds, self._context.progress.say) if folder else None

    def _after_epoch(
        self, assignment: Assignment, jobs: Sequence[Job], stop: threading.Event
    ) -> Callable[[int, float], None]:
        """What is called after each epoch of jobs that train side by side.

        The time of a trial counts from its first epoch in this run, which follows compilation.
        """
        start, minutes = None, self._config.study.trial_minutes
        steps = self._steps[jobs[0].on_full_split]
        images = len(jobs) * steps * self._config.train.batch_size
        pack = pack_name(assignment.shape)
        begun = jobs[0].first_epoch
        lanes = Lanes(pack, len(jobs), jobs[0].epochs, assignment.device, epoch=begun, begun=begun)
        epoch_ends = self._context.progress.lanes_begin(lanes, images)

        def after(epoch: int, loss: float) -> None:
            nonlocal start
            if stop.is_set():
                raise InterruptedStudyError
            epoch_ends(epoch)
            if jobs[0].progress:
                jobs[0].progress(epoch, loss)
            start = time.monotonic() if start is None else start
            if minutes and epoch < jobs[0].epochs and self._is_late(time.monotonic() - start):
                raise TimeoutError(
                    f"took longer than `config.study.trial_minutes` = {minutes:g}, after epoch "
                    f"{epoch} of {jobs[0].epochs}"
                )

        return after

    def _is_late(self, seconds: float) -> bool:
        """Whether trainings take longer than they may."""
        return seconds > 60 * self._config.study.trial_minutes

    def _devices_of(self, assignment: Assignment) -> tuple[jax.Device, ...]:
        device = assignment.device
        return self._devices if device is None else self._devices[device : device + 1]

    def _program(self, assignment: Assignment, on_full_split: bool) -> TrainProgram:
        teacher = self._teacher if on_full_split else None
        together = assignment.layout is Layout.TOGETHER
        shape, device, lanes = assignment.shape, assignment.device, assignment.lanes
        name = (shape, device, lanes, together, teacher is not None)
        with self._lock:
            if name in self._programs:
                self._programs.move_to_end(name)
                return self._programs[name]
            devices = self._devices_of(assignment)
            if device is not None:
                teacher = on_device(teacher, devices[0])
            program = TrainProgram(
                shape,
                self._config.train,
                augmentation=self._augmentation,
                devices=devices,
                lanes_per_device=lanes,
                streamed=self._streamed,
                together=together,
                teacher=teacher,
                class_weights=self._class_weights,
                init=self._init,
            )
            self._programs[name] = program
            exact = [n for n in self._programs if not isinstance(n[0], Envelope)]
            for old in exact[: -_PROGRAMS_KEPT - self.devices]:
                del self._programs[old]
            return program
