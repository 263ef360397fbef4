"""The files of a study: its workdir from the first look to the result.

Of several processes only process 0 reads and writes there; it shares what the others need to know.
"""

import contextlib
import csv
import dataclasses
import io
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from optuna.distributions import BaseDistribution
from rich.console import Console

from jointnas_jax.config import Config
from jointnas_jax.data.source import Images
from jointnas_jax.data.summary import contact_sheet, in_words, summarise
from jointnas_jax.errors import ConfigError, DamagedError, StorageError
from jointnas_jax.execution.executor import Executor
from jointnas_jax.files import (
    check_digest,
    read_json,
    saving,
    write_digest,
    write_json,
    write_whole,
)
from jointnas_jax.problem.latency_table import LatencyTable
from jointnas_jax.problem.problem import Problem, build_problem
from jointnas_jax.rules import local_path
from jointnas_jax.runtime.distributed import is_first, share
from jointnas_jax.space import Candidate
from jointnas_jax.storage.foreign_trials import (
    as_rows,
    from_rows,
    kept_foreign,
    write_foreign,
)
from jointnas_jax.storage.lock import locked
from jointnas_jax.storage.provenance import Provenance
from jointnas_jax.storage.retry import begin_retry, retried_rows
from jointnas_jax.storage.study_reader import open_store
from jointnas_jax.storage.trial_store import STAGES, Trial, TrialStore
from jointnas_jax.storage.trial_table import csv_of
from jointnas_jax.storage.workdir import (
    CONTACT_SHEET,
    DATA,
    PAUSED,
    PREDICTOR,
    PROCESSES,
    RESULT,
    RETRIED,
    SPLITS,
    TABLE,
    WEIGHTS,
    WorkdirState,
    differences,
    look,
    plain_config,
    start,
    stored_config,
)
from jointnas_jax.study.trial_runner import new_store

# Options of the search that a trial's scores and epochs depend on.
_JUDGED = ("metric", "score", "stopping", "rungs")


