"""The trials of a study, in Optuna's RDB storage.

Every stage is an Optuna study of its own, so that its scores can be compared: `optuna-dashboard`
and `optuna.load_study` open them as they are. A trial is written once, in one transaction, with a
digest of its content beside it, and never changes.
"""

import dataclasses
import datetime
import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import optuna
import sqlalchemy
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from jointnas_jax.errors import DamagedError, InputError, StorageError, needs_extra, one_line
from jointnas_jax.files import UNREADABLE
from jointnas_jax.storage.database import parse_url, public_name, without_secrets
from jointnas_jax.storage.sqlite_file import SqliteFile
from jointnas_jax.storage.workdir import TRIALS

# 2: the stage `validate` was called `final`.
SCHEMA = 2
COMPLETED, FAILED, PRUNED = "COMPLETED", "FAILED", "PRUNED"
STAGES = ("coarse", "random", "validate", "retrain")
# Those with one training of each candidate.
SEARCHED = STAGES[:2]

# Fields that are stored where they hold something.
_OPTIONAL = ("arrived", "scores", "resumed")
# What reading raises where the content makes no sense.
_UNREADABLE = (*UNREADABLE, AssertionError)
# Words of SQLite where a sound file cannot be used.
_NOT_DAMAGE = ("locked", "full", "readonly", "unable to open", "disk I/O")
_POSTGRES = "postgresql+psycopg2"
_STATES = {
    COMPLETED: TrialState.COMPLETE,
    FAILED: TrialState.FAIL,
    PRUNED: TrialState.PRUNED,
}


@dataclasses.dataclass(frozen=True)
class Trial:
    """One evaluation of a candidate.

    Attributes:
      number: Position in the study, from 0.
      stage: `coarse`, `random`, `validate` (finalists and references with all seeds), all three
        with validation accuracy, or `retrain`, on the whole training split with test accuracy.
      round: Round of the coarse stage, from 1; None elsewhere.
      seed: Index among repeated trainings, from 0; None where there is one.
      knobs: Value of every knob.
      costs: Name -> integer cost.
      predicted: Predicted score before the trial, if any.
      epochs: Epochs trained, those before a pause included.
      accuracies: Accuracy after each epoch, fractions in [0, 1].
      score: What candidates are compared by (`config.search.score`), after the last epoch; None
        where the trial failed.
      status: `COMPLETED`, `FAILED`, or `PRUNED`: it paused at a rung. Where it went on, that is
        another trial.
      reason: Reason of a failure.
      pack: Pack of the training: `exact`, or the name of an envelope.
      seconds: Wall time, compiling included.
      arrived: In an asynchronous coarse stage, numbers of candidates asked for and of results
        processed when this result was processed; else None.
      scores: Score after each epoch; empty where it is accuracy.
      resumed: Number of the trial that it goes on from, whose epochs are its first ones; None where
        it begins.
    """

    number: int
    stage: str
    round: int | None
    seed: int | None
    knobs: dict[str, Any]
    costs: dict[str, int]
    predicted: float | None
    epochs: int
    accuracies: tuple[float, ...]
    score: float | None
    status: str
    reason: str | None
    pack: str
    seconds: float
    arrived: tuple[int, int] | None = None
    scores: tuple[float, ...] = ()
    resumed: int | None = None

    @property
    def score_curve(self) -> tuple[float, ...]:
        """The score after each epoch."""
        return self.scores or self.accuracies

    @property
    def candidate(self) -> tuple[Any, ...]:
        """Input of the training."""
        return self.stage, self.round, self.seed, self.knobs, self.epochs

    @staticmethod
    def from_dict(row: dict[str, Any]) -> "Trial":
        """A trial from its fields, as JSON holds them."""
        tuples = {name: tuple(row.get(name) or ()) for name in ("accuracies", "scores")}
        arrived = row["arrived"] and tuple(row["arrived"])
        return Trial(**row | tuples | {"arrived": arrived})

    def digest(self) -> str:
        """SHA-256 of the content, in hex."""
        fields = dataclasses.asdict(self)
        for name in _OPTIONAL:  # the digest of trials from before these fields
            if not _holds(fields[name]):
                del fields[name]
        content = json.dumps(fields, sort_keys=True, allow_nan=False)
        return hashlib.sha256(content.encode()).hexdigest()


# Fields that are user attributes of an Optuna trial, which has fields for the others.
_ATTRIBUTES = tuple(
    field.name
    for field in dataclasses.fields(Trial)
    if field.name not in ("knobs", "accuracies", "score", *_OPTIONAL)
)


