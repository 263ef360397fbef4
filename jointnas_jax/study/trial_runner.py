"""Trains jobs, each of them once: what the store has does not train again."""

import collections
import contextlib
import dataclasses
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jointnas_jax.config import Config
from jointnas_jax.errors import DamagedError, InputError
from jointnas_jax.execution.executor import Executor
from jointnas_jax.execution.job import Job, TrainResult
from jointnas_jax.files import check_digest
from jointnas_jax.space import ArchSpec, JointSpace
from jointnas_jax.storage.database import sqlite_url
from jointnas_jax.storage.distributions import distributions
from jointnas_jax.storage.provenance import Provenance
from jointnas_jax.storage.trial_store import COMPLETED, FAILED, Trial, TrialStore
from jointnas_jax.storage.weights import save_variables
from jointnas_jax.storage.workdir import STATE, clear
from jointnas_jax.telemetry.progress import Progress


@dataclasses.dataclass(frozen=True)
class Batch:
    """Trainings of one stage.

    Attributes:
      stage: as in `Trial`.
      vectors: `int32[N, K]`, the candidates.
      jobs: N.
      round: as in `Trial`.
      predicted: `float32[N]`, nan where nothing was predicted; None: nowhere.
      seeds: N, as in `Trial`; None: each trains once.
      weights: N folders to keep weights in, or None for those that are not kept; None: for none.
    """

    stage: str
    vectors: np.ndarray
    jobs: Sequence[Job]
    round: int | None = None
    predicted: np.ndarray | None = None
    seeds: Sequence[int] | None = None
    weights: Sequence[Path | None] | None = None


class Trials:
    """All trials of a study, in the order of their numbers.

    Attributes:
      count: of trials so far.
      stored: number -> trial.
    """

    def __init__(
        self,
        evaluator: Executor,
        store: TrialStore,
        space: JointSpace,
        workdir: Path,
        planned: int,
        progress: Progress,
        costs_of: Callable[[ArchSpec], dict[str, int]],
    ):
        """Reads what an earlier run of the study stored.

        Args:
          evaluator: trains.
          store: of the study.
          space: of the study.
          workdir: of the study.
          planned: trainings in all.
          progress: told of trials.
          costs_of: costs of an architecture by name.

        Raises:
          DamagedError: a stored trial is not what was written.
        """
        self.count = 0
        self._evaluator, self._store, self._space = evaluator, store, space
        self._knobs = distributions(space.knobs)
        self._workdir, self._planned, self._progress = workdir, planned, progress
        self._costs_of = costs_of
        self.stored = {trial.number: trial for trial in store.load()}

    def run(self, batch: Batch) -> list[TrainResult]:
        """Trains what is not stored, and stores a trial for each as soon as it is there.

        What is stored is planned all the same: programs, and with them the last bits of results,
        are those of an undisturbed run.

        Raises:
          DamagedError: a stored trial is of another candidate than the search proposes.
          StorageError: a trial or weights cannot be written.
          InterruptedStudyError: the run was interrupted.
        """
        first, jobs = self.count, batch.jobs
        outcomes: dict[int, TrainResult] = {}
        for i in range(len(jobs)):
            trial = self.stored.get(first + i)
            if trial is not None:
                self._check(trial, batch, i)
                if trial.status == FAILED or _intact(_folder(batch, i)):
                    outcomes[i] = TrainResult(trial.accuracies, trial.reason, None)
        self._progress.batch(batch.stage, batch.round)
        later = max(0, self._planned - first - len(jobs))
        training = self._evaluator.train(jobs, later=later, stored=frozenset(outcomes))
        # Closed, so that an error here stops what trains.
        with contextlib.closing(training):
            for i, outcome in training:
                folder = _folder(batch, i)
                if folder is not None and outcome.reason is None:
                    save_variables(folder, outcome.variables)
                if first + i not in self.stored:
                    self._append(batch, i, first + i, outcome)
                # What is kept is on disk; the rest would fill the memory.
                outcomes[i] = dataclasses.replace(outcome, variables=None)
        self.count += len(jobs)
        # Not before all are stored: they would have to start again.
        shutil.rmtree(self._workdir / STATE, ignore_errors=True)
        self._progress.say(f"{batch.stage}: {self._evaluator.schedules[-1]}")
        if batch.round is None:  # else the round tells more
            self._progress.milestone()
        return [outcomes[i] for i in range(len(jobs))]

    def close(self) -> None:
        """Closes the store."""
        self._store.close()

    def reasons(self) -> list[str]:
        """Why trials failed, each reason once."""
        return sorted({trial.reason for trial in self.stored.values() if trial.reason})

    def _check(self, trial: Trial, batch: Batch, i: int) -> None:
        proposed = (batch.stage, self._space.values(batch.vectors[i]))
        if (trial.stage, trial.knobs) != proposed:
            raise DamagedError(
                f"trial {trial.number} in `{self._store.place}` is of another candidate than this "
                "version of the program proposes there; start again with --overwrite"
            )

    def stream(
        self,
        stage: str,
        ask: Callable[[], Batch | None],
        tell: Callable[[int, TrainResult], None],
        count: int,
        rounds: int,
    ) -> None:
        """Trains candidates as they are asked for, each of them once, and stores them.

        What is stored was told at a certain moment of the search, and is so again: candidates that
        follow are those that followed then.

        Args:
          stage: of the trials.
          ask: gives a batch of one, None where there is no more to train.
          tell: told of each outcome, with its position in the order of asking.
          count: how many there will be.
          rounds: that were forecast in their place.

        Raises:
          DamagedError: a stored trial is of another candidate than the search proposes.
        """
        first = self.count
        stored = [t for n, t in sorted(self.stored.items()) if n >= first and t.arrived]
        there = {trial.number - first: trial for trial in stored}
        told = collections.deque(sorted(stored, key=lambda trial: trial.arrived[1]))
        line = _Line(ask, there, lambda trial, batch: self._check(trial, batch, 0))
        while told:
            if told[0].arrived[0] <= len(line.batches):
                trial = told.popleft()
                tell(trial.number - first, TrainResult(trial.accuracies, trial.reason, None))
            elif not line.ask():
                lost = f"trial {told[0].number} in `{self._store.place}`"
                raise DamagedError(f"{lost} was never asked for; start again with --overwrite")
        self._progress.batch(stage)
        # One part in the place of all rounds that were forecast.
        for _ in range(rounds - 1):
            self._progress.batch_begins(0, 0.0, 0.0, 1.0)
        self._progress.batch_begins(count - len(there), 0.0, 0.0, 1.0)
        known, past = len(stored), [batch.jobs[0] for batch in line.batches]
        with contextlib.closing(self._evaluator.streamed(line.next_job, count, past)) as streamed:
            for position, outcome in streamed:
                arrived = (len(line.batches), known)
                self._append(line.batches[position], 0, first + position, outcome, arrived)
                tell(position, outcome)
                known += 1
        self.count += len(line.batches)
        shutil.rmtree(self._workdir / STATE, ignore_errors=True)

    def _append(
        self,
        batch: Batch,
        i: int,
        number: int,
        outcome: TrainResult,
        arrived: tuple[int, int] | None = None,
    ) -> None:
        predicted = None if batch.predicted is None else float(batch.predicted[i])
        trial = Trial(
            number=number,
            stage=batch.stage,
            round=batch.round,
            seed=batch.seeds[i] if batch.seeds else None,
            knobs=self._space.values(batch.vectors[i]),
            costs=self._costs_of(batch.jobs[i].candidate.arch),
            predicted=predicted if predicted is not None and math.isfinite(predicted) else None,
            epochs=batch.jobs[i].epochs,
            **measured(outcome),
            arrived=arrived,
        )
        self._store.append(trial, self._knobs)
        self.stored[trial.number] = trial
        self._progress.trial(trial)


