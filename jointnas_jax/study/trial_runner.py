"""Trains jobs, each of them once: what the store has does not train again."""

import collections
import contextlib
import dataclasses
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jointnas_jax.config import Config
from jointnas_jax.errors import DamagedError, InputError
from jointnas_jax.execution.executor import Executor, StreamingExecutor
from jointnas_jax.execution.job import Job, TrainResult
from jointnas_jax.files import check_digest
from jointnas_jax.problem.problem import Problem
from jointnas_jax.storage.database import sqlite_url
from jointnas_jax.storage.distributions import distributions
from jointnas_jax.storage.provenance import Provenance
from jointnas_jax.storage.trial_store import (
    COMPLETED,
    FAILED,
    PRUNED,
    SEARCHED,
    Trial,
    TrialStore,
)
from jointnas_jax.storage.weights import forget, load_answers, load_variables, save_variables
from jointnas_jax.storage.workdir import PAUSED, STATE, clear
from jointnas_jax.telemetry.progress import Progress
from jointnas_jax.train.paused import Paused


@dataclasses.dataclass(frozen=True)
class TrialSpec:
    """A trial before it trains.

    Attributes:
      stage: see `Trial`.
      job: to train; its candidate has vector and costs.
      round, seed: see `Trial`.
      predicted: score; None or nan where nothing was predicted.
      weights: folder for the trained weights; None where they are not stored.
      resumed: see `Trial`.
    """

    stage: str
    job: Job
    round: int | None = None
    seed: int | None = None
    predicted: float | None = None
    weights: Path | None = None
    resumed: int | None = None