class StudyFiles:
    """The workdir of a study.

    Attributes:
      workdir: folder of everything that this process writes.
      found: what the workdir holds, once it is owned.
      provenance: provenance of the study, where it began before and this is process 0.
    """

    def __init__(self, workdir: Path, config: Config):
        """Looks at nothing yet."""
        self._first = is_first()
        self._others = workdir / PROCESSES
        self.workdir = workdir if self._first else self._others / str(jax.process_index())
        self.found = WorkdirState.NOTHING
        self.provenance: Provenance | None = None
        self._config = config

    @contextlib.contextmanager
    def owned(self, overwrite: bool) -> Iterator[None]:
        """Owns the workdir inside; raises what `locked` and `look` do."""
        with locked(self.workdir) if self._first else contextlib.nullcontext():
            if self._first and not overwrite:
                self.found = look(self.workdir, self._config)
            self.found = WorkdirState(share(self.found.value))
            if self._first and self.found is WorkdirState.UNFINISHED:
                self.provenance = Provenance.read(self.workdir)
            if not self._first and self.found is WorkdirState.NOTHING:  # states of another study
                shutil.rmtree(self.workdir, ignore_errors=True)
            yield
            # Nothing goes on from there, and no process trains any more.
            shutil.rmtree(self._others, ignore_errors=True)

    def finished(self) -> dict[str, Any]:
        """The result of a finished study; {} where process 0 has it."""
        return read_json(self.workdir / RESULT) if self._first else {}

    def problem(self) -> Problem:
        """Builds the problem, with latencies and earlier studies as it began, if it did."""
        if not self._first:
            fields, rows = share(None)
            problem = build_problem(self._config, LatencyTable(**fields) if fields else None)
            return dataclasses.replace(problem, earlier=from_rows(rows))
        unfinished = self.found is WorkdirState.UNFINISHED
        table = LatencyTable.of_study(self._config, self.workdir) if unfinished else None
        problem = build_problem(self._config, table)
        if unfinished:
            problem = dataclasses.replace(problem, earlier=kept_foreign(self.workdir))
        latency = dataclasses.asdict(problem.latency) if problem.latency else None
        share([latency, as_rows(problem.foreign_studies)])
        return problem

    def open(self, executor: Executor, problem: Problem, console: Console) -> TrialStore:
        """Opens the store, and begins the study where it did not begin before.

        Raises:
          InputError: the store or the workdir cannot be used, or the study not go on here.
        """
        if not self._first:
            return _SharedTrials([Trial.from_dict(row) for row in share(None)])
        store = self._opened(executor, problem, console)
        if jax.process_count() > 1:
            share([dataclasses.asdict(trial) for trial in store.load()])
        return store

    def _opened(self, executor: Executor, problem: Problem, console: Console) -> TrialStore:
        workdir, config = self.workdir, self._config
        if self.provenance:
            dataset = problem.dataset.name
            self.provenance.check(config, executor.machine, console, dataset=dataset)
            store = open_store(workdir, config.study.storage, self.provenance)
            begin_retry(workdir, store, wanted=config.study.retry_failed)
            return store
        provenance = Provenance.here(
            config, executor.machine, executor.speed_factors, problem.dataset.name
        )
        store = new_store(workdir, config, provenance)
        provenance.write(workdir)
        if problem.latency:
            problem.latency.write(workdir)
        if problem.foreign_studies:
            write_foreign(workdir, problem.foreign_studies)
        start(workdir, config)
        return store

    def earlier(self, executor: Executor, problem: Problem, console: Console) -> list[Trial]:
        """The trials of the study that this one extends; [] where it extends none.

        Raises:
          InputError: it cannot be read, or is of other data, another space, training or seed.
          DamagedError: what is stored of it is not what was written.
        """
        if not (name := self._config.study.extend):
            return []
        rows: list[dict[str, Any]] = []
        if self._first:
            workdir = Path(local_path(name, "config.study.extend"))
            theirs, ours = plain_config(stored_config(workdir)), plain_config(self._config)
            differ = differences(_of_trainings(theirs), _of_trainings(ours))
            if differ:
                raise ConfigError(
                    f"`config.study.extend`: the trainings of `{workdir}` are others: {differ}"
                )
            dataset = problem.dataset.name
            provenance = Provenance.read(workdir)
            provenance.check(self._config, executor.machine, console, dataset=dataset)
            with contextlib.closing(
                open_store(workdir, self._config.study.storage, provenance, read_only=True)
            ) as store:
                rows = [dataclasses.asdict(trial) for trial in store.load()]
        return [Trial.from_dict(row) for row in share(rows)]

    def retried(self) -> list[Trial]:
        """The sound trials of this study that are asked for again after a failed one.

        Call it once the store is open.
        """
        rows = share(retried_rows(self.workdir) if self._first else None)
        trials = [Trial.from_dict(row) for row in rows]
        # Process 0 alone has weights, and all processes have to agree.
        return [t for t in trials if jax.process_count() == 1 or t.stage != STAGES[-1]]

    def data(self, problem: Problem, images: tuple[Images, np.ndarray, Images]) -> list[str]:
        """Writes what the dataset holds, unless it is there; returns it in words.

        Raises `StorageError`.
        """
        if not self._first:
            return []
        file, dataset = self.workdir / DATA, problem.dataset
        if not file.exists():
            train, validation, _ = images
            write_whole(self.workdir / CONTACT_SHEET, contact_sheet(train, dataset.labels))
            self._splits(problem, validation)
            summary = summarise(dataset, images, problem.config.data.train_split)
            write_json(file, summary, digest=True)
        return in_words(read_json(file))

    def _splits(self, problem: Problem, validation: np.ndarray) -> None:
        """Writes which file is in which part, where images are files."""
        data, dataset = problem.config.data, problem.dataset
        ours, theirs = dataset.file_names(data.train_split), dataset.file_names(data.test_split)
        if ours is None or theirs is None:
            return
        parts = np.where(validation, "validation", "training").tolist() + ["test"] * len(theirs)
        text = io.StringIO(newline="")
        rows = csv.writer(text)
        rows.writerow(["file", "part"])
        rows.writerows(zip(ours + theirs, parts, strict=True))
        write_whole(self.workdir / SPLITS, text.getvalue().encode(errors="surrogateescape"))

    def winner(self, name: str, candidate: Candidate) -> Path | None:
        """Writes a winner's candidate; see `weights`."""
        if self._first:
            write_json(self.workdir / f"{name}.json", candidate.to_dict())
        return self.weights(name)

    def weights(self, name: str) -> Path | None:
        """The folder for the weights of a winner or a reference; None in other processes."""
        return self.workdir / WEIGHTS / name if self._first else None

    def predictor(self, save: Callable[[Path], None]) -> None:
        """Writes the predictor, for `search_budgets`; raises `StorageError`."""
        if self._first:
            with saving(self.workdir / PREDICTOR):
                save(self.workdir / PREDICTOR)
                write_digest(self.workdir / PREDICTOR)

    def result(self, result: dict[str, Any], trials: Sequence[Trial]) -> None:
        """Writes the result, once the files that it speaks of are sound; raises `StorageError`.

        Before it the table of all trials.
        """
        if not self._first:
            return
        write_whole(self.workdir / TABLE, csv_of(trials))
        folders = [self.workdir / PREDICTOR]
        for rank, winner in enumerate(result["winners"]):
            weights = self.workdir / WEIGHTS / f"winner{rank}"
            seeds = enumerate(winner["test"]["seeds"])
            folders += [weights / f"seed{seed}" for seed, score in seeds if score is not None]
        try:
            for folder in folders:
                check_digest(folder)
        except DamagedError as error:
            again = "the same command writes it again, and goes on to the result"
            raise StorageError(f"{error}; {again}") from error
        write_json(self.workdir / RESULT, result, digest=True)
        shutil.rmtree(self.workdir / PAUSED, ignore_errors=True)
        (self.workdir / RETRIED).unlink(missing_ok=True)


def _of_trainings(config: dict[str, Any]) -> dict[str, Any]:
    """What of a config the results of its trainings depend on."""
    sections = ("seed", "mode", "data", "space", "default", "train", "arch")
    search = {name: config["search"][name] for name in _JUDGED}
    return {name: config.get(name) for name in sections} | {"search": search}


class _SharedTrials(TrialStore):
    """The stored trials in a process that stores none itself."""

    shared = True

    place = "the store of process 0"

    def __init__(self, trials: list[Trial]):
        """Takes the trials as process 0 shares them."""
        self._trials = trials

    def append(self, trial: Trial, knobs: dict[str, BaseDistribution]) -> None:
        """Process 0 does."""

    def load(self) -> list[Trial]:
        """See `TrialStore`."""
        return self._trials

    def close(self) -> None:
        """Nothing is open."""