class _Line:
    """Candidates in the order of asking: those that are stored, and those that are to train.

    Attributes:
      batches: of one each.
    """

    def __init__(
        self,
        ask: Callable[[], Batch | None],
        stored: Mapping[int, Trial],
        check: Callable[[Trial, Batch], None],
    ):
        """Nothing is asked for yet.

        Args:
          ask: see `Trials.stream`.
          stored: position -> trial.
          check: raises where a trial is not of the candidate of a batch.
        """
        self.batches: list[Batch] = []
        self._ask, self._stored, self._check = ask, stored, check
        self._waiting: collections.deque[int] = collections.deque()

    def ask(self) -> bool:
        """Asks for one more; whether there is one."""
        batch = self._ask()
        if batch is None:
            return False
        position = len(self.batches)
        self.batches.append(batch)
        if position in self._stored:
            self._check(self._stored[position], batch)
        else:
            self._waiting.append(position)
        return True

    def next_job(self) -> tuple[int, Job] | None:
        """A job that waits to train, with its position; if there is none, a new one."""
        if not self._waiting:
            self.ask()
        if not self._waiting:
            return None
        position = self._waiting.popleft()
        return position, self.batches[position].jobs[0]


def measured(outcome: TrainResult) -> dict[str, Any]:
    """What a trial says of its training."""
    ok = outcome.reason is None
    return {
        "accuracies": outcome.accuracies,
        "score": outcome.accuracy,
        "status": COMPLETED if ok else FAILED,
        "reason": outcome.reason,
        "pack": outcome.pack,
        "seconds": round(outcome.seconds, 3),
    }


def new_store(workdir: Path, config: Config, origin: Provenance) -> TrialStore:
    """Makes a store, and room in the workdir; in a server too, where an earlier study of it is.

    Raises:
      InputError: the store or the workdir cannot be used.
    """
    try:
        earlier = Provenance.read(workdir)
    except (InputError, DamagedError):  # there is none
        earlier = origin
    # A server is asked before anything is removed.
    server = TrialStore(config.study.storage, origin.study) if origin.storage else None
    clear(workdir)
    store = server or TrialStore(sqlite_url(workdir), origin.study)
    store.create()
    if earlier.storage == origin.storage and earlier.study != origin.study:
        store.remove(earlier.study)
    return store


def _folder(batch: Batch, i: int) -> Path | None:
    return batch.weights[i] if batch.weights else None


def _intact(folder: Path | None) -> bool:
    """Whether weights are as they were written; True where there are none to keep."""
    try:
        if folder is not None:
            check_digest(folder)
    except DamagedError:
        return False
    return True