class TrialRunner:
    """All trials of a study, in the order of their numbers.

    Attributes:
      executor: trains.
      count: trials so far.
      stored: number -> trial.
    """

    def __init__(
        self,
        problem: Problem,
        executor: Executor,
        store: TrialStore,
        *,
        workdir: Path,
        trainings: int,
        progress: Progress,
        earlier: Sequence[Trial] = (),
        retried: Sequence[Trial] = (),
    ):
        """Reads the stored trials.

        Args:
          problem: problem of the study.
          executor: trains.
          store: has the trials.
          workdir: folder for states.
          trainings: forecast for the whole study.
          progress: progress of the run.
          earlier: trials of another study, whose results hold here; failed ones count for nothing.
          retried: sound trials of this study, taken out of the store where one before them failed.

        Raises:
          DamagedError: a stored trial is not what was written.
        """
        self.executor = executor
        self.count = 0
        self._problem = problem
        self._store = store
        self._knobs = distributions(problem.space.knobs)
        self._workdir = workdir
        self._trainings = trainings
        self._progress = progress
        self.stored = {trial.number: trial for trial in store.load()}
        self._retried = {_name(t.stage, t.knobs, t): t for t in retried}
        others = {_name(t.stage, t.knobs, t): t for t in earlier if t.status != FAILED}
        self._earlier = others | self._retried

    def run(self, specs: Sequence[TrialSpec]) -> list[TrainResult]:
        """Trains the next trials as far as they are not stored, and stores each as it ends.

        The executor schedules the stored ones, too: programs, and with them the last bits of
        results, are those of an undisturbed run.

        Args:
          specs: at least one, all of one stage and round.

        Raises:
          DamagedError: a stored trial is of another candidate than the search proposes.
          StorageError: a trial or weights cannot be written.
          InterruptedStudyError: the run was interrupted.
        """
        first = self.count
        outcomes: dict[int, TrainResult] = {}
        for i, spec in enumerate(specs):
            if trial := self.stored.get(first + i):
                self.check(trial, spec)
                if trial.status == FAILED or _intact(spec.weights):
                    outcomes[i] = _stored_result(trial, spec.weights)
        for i, spec in enumerate(specs):
            if i not in outcomes and (trial := self._known(spec)):
                outcomes[i] = dataclasses.replace(
                    _stored_result(trial, spec.weights), pack=trial.pack, seconds=trial.seconds
                )
                if first + i not in self.stored:
                    self._forget_others(first + i, spec, trial)
                    self.append(first + i, spec, outcomes[i], status=trial.status)
        jobs = [s.job if i in outcomes else self._resumed(s) for i, s in enumerate(specs)]
        self._progress.batch(specs[0].stage, specs[0].round)
        later = max(0, self._trainings - first - len(jobs))
        # Closed, so that an error here stops what trains.
        stored = frozenset(outcomes)
        with contextlib.closing(self.executor.train(jobs, later=later, stored=stored)) as completed:
            for i, outcome in completed:
                outcome = self._whole(specs[i], jobs[i], outcome)
                if outcome.paused:
                    self._pause(first + i, outcome.paused)
                folder = specs[i].weights
                if folder is not None and outcome.reason is None:
                    save_variables(folder, outcome.variables, outcome.answers)
                if first + i not in self.stored:
                    self.append(first + i, specs[i], outcome)
                # Stored weights are on disk; the others would fill the memory.
                outcomes[i] = dataclasses.replace(outcome, variables=None, paused=None)
        self.end(len(jobs))
        self._progress.say(f"{specs[0].stage}: {self.executor.schedules[-1]}")
        if specs[0].round is None:  # else the round tells more
            self._progress.milestone()
        return [outcomes[i] for i in range(len(jobs))]

    def _known(self, spec: TrialSpec) -> Trial | None:
        """The sound trial that is the same training; where weights are kept, one of this study."""
        name = _name(spec.stage, self._knobs_of(spec), spec)
        if not spec.job.kept:
            return self._earlier.get(name)
        return self._retried.get(name) if spec.weights and _intact(spec.weights) else None

    def _forget_others(self, number: int, spec: TrialSpec, trial: Trial) -> None:
        """Removes the state of a number, unless it is that of this trial, which had the number."""
        name = _name(spec.stage, self._knobs_of(spec), spec)
        if self._retried.get(name) is not trial or trial.number != number:
            forget(self._paused(number))

    def _resumed(self, spec: TrialSpec) -> Job:
        """The job of a spec with the state that it goes on from; without one it begins again."""
        if spec.resumed is None:
            return spec.job
        assert spec.job.resumed is not None
        folder = self._paused(spec.resumed)
        try:
            arrays = load_variables(folder)
        except DamagedError as error:
            if self._store.shared:  # process 0 has it
                return spec.job
            self._progress.say(f"a training begins again: {error}")
            return dataclasses.replace(spec.job, resumed=None)
        return dataclasses.replace(spec.job, resumed=spec.job.resumed._replace(arrays=arrays))

    def _whole(self, spec: TrialSpec, job: Job, outcome: TrainResult) -> TrainResult:
        """The result of a training that went on, with what was measured before."""
        if spec.resumed is None or job.resumed is None:
            return outcome
        before = self.stored[spec.resumed]
        return dataclasses.replace(
            outcome,
            accuracies=before.accuracies + outcome.accuracies,
            scores=before.scores + outcome.scores,
        )

    def _pause(self, number: int, paused: Paused) -> None:
        """Stores the state of a training that can go on."""
        if not self._store.shared:
            save_variables(self._paused(number), dict(paused.arrays or {}))

    def _paused(self, number: int) -> Path:
        """The folder of the state after a trial."""
        return self._workdir / PAUSED / str(number)

    def searched(self, job: Job) -> TrainResult | None:
        """The result of a sound training of the search that was as long, without weights."""
        knobs = self._problem.knobs(job.candidate)
        for trial in self.stored.values():
            same = trial.knobs == knobs and trial.epochs == job.epochs
            if same and trial.stage in SEARCHED and trial.status == COMPLETED:
                return _stored_result(trial)
        return None

    def check(self, trial: Trial, spec: TrialSpec | None) -> None:
        """Raises `DamagedError` if a stored trial is not of a spec; None: the search has none."""
        if spec and (trial.stage, trial.knobs) == (spec.stage, self._knobs_of(spec)):
            return
        raise DamagedError(
            f"trial {trial.number} in `{self._store.place}` is of another candidate than this "
            "version of the program proposes there; start again with --overwrite"
        )

    def append(
        self,
        number: int,
        spec: TrialSpec,
        outcome: TrainResult,
        arrived: tuple[int, int] | None = None,
        status: str = "",
    ) -> None:
        """Stores a trial that has ended; `arrived` and `status` as in `Trial`.

        The status is given where it is another study's trial, which trained there.
        """
        costs, predicted = spec.job.candidate.costs, spec.predicted
        assert costs is not None
        trial = Trial(
            number=number,
            stage=spec.stage,
            round=spec.round,
            seed=spec.seed,
            knobs=self._knobs_of(spec),
            costs=costs,
            predicted=predicted if predicted is not None and math.isfinite(predicted) else None,
            epochs=spec.job.epochs,
            **measured(outcome) | ({"status": status} if status else {}),
            arrived=arrived,
            resumed=spec.resumed,
        )
        self._store.append(trial, self._knobs)
        self.stored[number] = trial
        if spec.resumed is not None:
            forget(self._paused(spec.resumed))
        if not status:  # it trained here
            self._progress.trial(trial)

    def end(self, count: int) -> None:
        """So many trials, the next ones, are all stored."""
        self.count += count
        # Not before: they would have to start again.
        shutil.rmtree(self._workdir / STATE, ignore_errors=True)

    def reasons(self) -> list[str]:
        """Why trials failed, each reason once."""
        return sorted({trial.reason for trial in self.stored.values() if trial.reason})

    def _knobs_of(self, spec: TrialSpec) -> dict[str, Any]:
        return self._problem.knobs(spec.job.candidate)


