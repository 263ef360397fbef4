"""The files of a study: its workdir from the first look to the result."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from jointnas_jax.config import Config
from jointnas_jax.execution.executor import Executor
from jointnas_jax.files import read_json, saving, write_digest, write_json
from jointnas_jax.problem.latency_table import LatencyTable
from jointnas_jax.problem.problem import Problem, build_problem
from jointnas_jax.space import Candidate
from jointnas_jax.storage.lock import locked
from jointnas_jax.storage.provenance import Provenance
from jointnas_jax.storage.study_reader import open_store
from jointnas_jax.storage.trial_store import TrialStore
from jointnas_jax.storage.workdir import (
    PREDICTOR,
    RESULT,
    WEIGHTS,
    WorkdirState,
    look,
    start,
)
from jointnas_jax.study.trial_runner import new_store


class StudyFiles:
    """The workdir of a study.

    Attributes:
      workdir: folder of everything that the study writes.
      found: what the workdir holds, once it is owned.
      provenance: of the study, where it began before.
    """

    def __init__(self, workdir: Path, config: Config):
        """Looks at nothing yet."""
        self.workdir = workdir
        self.found = WorkdirState.NOTHING
        self.provenance: Provenance | None = None
        self._config = config

    @contextlib.contextmanager
    def owned(self, overwrite: bool) -> Iterator[None]:
        """Owns the workdir inside; raises what `locked` and `look` do."""
        with locked(self.workdir):
            if not overwrite:
                self.found = look(self.workdir, self._config)
            if self.found is WorkdirState.UNFINISHED:
                self.provenance = Provenance.read(self.workdir)
            yield

    def finished(self) -> dict[str, Any]:
        """The result of a finished study."""
        return read_json(self.workdir / RESULT)

    def problem(self) -> Problem:
        """Builds the problem, with the latencies that the study began with, if it did."""
        unfinished = self.found is WorkdirState.UNFINISHED
        table = LatencyTable.of_study(self._config, self.workdir) if unfinished else None
        return build_problem(self._config, table)

    def open(self, executor: Executor, problem: Problem, console: Console) -> TrialStore:
        """Opens the store, and begins the study where it did not begin before.

        Raises:
          InputError: the store or the workdir cannot be used, or the study not go on here.
        """
        workdir, config = self.workdir, self._config
        if self.provenance:
            self.provenance.check(config, executor.machine, console)
            return open_store(workdir, config.study.storage, self.provenance)
        provenance = Provenance.here(config, executor.machine, executor.speed_factors)
        store = new_store(workdir, config, provenance)
        provenance.write(workdir)
        if problem.latency:
            problem.latency.write(workdir)
        start(workdir, config)
        return store

    def weights(self, winner: str, candidate: Candidate) -> Path:
        """Writes a winner's candidate; returns the folder for its weights."""
        write_json(self.workdir / f"{winner}.json", candidate.to_dict())
        return self.workdir / WEIGHTS / winner

    def predictor(self, save: Callable[[Path], None]) -> None:
        """Writes the predictor, for `search_budgets`; raises `StorageError`."""
        with saving(self.workdir / PREDICTOR):
            save(self.workdir / PREDICTOR)
            write_digest(self.workdir / PREDICTOR)

    def result(self, result: dict[str, Any]) -> None:
        """Writes the result; raises `StorageError`."""
        write_json(self.workdir / RESULT, result, digest=True)
