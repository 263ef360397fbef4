"""Trains on the devices of several processes, one on each host, which all run the same program.

Candidates are shared out by process, each of which trains on its devices, and results are gathered
at the end of a batch. One network alone trains on the devices of all processes together.
"""

import contextlib
import dataclasses
import hashlib
import threading
from collections.abc import Collection, Sequence
from typing import Any

import jax
import numpy as np

from jointnas_jax.config import Config
from jointnas_jax.data.source import Images
from jointnas_jax.errors import ConfigError, InterruptedStudyError, JointNASError, StudyError
from jointnas_jax.execution.hardware import Hardware
from jointnas_jax.execution.job import Job, Results, RunContext, TrainResult, reason_of
from jointnas_jax.execution.lane_batches import TrainFn
from jointnas_jax.execution.local import LocalExecutor
from jointnas_jax.execution.schedule import Assignment, Schedule, Scheduler
from jointnas_jax.runtime.distributed import (
    PeerError,
    SyncPoint,
    broadcast,
    gather,
    is_first,
    share,
)
from jointnas_jax.space import ArchSpec, JointSpace
from jointnas_jax.storage.workdir import differences, plain_config
from jointnas_jax.telemetry.progress import Progress
from jointnas_jax.train.paused import Paused

# Seconds of a step of the processes' common clock, see `SyncPoint`.
_STEP = 0.5


class MultihostExecutor:
    """The executor of each of several processes; see `Executor`. All make the same calls."""

    def __init__(
        self,
        config: Config,
        space: JointSpace,
        images: tuple[Images, np.ndarray, Images],
        *,
        sample: Sequence[ArchSpec],
        context: RunContext,
        train_fn: TrainFn | None = None,
    ):
        """Puts the images on the devices of this process; arguments as of `LocalExecutor`.

        Raises:
          ConfigError: the processes differ in their config, devices, images or JAX, or cannot train
            as they are asked to.
        """
        self._context = context
        # What trains here is a part of the batch: this class reports the whole.
        here = dataclasses.replace(context, progress=Progress())
        self._local = LocalExecutor(config, space, images, context=here, train_fn=train_fn)
        described = self._local.describe()
        self.pixels: dict[str, list[float]] = described["pixels"]
        _check_alike(config, self._local, images)
        # Speed and memory may differ a little.
        fields = share(dataclasses.asdict(self._local.hardware))
        fields |= {"workers": jax.process_count(), "speed_factors": tuple(fields["speed_factors"])}
        hardware = Hardware(**fields)
        self.speed_factors: tuple[float, float] = hardware.speed_factors
        self.machine: dict[str, Any] = described["machine"] | {"devices": hardware.all_devices}
        self._scheduler = Scheduler(
            config,
            space,
            hardware,
            described["steps"],
            sample=sample,
            teacher=described["teacher"],
        )
        self.schedules: list[Schedule] = []
        context.interrupt.synced = SyncPoint(_STEP)

    def train(
        self, jobs: Sequence[Job], *, later: int = 0, stored: Collection[int] = ()
    ) -> Results:
        """See `Executor`; stored are those of process 0, which alone gets all weights.

        Process 0 has the states of trainings that paused, too.
        """
        jobs = _with_states(jobs)
        stored = _agreed(jobs, stored)
        schedule = self._scheduler.schedule(dict(enumerate(jobs)), later=later, stored=stored)
        self.schedules.append(schedule)
        mine = self._scheduler.share(schedule, jax.process_index())
        schedule.report(self._context.progress)
        done: dict[int, TrainResult] = {}
        ended: JointNASError | None = None
        try:
            with contextlib.closing(self._local.train_schedule(mine)) as trained:
                for position, result in trained:
                    done[position] = result
                    yield position, result
        except JointNASError as error:  # not before the others have what was trained
            ended = error
        finally:
            self._context.progress.batch_ends()
            if worker := self._context.interrupt.worker:  # messages wait for the devices
                worker.join()
        # Without weights, which are large: process 0 alone gets those that are kept.
        bare = [[i, _as_message(result)] for i, result in done.items()]
        interrupted = isinstance(ended, InterruptedStudyError)
        messages = gather([bare, interrupted])
        for process, (results, _) in enumerate(messages):
            for i, fields in results:
                result = _of_message(fields)
                if process and result.reason is None:
                    result = _with_arrays(result, done.get(i), jobs[i], process)
                if process != jax.process_index():
                    yield i, result
        if ended is not None:
            raise ended
        if any(flag for _, flag in messages):
            raise InterruptedStudyError

    def close(self) -> None:
        """Nothing of it runs elsewhere: every process ends its own."""


def _with_arrays(
    result: TrainResult, here: TrainResult | None, job: Job, process: int
) -> TrainResult:
    """In process 0 the result with what is to be kept, which one process has, perhaps `here`."""
    weights = paused = None
    if job.kept:
        weights = broadcast(here.variables if here else None, process)
    if job.pauses:
        arrays = broadcast(here.paused.arrays if here and here.paused else None, process)
        paused = Paused(job.epochs, arrays)
    if not is_first():
        return result
    return dataclasses.replace(result, variables=weights, paused=paused)