class TrialStore:
    """The trials of one study.

    Attributes:
      shared: whether another process stores them.
    """

    shared = False

    def __init__(self, url: str | sqlalchemy.URL, name: str, *, read_only: bool = False):
        """Opens a database, which gets Optuna's tables if it has none.

        Args:
          url: URL of SQLAlchemy, `sqlite:////folder/trials.db` or `postgresql://host/name`.
          name: Name of the study in the database.
          read_only: Only `load` is called: make no tables, and change nothing, see `SqliteFile`.

        Raises:
          InputError: The database cannot be opened.
          DamagedError: It is not a sound one.
        """
        self._url = parse_url(url)
        self.name = name
        self._ids: dict[str, int] = {}
        self._file: SqliteFile | None = None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with self._translating(opening=True):
            arguments: dict[str, Any] = {"pool_pre_ping": True}
            target = self._url
            if target.drivername == "sqlite":
                self._file = SqliteFile(target.database or "", read_only=read_only)
                arguments = {"creator": self._file.connect}
                target = target.set(database=TRIALS)  # the real name need not fit into a URL
            elif target.drivername == "postgresql":  # versions of SQLAlchemy differ in what
                self._url = target = target.set(drivername=_POSTGRES)  # they take then
            url = target.render_as_string(hide_password=False)
            # Optuna would fill in what stands in braces.
            url = url.replace("{", "{{").replace("}", "}}")
            self._storage = optuna.storages.RDBStorage(
                url, engine_kwargs=arguments, skip_table_creation=read_only
            )

    @property
    def place(self) -> str:
        """The database for people: no password."""
        return public_name(self._url)

    def create(self) -> None:
        """Makes the Optuna studies of all stages, and removes earlier ones of the same name."""
        with self._translating():
            self.remove(self.name)
            for stage in STAGES:
                direction = [optuna.study.StudyDirection.MAXIMIZE]
                identity = self._storage.create_new_study(direction, _title(self.name, stage))
                self._storage.set_study_user_attr(identity, "schema", SCHEMA)
                self._ids[stage] = identity

    def remove(self, name: str) -> None:
        """Removes the Optuna studies of all stages of a study, if they exist."""
        with self._translating():
            titles = {_title(name, stage) for stage in STAGES}
            for study in self._storage.get_all_studies():
                if study.study_name in titles:
                    self._storage.delete_study(study._study_id)

    def studies(self) -> list[str]:
        """Names of all studies of this project in the database."""
        with self._translating():
            titles = [study.study_name for study in self._storage.get_all_studies()]
        end = _title("", STAGES[0])
        return sorted(title.removesuffix(end) for title in titles if title.endswith(end))

    def append(self, trial: Trial, knobs: dict[str, BaseDistribution]) -> None:
        """Writes a new trial in one transaction, or nothing of it and raises `StorageError`.

        The `knobs` are the `distributions` of the space.
        """
        with self._translating():
            try:
                self._storage.create_new_trial(self._id(trial.stage), _to_optuna(trial, knobs))
            except KeyError as error:
                raise StorageError(
                    f"study `{self.name}` is no longer in `{self.place}`: another run replaced it"
                ) from error

    def load(self) -> list[Trial]:
        """Reads all trials, in the order of their numbers.

        Raises:
          InputError: Another version of this project wrote them.
          DamagedError: A trial is not what was written, or one is lost.
        """
        with self._translating(), self._converting("trials"):
            rows = [trial for stage in STAGES for trial in self._read(stage)]
        trials: dict[int, Trial] = {}
        for trial in rows:
            # Optuna writes again where the answer of the server was lost; the first row counts.
            if trials.setdefault(trial.number, trial).candidate != trial.candidate:
                raise self._damaged(f"trial {trial.number} is there twice, and differs")
        # Stages follow each other: when the last one begins, all trials before it are stored.
        last = max((STAGES.index(t.stage) for t in rows), default=0)
        before = max((t.number for t in rows if STAGES.index(t.stage) < last), default=-1)
        missing = [n for n in range(before) if n not in trials]
        if missing:
            raise self._damaged(f"trial {missing[0]} is missing")
        return [trials[number] for number in sorted(trials)]

    def close(self) -> None:
        """Closes all connections."""
        self._storage.remove_session()
        self._storage.engine.dispose()
        if self._file:
            self._file.close()

    def _read(self, stage: str) -> Iterator[Trial]:
        identity = self._id(stage)
        schema = self._storage.get_study_user_attrs(identity).get("schema")
        if schema != SCHEMA:
            raise InputError(
                f"the trials in `{self.place}` are of schema {schema}, this version reads "
                f"schema {SCHEMA}; give another --workdir, or replace the study with --overwrite"
            )
        for frozen in self._rows(identity):
            row = f"row {frozen._trial_id} of its trials"
            with self._converting(row):
                trial = _from_optuna(frozen)
                sound = frozen.user_attrs["digest"] == trial.digest() and trial.stage == stage
            if not sound:
                raise self._damaged(f"trial {trial.number} ({row})")
            yield trial

    def _rows(self, identity: int) -> Iterable[FrozenTrial]:
        try:
            return self._storage.get_all_trials(identity, deepcopy=False)
        except _UNREADABLE:
            return self._rows_one_by_one(identity)

    def _rows_one_by_one(self, identity: int) -> Iterator[FrozenTrial]:
        """The rows of `get_all_trials`, to find the one that cannot be read."""
        query = sqlalchemy.text("SELECT trial_id FROM trials WHERE study_id = :study ORDER BY 1")
        with self._storage.engine.connect() as connection:
            rows = connection.execute(query, {"study": identity}).scalars().all()
        for row in rows:
            with self._converting(f"row {row} of its trials"):
                yield self._storage.get_trial(row)

    def _id(self, stage: str) -> int:
        if stage not in self._ids:
            try:
                self._ids[stage] = self._storage.get_study_id_from_name(_title(self.name, stage))
            except KeyError:
                raise self._damaged(f"study `{_title(self.name, stage)}` is missing") from None
        return self._ids[stage]

    def _damaged(self, what: str) -> DamagedError:
        return DamagedError(
            f"`{self.place}` is damaged: {what}; put back a copy of it, or start again with "
            "--overwrite"
        )

    @contextmanager
    def _converting(self, what: str) -> Iterator[None]:
        """Whatever converting a row raises is damage."""
        try:
            yield
        except _UNREADABLE as error:
            raise self._damaged(f"{what}: {one_line(repr(error))}") from error

    @contextmanager
    def _translating(self, opening: bool = False) -> Iterator[None]:
        """Translates the errors of a database; one that cannot be opened is bad input."""
        try:
            yield
        except (
            optuna.exceptions.StorageInternalError,
            sqlalchemy.exc.SQLAlchemyError,
            sqlite3.Error,
        ) as error:
            cause = getattr(error.__cause__ or error, "orig", None) or error
            cause = one_line(without_secrets(str(cause), self._url))
            in_workdir = self._url.drivername == "sqlite"
            if in_workdir and not any(reason in cause for reason in _NOT_DAMAGE):
                raise self._damaged(cause) from error
            kind = InputError if opening and "full" not in cause else StorageError
            raise kind(f"`{self.place}` cannot be used: {cause}") from error
        except (ImportError, RuntimeError) as error:  # no driver; tables of another Optuna
            if isinstance(error, ImportError) and self._url.drivername == _POSTGRES:
                database = f"database `{self.place}`"
                raise InputError(needs_extra(database, "psycopg2", "postgres")) from error
            cause = one_line(without_secrets(str(error), self._url))
            raise InputError(f"database `{self.place}`: {cause}") from error


