"""What a study keeps in its workdir; of several processes only process 0 reads and writes there."""

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from jointnas_jax.config import Config
from jointnas_jax.files import read_json, saving, write_digest, write_json
from jointnas_jax.space import Candidate
from jointnas_jax.study.executor import Executor
from jointnas_jax.study.latency import LatencyTable
from jointnas_jax.study.lock import locked
from jointnas_jax.study.origin import Origin
from jointnas_jax.study.peers import Peers
from jointnas_jax.study.problem import Problem, build_problem
from jointnas_jax.study.record import open_store
from jointnas_jax.study.store import Trial, TrialStore
from jointnas_jax.study.trials import new_store
from jointnas_jax.study.workdir import (
    PREDICTOR,
    PROCESSES,
    RESULT,
    WEIGHTS,
    Found,
    look,
    start,
)


class Ledger:
    """The workdir of a study; the others are told what process 0 finds there, and write nothing.

    Attributes:
      folder: for states of trainings: the workdir, or this process's own folder in it.
      found: what the workdir holds, once it is owned.
      origin: of the study, where it began before and this process reads it.
    """

    def __init__(self, workdir: Path, config: Config, peers: Peers):
        """Looks at nothing yet."""
        self._workdir, self._config, self._peers = workdir, config, peers
        self._first = peers.first
        self.folder = workdir if peers.first else workdir / PROCESSES / str(peers.process)
        self.found, self.origin = Found.NOTHING, None

    @contextlib.contextmanager
    def owned(self, overwrite: bool) -> Iterator[None]:
        """Owns the workdir inside; raises what `locked` and `look` do."""
        with locked(self._workdir) if self._first else contextlib.nullcontext():
            if self._first and not overwrite:
                self.found = look(self._workdir, self._config)
            self.found = Found(self._peers.share("found", self.found.value))
            if self._first and self.found is Found.UNFINISHED:
                self.origin = Origin.read(self._workdir)
            if not self._first and self.found is Found.NOTHING:  # states of another study
                shutil.rmtree(self.folder, ignore_errors=True)
            yield
            # Nothing goes on from there, and no process trains any more.
            shutil.rmtree(self._workdir / PROCESSES, ignore_errors=True)

    def finished(self) -> dict[str, Any]:
        """The result of a finished study; {} where another process reads it."""
        return read_json(self._workdir / RESULT) if self._first else {}

    def problem(self) -> Problem:
        """Builds the problem, with the latencies that the study began with, if it did."""
        table = None
        if self._first and self.found is Found.UNFINISHED:
            table = LatencyTable.of_study(self._config, self._workdir)
        problem = build_problem(self._config, table) if self._first else None
        known = problem and problem.latency
        told = self._peers.share("latency", known and dataclasses.asdict(known))
        return problem or build_problem(self._config, told and LatencyTable(**told))

    def met(self, problem: Problem) -> Problem:
        """Meets others that run the study, now that all input is known to be sound.

        Returns:
          The problem; another one where they began with other latencies.
        """
        return problem

    def open(self, executor: Executor, problem: Problem, console: Console) -> "TrialStore":
        """Opens the store, and begins the study where it did not begin before.

        Raises:
          InputError: the store or the workdir cannot be used, or the study not go on here.
        """
        if not self._first:
            return PeersStore(self._peers, None)
        workdir, config = self._workdir, self._config
        if self.origin:
            self.origin.check(config, executor.machine, console)
            store = open_store(workdir, config.study.storage, self.origin)
        else:
            origin = Origin.here(config, executor.machine, executor.scales)
            store = new_store(workdir, config, origin)
            origin.write(workdir)
            if problem.latency:
                problem.latency.write(workdir)
            start(workdir, config)
        return store if self._peers.processes == 1 else PeersStore(self._peers, store)

    def weights(self, winner: str, candidate: Candidate) -> Path | None:
        """Writes a winner; returns the folder for its weights, None where another one does."""
        if not self._first:
            return None
        write_json(self._workdir / f"{winner}.json", candidate.to_dict())
        return self._workdir / WEIGHTS / winner

    def predictor(self, save: Callable[[Path], None]) -> None:
        """Has the predictor written, for `search_budgets`; raises `StorageError`."""
        if self._first:
            with saving(self._workdir / PREDICTOR):
                save(self._workdir / PREDICTOR)
                write_digest(self._workdir / PREDICTOR)

    def result(self, result: dict[str, Any]) -> None:
        """Writes the result; raises `StorageError`."""
        if self._first:
            write_json(self._workdir / RESULT, result, digest=True)


class PeersStore:
    """The trials of a study, for one of several processes: a store that process 0 alone has."""

    def __init__(self, peers: Peers, store: TrialStore | None):
        """Wraps the store; None where another process has it."""
        self._peers, self._store = peers, store
        self.place = store.place if store else "the store of process 0"

    def load(self) -> list[Trial]:
        """See `TrialStore`."""
        rows = [dataclasses.asdict(trial) for trial in self._store.load()] if self._store else None
        tell = lambda row: Trial(**row | {"accuracies": tuple(row["accuracies"])})
        return [tell(row) for row in self._peers.share("trials", rows)]

    def append(self, trial: Trial, knobs: dict[str, Any]) -> None:
        """See `TrialStore`."""
        if self._store:
            self._store.append(trial, knobs)

    def close(self) -> None:
        """See `TrialStore`."""
        if self._store:
            self._store.close()
