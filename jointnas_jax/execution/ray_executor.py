"""Trains on a Ray cluster: one actor for each set of devices; one that is free gets a pack.

Ray starts the actors, finds machines for them and reports when one dies. The driver schedules for
all of them as for one process with as many devices, so results are those of such a process.
"""

import collections
import contextlib
import dataclasses
import logging
import os
import signal
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jointnas_jax.config import Config
from jointnas_jax.errors import (
    ConfigError,
    InputError,
    JointNASError,
    StudyError,
    needs_extra,
    one_line,
)
from jointnas_jax.execution.job import Job, Results, RunContext, TrainResult
from jointnas_jax.execution.local import LocalExecutor
from jointnas_jax.execution.schedule import Assignment, Schedule, Scheduler
from jointnas_jax.problem.problem import build_problem
from jointnas_jax.space import ArchSpec, JointSpace
from jointnas_jax.storage.lock import FILE as LOCK
from jointnas_jax.telemetry.console import plain_console
from jointnas_jax.telemetry.progress import Progress

try:
    import ray
except ImportError as error:
    raise ConfigError(needs_extra("`config.executor` = `ray`", "ray", "ray")) from error

# Seconds between two looks at whether the run was interrupted.
_LOOK = 0.2
# What JAX in an actor is told by the environment of the driver.
_PASSED_ON = ("JAX_", "XLA_", "XDG_CACHE_HOME", "PYTHONPATH")


class Worker:
    """The class of the actors: a local executor that makes itself from the config."""

    def __init__(
        self, config: Config, lock: tuple[Path, str], speed_factors: tuple[float, float] | None
    ):
        """Reads the images.

        Args:
          config: config of the study.
          lock: the workdir, and the content of its lock; states are saved where that is seen.
          speed_factors: those that the study began with, if it did.
        """
        from jointnas_jax.runtime.jax_setup import prepare_jax

        prepare_jax(config.study.devices)
        folder, text = lock
        shared = (folder / LOCK).is_file() and (folder / LOCK).read_text() == text
        context = RunContext(
            folder if shared else None, speed_factors, progress=Progress(plain_console())
        )
        problem = build_problem(config)
        images = problem.divided_images()
        self._executor = LocalExecutor(config, problem.space, images, context=context)

    def describe(self) -> dict[str, Any]:
        """What the driver schedules by."""
        return self._executor.describe()

    def train(self, part: Schedule) -> list[tuple[int, TrainResult]] | JointNASError:
        """Trains a part of a schedule; returns an error that ends the study as a value."""
        part = _with_keys(part, jax.random.wrap_key_data)
        try:
            return list(self._executor.train_schedule(part))
        except JointNASError as error:
            return StudyError(str(error))

    def process(self) -> int:
        """Number of the process, for tests."""
        return os.getpid()