def _holds(value: Any) -> bool:
    """Whether an optional field holds something."""
    return value is not None and value != ()


def _title(name: str, stage: str) -> str:
    """Name of the Optuna study of a stage."""
    return f"{name}: {stage}"


def _to_optuna(trial: Trial, knobs: dict[str, BaseDistribution]) -> FrozenTrial:
    end = datetime.datetime.now()
    attributes = {name: getattr(trial, name) for name in _ATTRIBUTES}
    attributes |= {name: value for name in _OPTIONAL if _holds(value := getattr(trial, name))}
    return FrozenTrial(
        number=-1,  # Optuna counts in the order of writing
        trial_id=-1,
        state=_STATES[trial.status],
        value=trial.score,
        datetime_start=end - datetime.timedelta(seconds=trial.seconds),
        datetime_complete=end,
        params=trial.knobs,
        distributions=knobs,
        user_attrs=attributes | {"digest": trial.digest()},
        system_attrs={},
        intermediate_values=dict(enumerate(trial.accuracies, 1)),
    )


def _from_optuna(frozen: FrozenTrial) -> Trial:
    attributes: Mapping[str, Any] = frozen.user_attrs
    curve = sorted(frozen.intermediate_values.items())
    if [step for step, _ in curve] != list(range(1, len(curve) + 1)):
        raise ValueError(f"epochs of trial {attributes['number']}: {[s for s, _ in curve]}")
    if frozen.state != _STATES[attributes["status"]]:
        raise ValueError(f"state of trial {attributes['number']}: {frozen.state}")
    optional: dict[str, Any] = {n: attributes[n] for n in _OPTIONAL if n in attributes}
    optional = {n: v if n == "resumed" else tuple(v) for n, v in optional.items()}
    return Trial(
        **{name: attributes[name] for name in _ATTRIBUTES},
        knobs=dict(frozen.params),
        accuracies=tuple(accuracy for _, accuracy in curve),
        score=frozen.value,
        **optional,
    )