class TrialStream:
    """The next trials one by one: what is stored comes first, as it came then.

    So what the search asks for is what it asked for then, and the rest follows.
    """

    def __init__(self, runner: TrialRunner, progress: Progress, *, count: int, rounds: int):
        """Trains nothing yet; at most `count` trials come, in the place of so many `rounds`."""
        assert isinstance(runner.executor, StreamingExecutor)
        self._executor: StreamingExecutor = runner.executor
        self._runner = runner
        self._progress = progress
        self._count = count
        self._rounds = rounds
        self._first = runner.count
        self._specs: list[TrialSpec] = []
        later = [t for number, t in runner.stored.items() if number >= self._first]
        # Results before each, candidates asked for before it, and the trial.
        arrivals = [(t.arrived[1], t.arrived[0], t) for t in later if t.arrived]
        self._stored = collections.deque(sorted(arrivals, key=lambda arrival: arrival[0]))
        self._results = 0
        if not self._stored:
            self._begin()

    def takes_more(self) -> bool:
        """Whether the search is to ask for a candidate now."""
        if self._stored:
            return len(self._specs) < self._stored[0][1]
        return self._executor.free_lanes() > 0

    def submit(self, spec: TrialSpec) -> None:
        """Has a trial trained; raises `DamagedError` if one of another candidate is stored."""
        number = self._first + len(self._specs)
        self._progress.batch(spec.stage, spec.round)
        self._specs.append(spec)
        if trial := self._runner.stored.get(number):
            self._runner.check(trial, spec)
        if not self._stored:
            self._executor.submit(number, spec.job, later=self._count)

    def next_result(self) -> tuple[int, TrainResult] | None:
        """Waits for the result of a trial, and stores it; None where nothing trains.

        Raises:
          DamagedError: a stored trial was never asked for.
        """
        if self._stored:
            _, asked, trial = self._stored.popleft()
            if asked > len(self._specs):
                self._runner.check(trial, None)
            self._results += 1
            if not self._stored:
                self._begin()
            return trial.number, _stored_result(trial)
        if (ended := self._executor.next_result()) is None:
            self._progress.batch_ends()
            self._runner.end(len(self._specs))
            return None
        number, outcome = ended
        arrived = (len(self._specs), self._results)
        self._runner.append(number, self._specs[number - self._first], outcome, arrived)
        self._results += 1
        return number, outcome

    def _begin(self) -> None:
        """Nothing stored is left."""
        # One part in the place of all rounds that were forecast.
        for _ in range(self._rounds - 1):
            self._progress.batch_begins(0, 0.0, 0.0, 1.0)
        self._progress.batch_begins(self._count - self._results, 0.0, 0.0, 1.0)
        asked = list(enumerate(self._specs, self._first))
        # The executor schedules the stored ones, too, so that programs are those they were.
        for number, spec in asked:
            self._executor.submit(number, spec.job, later=self._count, stored=True)
        for number, spec in asked:
            if number not in self._runner.stored:
                self._executor.submit(number, spec.job, later=self._count)


def _name(stage: str, knobs: Mapping[str, Any], of: Trial | TrialSpec) -> tuple[Any, ...]:
    """What tells trainings apart that have the same data, settings and seed of the study."""
    epochs = of.epochs if isinstance(of, Trial) else of.job.epochs
    return stage, repr(sorted(knobs.items())), epochs, of.seed, of.resumed is not None


def _stored_result(trial: Trial, weights: Path | None = None) -> TrainResult:
    """What the training of a stored trial returned, without weights."""
    answers = load_answers(weights) if weights and trial.status == COMPLETED else None
    return TrainResult(trial.accuracies, trial.reason, None, scores=trial.scores, answers=answers)


def measured(outcome: TrainResult) -> dict[str, Any]:
    """What a trial says of its training."""
    status = FAILED
    if outcome.reason is None:
        status = PRUNED if outcome.paused else COMPLETED
    return {
        "accuracies": outcome.accuracies,
        "scores": outcome.scores,
        "score": outcome.score,
        "status": status,
        "reason": outcome.reason,
        "pack": outcome.pack,
        "seconds": round(outcome.seconds, 3),
    }


def new_store(workdir: Path, config: Config, provenance: Provenance) -> TrialStore:
    """Makes a store, and room in the workdir; in a server too, where an earlier study of it is.

    Raises:
      InputError: the store or the workdir cannot be used.
    """
    try:
        earlier = Provenance.read(workdir)
    except (InputError, DamagedError):  # there is none
        earlier = provenance
    # A server is asked before anything is removed.
    server = TrialStore(config.study.storage, provenance.study) if provenance.storage else None
    clear(workdir)
    store = server or TrialStore(sqlite_url(workdir), provenance.study)
    store.create()
    if earlier.storage == provenance.storage and earlier.study != provenance.study:
        store.remove(earlier.study)
    return store


def _intact(folder: Path | None) -> bool:
    """Whether weights are as they were written; True where there are none to keep."""
    try:
        if folder is not None:
            check_digest(folder)
    except DamagedError:
        return False
    return True