class RayExecutor:
    """The executor on a Ray cluster; see `Executor`."""

    def __init__(
        self, config: Config, space: JointSpace, sample: Sequence[ArchSpec], context: RunContext
    ):
        """Starts a cluster here, or connects to `RAY_ADDRESS`, and starts the actors.

        Args:
          config: config of the study.
          space: space of all candidates.
          sample: architectures like the candidates, for the packer.
          context: context of the run.

        Raises:
          ConfigError: the cluster cannot be reached, or has no room for the actors.
          InputError: an actor cannot use the config.
        """
        self._config = config
        self._context = context
        folder = (context.folder or Path("/nonexistent")).resolve()
        lock = folder / LOCK
        self._lock = (folder, lock.read_text() if lock.is_file() else "")
        self.schedules: list[Schedule] = []
        self.workers: list[Any] = []
        self._waiting: collections.deque[Schedule] = collections.deque()
        self._running: dict[Any, tuple[Any, Schedule]] = {}  # reference -> actor, what it trains
        self._deaths: collections.Counter[tuple[int, ...]] = collections.Counter()
        _connect(config)
        try:
            self.workers = [self._start(context.speed_factors) for _ in range(config.ray.workers)]
            described = self._described(self.workers[0])
            self.pixels: dict[str, list[float]] = described["pixels"]
            hardware = dataclasses.replace(described["hardware"], workers=config.ray.workers)
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
        except BaseException:
            self.close()
            raise

    def train(
        self, jobs: Sequence[Job], *, later: int = 0, stored: Collection[int] = ()
    ) -> Results:
        """See `Executor`."""
        schedule = self._schedule(dict(enumerate(jobs)), later, stored)
        self._waiting.extend(part for part in self._scheduler.units(schedule) if part.waiting)
        schedule.report(self._context.progress)
        try:
            while self._waiting or self._running:
                yield from self._ended()
        finally:
            self._context.progress.batch_ends()
            for worker, _ in self._running.values():  # nobody waits for what they train
                self._replace(worker)
            for left in (self._waiting, self._running, self._deaths):
                left.clear()

    def _schedule(
        self, jobs: Mapping[int, Job], later: int, stored: Collection[int] = ()
    ) -> Schedule:
        schedule = self._scheduler.schedule(jobs, later=later, stored=stored)
        self.schedules.append(schedule)
        return schedule

    def free_lanes(self) -> int:
        """See `StreamingExecutor`."""
        return len(self.workers) - len(self._running) - len(self._waiting)

    def submit(self, position: int, job: Job, *, later: int, stored: bool = False) -> None:
        """See `StreamingExecutor`."""
        schedule = self._schedule({position: job}, later)
        if not stored:
            self._waiting.append(schedule)
            self._hand_out()

    def next_result(self) -> tuple[int, TrainResult] | None:
        """See `StreamingExecutor`."""
        while self._waiting or self._running:
            if ended := self._ended():
                return ended[0]
        return None

    def _ended(self) -> list[tuple[int, TrainResult]]:
        """Hands out what waits; the results of one part, [] where none has ended for a moment."""
        self._hand_out()
        ready, _ = ray.wait([*self._running], timeout=_LOOK)
        self._context.interrupt.check()
        return self._received(ready[0]) if ready else []

    def _hand_out(self) -> None:
        """Gives parts to actors that have none."""
        busy = [worker for worker, _ in self._running.values()]
        for worker in self.workers:
            if self._waiting and worker not in busy:
                part = self._waiting.popleft()
                portable = _with_keys(part, lambda key: np.asarray(jax.random.key_data(key)))
                self._running[worker.train.remote(portable)] = (worker, part)

    def _received(self, reference: Any) -> list[tuple[int, TrainResult]]:
        """The results of a part; where its actor died, it waits again, or has failed."""
        worker, part = self._running.pop(reference)
        try:
            answer = ray.get(reference)
        except ray.exceptions.RayActorError as error:
            self._replace(worker)
            name = tuple(part.jobs)
            self._deaths[name] += 1
            if self._deaths[name] <= self._config.ray.retries:
                self._context.progress.say("an actor died; what it trained is given to another")
                self._waiting.appendleft(part)
                return []
            reason = f"actor_died: {self._deaths[name]} actors died of it: {one_line(error)}"
            return [(i, TrainResult((), reason, None)) for i in part.waiting]
        except ray.exceptions.RayError as error:
            raise StudyError(f"Ray failed: {one_line(error)}") from error
        if isinstance(answer, JointNASError):
            raise answer
        return answer

    def _start(self, speed_factors: tuple[float, float] | None) -> Any:
        settings = self._config.ray
        passed = {n: v for n, v in os.environ.items() if n.startswith(_PASSED_ON)}
        # Those of the driver are its own.
        devices = self._config.study.devices or settings.cpus or 1
        passed["JAX_NUM_CPU_DEVICES"] = str(devices)
        actor = ray.remote(Worker).options(
            num_cpus=settings.cpus,
            num_gpus=settings.gpus,
            resources={"TPU": settings.tpus} if settings.tpus else None,
            runtime_env={"env_vars": passed},
        )
        return actor.remote(self._config, self._lock, speed_factors)

    def _replace(self, worker: Any) -> None:
        """Starts another actor for one that died, or that shall not go on."""
        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(worker)
        self.workers[self.workers.index(worker)] = self._start(self.speed_factors)

    def _described(self, worker: Any) -> dict[str, Any]:
        """What an actor says of itself, as soon as it is there."""
        reference = worker.describe.remote()
        while not ray.wait([reference], timeout=_LOOK)[0]:
            self._context.interrupt.check()
        try:
            return ray.get(reference)
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None) or error
            raise InputError(f"an actor of the fleet cannot start: {one_line(cause)}") from error

    def close(self) -> None:
        """Ends all actors, and the cluster if it was started here."""
        for worker in self.workers:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.kill(worker)
        ray.shutdown()


def _with_keys(part: Schedule, convert: Callable[[Any], Any]) -> Schedule:
    """A part with other keys and without callbacks, for another process or from one."""

    def converted(assignment: Assignment) -> Assignment:
        jobs = {
            i: dataclasses.replace(job, key=convert(job.key), progress=None)
            for i, job in assignment.jobs.items()
        }
        return dataclasses.replace(assignment, jobs=jobs)

    return part.part([converted(assignment) for assignment in part.assignments])


def _connect(config: Config) -> None:
    """Starts Ray, or connects to it; raises `ConfigError`."""
    settings = config.ray
    quiet = dict(log_to_driver=False, logging_level=logging.ERROR, configure_logging=True)
    before = signal.getsignal(signal.SIGTERM)
    try:
        if os.environ.get("RAY_ADDRESS"):
            ray.init(**quiet)
        else:
            cpus = max(settings.cpus * settings.workers, os.cpu_count() or 1)
            ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)
    except Exception as error:  # Ray raises many kinds
        where = os.environ.get("RAY_ADDRESS") or "a local cluster"
        raise ConfigError(f"Ray cannot be used at `{where}`: {one_line(error)}") from error
    finally:  # Ray takes SIGTERM for itself, which must save the study
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