def _with_states(jobs: Sequence[Job]) -> list[Job]:
    """The jobs as process 0 has them, with the states of those that paused."""
    known = [job.resumed and [job.resumed.epochs, job.resumed.arrays is not None] for job in jobs]
    with_states = []
    for job, shared in zip(jobs, share(known), strict=True):
        resumed = Paused(shared[0]) if shared else None
        if resumed and shared[1]:
            arrays = job.resumed.arrays if job.resumed else None
            resumed = resumed._replace(arrays=broadcast(arrays, 0))
        with_states.append(dataclasses.replace(job, resumed=resumed))
    return with_states


def _as_message(result: TrainResult) -> dict[str, Any]:
    """A result without weights and states, as JSON can hold it."""
    fields = dataclasses.asdict(dataclasses.replace(result, variables=None, paused=None))
    said = result.answers
    return fields | {"answers": None if said is None else said.tolist()}


def _of_message(fields: dict[str, Any]) -> TrainResult:
    """The inverse of `_as_message`."""
    said = fields["answers"]
    answers = None if said is None else np.array(said, np.int32)
    curves = {n: tuple(fields[n]) for n in ("accuracies", "scores")}
    return TrainResult(**fields | curves | {"answers": answers})


def _check_alike(
    config: Config, executor: LocalExecutor, images: tuple[Images, np.ndarray, Images]
) -> None:
    """Checks that all processes run the same on the same; raises `ConfigError`."""
    # What else a machine has differs between processes of one host, too.
    machine = {name: executor.machine[name] for name in ("device", "devices", "jax", "jaxlib")}
    sizes = [len(images[0]), len(images[2])]
    here = {
        "config": plain_config(config),
        "machine": machine,
        "images": executor.pixels | {"sizes": sizes},
    }
    first, *others = gather(here)
    for process, other in enumerate(others, 1):
        places = ("in process 0", f"in process {process}")
        for name, value in first.items():
            if differ := differences(value, other[name], name=name, places=places):
                raise ConfigError(
                    f"all processes must have the same {name}, but {differ}; start the same "
                    "command on every host"
                )


def _agreed(jobs: Sequence[Job], stored: Collection[int]) -> list[int]:
    """The stored positions of process 0; raises `StudyError` where its jobs are others."""
    keys = [np.asarray(jax.random.key_data(job.key)).tolist() for job in jobs]
    what = repr([(job.candidate, job.kind, key) for job, key in zip(jobs, keys, strict=True)])
    digest = hashlib.sha256(what.encode()).hexdigest()
    agreed, first = share([sorted(stored), digest])
    if first != digest:
        raise StudyError(
            f"process {jax.process_index()} wants to train other candidates than process 0: "
            "their devices or versions round differently"
        )
    return agreed


class GlobalExecutor(LocalExecutor):
    """Trains one network on the devices of all processes: each has a part of every batch."""

    def __init__(
        self,
        config: Config,
        space: JointSpace,
        images: tuple[Images, np.ndarray, Images],
        *,
        context: RunContext,
    ):
        """Puts the images on the devices; arguments as of `LocalExecutor`.

        Raises:
          ConfigError: the processes differ, or their devices cannot share a batch.
          ModelError: the teacher cannot be loaded, or does not know these images and classes.
        """
        if config.train.data_parallel == "never":
            raise ConfigError("one network on a pod needs another `config.train.data_parallel`")
        train = dataclasses.replace(config.train, data_parallel="always")
        if not is_first():  # which keeps the state
            context = dataclasses.replace(context, folder=None)
        together = dataclasses.replace(config, train=train)
        super().__init__(together, space, images, context=context, devices=_all_devices(config))
        _check_alike(config, self, images)
        context.interrupt.synced = SyncPoint(0)

    def _train_lanes(
        self, assignment: Assignment, jobs: Sequence[Job], stop: threading.Event
    ) -> list[TrainResult]:
        """See `LocalExecutor`; an error that the other processes may not have ends them, too."""
        try:
            return super()._train_lanes(assignment, jobs, stop)
        except InterruptedStudyError:
            raise
        except Exception as error:
            code = getattr(error, "exit_code", StudyError.exit_code)
            raise PeerError(f"the training failed: {reason_of(error)}", code) from error

    def _is_late(self, seconds: float) -> bool:
        return share(super()._is_late(seconds))  # clocks differ


def _all_devices(config: Config) -> list[jax.Device]:
    """The devices of all processes that train, process by process."""
    of: dict[int, list[jax.Device]] = {}
    for device in sorted(jax.devices(), key=lambda device: (device.process_index, device.id)):
        of.setdefault(device.process_index, []).append(device)
    return [device for some in of.values() for device in some[: config.study.devices or None]]
