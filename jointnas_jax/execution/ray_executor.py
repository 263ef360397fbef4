"""Trains on a Ray cluster: one actor for each set of devices, packs go to whoever is free.

Ray starts the actors, finds them places and tells when one dies. The driver plans for all of them
as one process with as many devices would, so results are those of such a process.
"""

import collections
import contextlib
import dataclasses
import logging
import os
import signal
import threading
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from jointnas_jax.config import Config
from jointnas_jax.errors import ConfigError, InputError, JointNASError, StudyError, one_line
from jointnas_jax.execution.job import Job, RunContext, TrainResult
from jointnas_jax.execution.local import Evaluator
from jointnas_jax.execution.planning import Planning, Unit
from jointnas_jax.problem.problem import build_problem
from jointnas_jax.space import ArchSpec, JointSpace
from jointnas_jax.storage.lock import FILE as LOCK
from jointnas_jax.telemetry.console import plain_console
from jointnas_jax.telemetry.progress import Progress

try:
    import ray
except ImportError as error:
    raise ConfigError(
        "`config.executor` = `ray` needs the extra `ray`: pip install -e '.[ray]'"
    ) from error

# Seconds between two looks at whether the run was interrupted.
_LOOK = 0.2
# What JAX in an actor is told by the environment of the driver.
_PASSED_ON = ("JAX_", "XLA_", "XDG_CACHE_HOME", "PYTHONPATH")


class Worker:
    """What an actor is: an evaluator that makes itself from the config."""

    def __init__(
        self, config: Config, lock: tuple[Path, str], speed_factors: tuple[float, float] | None
    ):
        """Reads the images.

        Args:
          config: of the study.
          lock: the workdir, and what its lock says; states are kept where that is seen.
          speed_factors: of the planner, where they are known.
        """
        from jointnas_jax.runtime.jax_setup import prepare_jax

        prepare_jax(config.study.devices)
        folder, text = lock
        shared = (folder / LOCK).is_file() and (folder / LOCK).read_text() == text
        keeping = RunContext(
            folder if shared else None, speed_factors, progress=Progress(plain_console())
        )
        problem = build_problem(config)
        images = problem.divided_images()
        self._evaluator = Evaluator(config, problem.space, *images, keeping=keeping)

    def describe(self) -> dict[str, Any]:
        """What the driver plans by."""
        return self._evaluator.describe()

    def train(self, unit: Unit) -> list[tuple[int, TrainResult]] | JointNASError:
        """Trains a unit; an error that ends the study comes back as a value."""
        try:
            return self._evaluator.train_unit(unit)
        except JointNASError as error:
            return StudyError(str(error))

    def process(self) -> int:
        """Number of the process, for tests."""
        return os.getpid()


class RayExecutor:
    """The executor on a Ray cluster; see `Executor`."""

    def __init__(
        self, config: Config, space: JointSpace, sample: Sequence[ArchSpec], keeping: RunContext
    ):
        """Starts a cluster here, or connects to `RAY_ADDRESS`, and starts the actors.

        Args:
          config: of the study.
          space: of all candidates.
          sample: architectures like them, for the planner.
          keeping: where the workdir is, and what can end the run.

        Raises:
          ConfigError: the cluster cannot be reached, or has no room for the actors.
          InputError: an actor cannot use the config.
        """
        self._config, self._keeping = config, keeping
        folder = (keeping.folder or Path("/nonexistent")).resolve()
        lock = folder / LOCK
        self._lock = (folder, lock.read_text() if lock.is_file() else "")
        _connect(config)
        self.workers: list[Any] = []
        self._waiting: collections.deque[Unit] = collections.deque()
        self._running: dict[Any, tuple[Any, Unit]] = {}  # reference -> actor and what it trains
        self._deaths: collections.Counter[tuple[int, ...]] = collections.Counter()
        try:
            self.workers = [self._start(keeping.speed_factors) for _ in range(config.ray.workers)]
            described = self._described(self.workers[0])
            self.speed_factors, self.pixels = described["speed_factors"], described["pixels"]
            hardware = dataclasses.replace(described["hardware"], workers=config.ray.workers)
            self.machine = described["machine"] | {"devices": hardware.all_devices}
            self._planning = Planning(config, space, hardware, described["steps"], sample)
        except BaseException:
            self.close()
            raise
        self.packings = self._planning.packings

    def completed(
        self, jobs: Sequence[Job], later: int = 0, known: Collection[int] = ()
    ) -> Iterator[tuple[int, TrainResult]]:
        """See `Executor`."""
        units = self._planning.units(jobs, later, frozenset(known))
        self._waiting.extend(unit for unit in units if unit.wanted)
        useful = self.packings[-1].efficiency
        trainings = sum(len(unit.wanted) for unit in self._waiting)
        progress = self._keeping.progress
        progress.batch_begins(trainings, 0.0, 0.0, useful)
        try:
            while self._waiting or self._running:
                yield from self._ended()
        finally:
            progress.batch_ends()
            for worker, _ in self._running.values():  # nobody waits for what they train
                self._replace(worker)
            for left in (self._waiting, self._running, self._deaths):
                left.clear()

    def free_lanes(self) -> int:
        """See `StreamingExecutor`."""
        return len(self.workers) - len(self._running) - len(self._waiting)

    def submit(self, position: int, job: Job, *, later: int, stored: bool = False) -> None:
        """See `StreamingExecutor`."""
        (unit,) = self._planning.units([job], later, frozenset())
        if not stored:
            self._waiting.append(dataclasses.replace(unit, positions=(position,)))
            self._hand_out()

    def next_result(self) -> tuple[int, TrainResult] | None:
        """See `StreamingExecutor`."""
        while self._waiting or self._running:
            if ended := self._ended():
                return ended[0]
        return None

    def _ended(self) -> list[tuple[int, TrainResult]]:
        """Hands out what waits; the results of one unit, [] where none has ended for a moment."""
        self._hand_out()
        ready, _ = ray.wait([*self._running], timeout=_LOOK)
        self._keeping.interrupt.check()
        return self._received(ready[0]) if ready else []

    def _hand_out(self) -> None:
        """Gives units to actors that have none."""
        busy = [worker for worker, _ in self._running.values()]
        for worker in self.workers:
            if self._waiting and worker not in busy:
                unit = self._waiting.popleft()
                self._running[worker.train.remote(unit)] = (worker, unit)

    def _received(self, reference: Any) -> list[tuple[int, TrainResult]]:
        """The results of a unit; where its actor died, it waits again, or has failed."""
        worker, unit = self._running.pop(reference)
        try:
            answer = ray.get(reference)
        except ray.exceptions.RayActorError as error:
            self._replace(worker)
            self._deaths[unit.positions] += 1
            deaths = self._deaths[unit.positions]
            if deaths <= self._config.ray.retries:
                self._keeping.progress.say("an actor died; what it trained is given to another")
                self._waiting.appendleft(unit)
                return []
            reason = f"actor_died: {deaths} actors died of it: {one_line(error)}"
            return [(i, TrainResult((), reason, None)) for i in unit.wanted]
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
            self._keeping.interrupt.check()
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
