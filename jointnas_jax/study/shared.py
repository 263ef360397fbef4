"""Trains a share of a study's jobs: several drivers have one database, and claim what waits.

All plan the same. A driver claims a unit of the plan, trains it, and stores its trials, which the
others read. Trainings whose weights are kept every driver does itself: its workdir is its own.
"""

import contextlib
import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np

from jointnas_jax.config import Config
from jointnas_jax.data.source import Images
from jointnas_jax.errors import DamagedError, StorageError, StudyError
from jointnas_jax.space import ArchSpec, JointSpace
from jointnas_jax.study.claims import Claims
from jointnas_jax.study.evaluator import Evaluator
from jointnas_jax.study.jobs import Job, Keeping, Outcome
from jointnas_jax.study.planning import Planning, Unit
from jointnas_jax.study.progress import Progress
from jointnas_jax.study.store import Trial, TrialStore
from jointnas_jax.study.workdir import plain_config

# Seconds between two looks at what the others have stored.
_LOOK = 0.5
_TRIES = 10  # of a first look, while others write


class ClaimedStore:
    """A store that several drivers write: each trial is written by whoever claims it."""

    def __init__(self, store: TrialStore, claims: Claims):
        """Reads nothing yet.

        Args:
          store: of the study.
          claims: of this driver, which lives.
        """
        self._store, self.claims, self.place = store, claims, store.place
        self.seen: dict[int, Trial] = {}
        self.check: Callable[[], None] = lambda: None

    def look(self) -> None:
        """Reads what there is now; of a trial that is there twice the first one counts."""
        for trial in self._store.trials():
            self.seen.setdefault(trial.number, trial)

    def load(self) -> list[Trial]:
        """See `TrialStore`; what is written meanwhile may look like damage for a moment."""
        for left in reversed(range(_TRIES)):
            try:
                trials = self._store.load()
                break
            except DamagedError:
                if not left:
                    raise
                time.sleep(_LOOK)
        self.seen |= {trial.number: trial for trial in trials}
        return trials

    def append(self, trial: Trial, knobs: dict[str, Any]) -> None:
        """Writes a trial, unless another driver does or did.

        Raises:
          StudyError: that of another driver is of another candidate.
        """
        while trial.number not in self.seen:
            self.check()
            mine = self.claims.take(f"trial {trial.number}")
            self.look()  # the claim may be that of a dead driver which did write
            if mine and trial.number not in self.seen:
                self._store.append(trial, knobs)
                self.seen[trial.number] = trial
            elif trial.number not in self.seen:
                time.sleep(_LOOK)
        if self.seen[trial.number].candidate != trial.candidate:
            raise StudyError(
                f"another driver trained another candidate as trial {trial.number}: all of them "
                "need the same code, devices and versions"
            )

    def close(self) -> None:
        """Gives back what was claimed, and closes the store."""
        with contextlib.closing(self._store), contextlib.suppress(StorageError):
            self.claims.leave()


class Shared:
    """The executor of one of several drivers; see `Executor`."""

    def __init__(
        self,
        config: Config,
        space: JointSpace,
        images: tuple[Images, np.ndarray, Images],
        sample: Sequence[ArchSpec],
        keeping: Keeping,
    ):
        """Puts the images on the devices; arguments as of `Evaluator`."""
        self._keeping, self._count = keeping, 0
        self._store: ClaimedStore | None = None
        # What trains here is a part: this class tells of the whole.
        own = dataclasses.replace(keeping, progress=Progress())
        self._evaluator = Evaluator(config, space, *images, (), own)
        described = self._evaluator.describe()
        self.pixels, self.scales = described["pixels"], described["scales"]
        self.machine = described["machine"]
        hardware = dataclasses.replace(described["hardware"], workers=config.shared.drivers)
        self._planning = Planning(config, space, hardware, described["steps"], sample)
        self.packings = self._planning.packings

    def share(self, store: ClaimedStore) -> None:
        """Names the store, before anything trains."""
        self._store, store.check = store, self._keeping.interrupt.check

    def completed(
        self, jobs: Sequence[Job], later: int = 0, known: Collection[int] = ()
    ) -> Iterator[tuple[int, Outcome]]:
        """See `Executor`; all drivers make the same calls."""
        first, self._count = self._count, self._count + len(jobs)
        missing = set(range(len(jobs))) - set(known)
        units = self._planning.units(jobs, later, frozenset(known))
        progress = self._keeping.progress
        progress.batch_begins(len(missing), 0.0, 0.0, self.packings[-1].efficiency)
        try:
            while missing:
                self._keeping.interrupt.check()
                unit = self._claimed(units, first, missing)
                # Read after the claim: whoever had it may have stored something.
                self._store.look()
                yield from self._others(jobs, first, missing)
                if unit:
                    yield from self._own(unit, missing)
                elif missing:
                    time.sleep(_LOOK)
        finally:
            progress.batch_ends()

    def _claimed(self, units: Sequence[Unit], first: int, missing: set[int]) -> Unit | None:
        """The next unit of which this driver has to train something."""
        for unit in units:
            wanted = [i for i, p in enumerate(unit.positions) if p in missing]
            # Whoever planned other units claims others: better twice than never.
            members = hashlib.sha256(repr(unit.positions).encode()).hexdigest()[:8]
            if wanted and self._store.claims.take(f"unit {first + unit.positions[0]} {members}"):
                return unit
            if any(unit.jobs[i].kept for i in wanted):  # the rest is somebody else's
                known = frozenset(i for i, job in enumerate(unit.jobs) if not job.kept)
                return dataclasses.replace(unit, known=unit.known | known)
        return None

    def _others(
        self, jobs: Sequence[Job], first: int, missing: set[int]
    ) -> Iterator[tuple[int, Outcome]]:
        """What others have stored of the jobs whose weights are not kept."""
        for position in sorted(missing):
            trial = self._store.seen.get(first + position)
            if trial and not jobs[position].kept:
                missing.discard(position)
                told = (trial.accuracies, trial.reason, None, trial.seconds, trial.pack)
                yield position, Outcome(*told)

    def _own(self, unit: Unit, missing: set[int]) -> Iterator[tuple[int, Outcome]]:
        """Trains what is missing of a unit."""
        known = frozenset(i for i, p in enumerate(unit.positions) if p not in missing)
        unit = dataclasses.replace(unit, known=unit.known | known)
        trained = self._evaluator.train(unit.packs, unit.jobs_here(), unit.known)
        with contextlib.closing(trained):
            for place, outcome in trained:
                missing.discard(unit.positions[place])
                yield unit.positions[place], outcome

    def close(self) -> None:
        """Nothing of it runs elsewhere."""


def shared_name(config: Config) -> str:
    """Name of the study in the database: the same for all drivers, and another for each config."""
    digest = hashlib.sha256(json.dumps(plain_config(config), sort_keys=True).encode())
    return f"{config.name}-{digest.hexdigest()[:8]}"
