"""Trials of earlier studies, as this one learns from them: read once, and kept in its workdir."""

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from jointnas_jax.errors import ConfigError, DamagedError, InputError, shown
from jointnas_jax.files import read_json, reading, write_json
from jointnas_jax.rules import DATABASE, local_path
from jointnas_jax.space.knobs import Value
from jointnas_jax.storage.database import parse_url, public_name
from jointnas_jax.storage.study_reader import read_trials
from jointnas_jax.storage.trial_store import FAILED, SEARCHED, Trial, TrialStore
from jointnas_jax.storage.workdir import FOREIGN

_OPTION = "config.search.trials_from"


class ForeignStudy(NamedTuple):
    """What candidates of another study scored.

    Attributes:
      name: workdir or database of the study, as the config names it.
      knobs: name -> value, of each of N candidates.
      scores: N curves: its score after each epoch that it trained.
    """

    name: str
    knobs: tuple[dict[str, Value], ...]
    scores: tuple[tuple[float, ...], ...]

    @classmethod
    def of(cls, name: str, trials: Iterable[Trial]) -> "ForeignStudy":
        """The candidates that the search of a study trained, with the longest curve of each."""
        longest: dict[str, Trial] = {}
        for trial in trials:
            if trial.stage in SEARCHED and trial.status != FAILED:
                candidate = repr(sorted(trial.knobs.items()))
                known = longest.setdefault(candidate, trial)
                if trial.epochs > known.epochs:
                    longest[candidate] = trial
        found = longest.values()
        return cls(name, tuple(t.knobs for t in found), tuple(t.score_curve for t in found))


def read_foreign(names: str) -> tuple[ForeignStudy, ...]:
    """Reads the studies of `config.search.trials_from`.

    Raises:
      ConfigError: a name is no workdir and no database of a study, or nothing in it has a score.
    """
    return tuple(_read(name) for name in map(str.strip, names.split(",")) if name)


def _read(name: str) -> ForeignStudy:
    try:
        if "://" in name:
            name, trials = _of_database(name)
        else:
            trials = read_trials(Path(local_path(name, _OPTION)))
    except (InputError, DamagedError) as error:
        raise ConfigError(f"`{_OPTION}`: {error}") from error
    study = ForeignStudy.of(name, trials)
    if not study.scores:
        raise ConfigError(
            f"`{_OPTION}`: the study of `{name}` has no candidate with a score yet; leave it out"
        )
    return study


def _of_database(name: str) -> tuple[str, list[Trial]]:
    """The public name of a study in a database, `URL#STUDY`, and its trials."""
    text, _, wanted = name.partition("#")
    if not DATABASE.holds(text):
        raise ConfigError(f"a study in a database must be {DATABASE.text}, and `#NAME` behind it")
    url = parse_url(text)
    if url.password:
        raise ConfigError(
            f"`{public_name(url)}` is named with a password, which the workdir would show; put it "
            "into ~/.pgpass"
        )
    if url.drivername == "sqlite" and not Path(url.database or "").is_file():
        raise ConfigError(f"there is no database `{public_name(url)}`")
    with contextlib.closing(TrialStore(url, wanted, read_only=True)) as store:
        names = store.studies()
        if not wanted and len(names) == 1:
            wanted = names[0]
        if wanted not in names:
            raise ConfigError(
                f"`{store.place}` holds the studies {shown(names)}, got {shown(wanted)}; name one "
                "behind the URL, as in `sqlite:///FILE#NAME`"
            )
    with contextlib.closing(TrialStore(url, wanted, read_only=True)) as store:
        return f"{text}#{wanted}", store.load()


def write_foreign(workdir: Path, studies: Iterable[ForeignStudy]) -> None:
    """Writes the trials into a workdir: the study needs the others no more."""
    write_json(workdir / FOREIGN, {"studies": as_rows(studies)}, digest=True)


def kept_foreign(workdir: Path) -> tuple[ForeignStudy, ...]:
    """Reads what `write_foreign` wrote, nothing where it did not; raises as `read_json` does."""
    if not (workdir / FOREIGN).exists():
        return ()
    data = read_json(workdir / FOREIGN)
    with reading(workdir / FOREIGN):
        return from_rows(data["studies"])


def as_rows(studies: Iterable[ForeignStudy]) -> list[dict[str, Any]]:
    """Studies as JSON holds them."""
    return [
        {
            "name": study.name,
            "trials": [
                {"knobs": knobs, "scores": list(curve)}
                for knobs, curve in zip(study.knobs, study.scores, strict=True)
            ],
        }
        for study in studies
    ]


def from_rows(rows: Iterable[dict[str, Any]]) -> tuple[ForeignStudy, ...]:
    """The inverse of `as_rows`."""
    return tuple(
        ForeignStudy(
            row["name"],
            tuple(trial["knobs"] for trial in row["trials"]),
            tuple(tuple(trial["scores"]) for trial in row["trials"]),
        )
        for row in rows
    )
