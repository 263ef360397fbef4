"""The folder of one study, or of the training of one candidate."""

import dataclasses
import enum
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jointnas_jax.config import Config, StudyConfig, check_config
from jointnas_jax.errors import ConfigError, SpaceError, WorkdirError, one_line
from jointnas_jax.files import read_json, reading, write_json

# Version of the config, the training and the provenance in a workdir. 2: the stage `validate` was
# called `final`, `train.winner_epochs` `train.final_epochs`, `provenance.json` `origin.json`. 3:
# validation images are drawn by class, recipes are told in shares of a training.
SCHEMA = 3

CONFIG, RESULT, WEIGHTS, REPORT = "config.json", "result.json", "weights", "report"
PREDICTOR, WINNERS, TRIALS = "predictor", "winner*.json", "trials.db"
FOREIGN = "foreign_trials.json"  # see `storage/foreign_trials.py`
PROVENANCE = "provenance.json"  # see `storage/provenance.py`
# What the dataset holds, some of its images, and which file is in which part; see
# `data/summary.py`.
DATA, CONTACT_SHEET, SPLITS = "data.json", "contact_sheet.png", "splits.csv"
TABLE = "trials.csv"  # see `storage/trial_table.py`
LATENCY = "latency.json"  # see `problem/latency_table.py`
# Training of one candidate: its identity, its latest state, the trained model.
TRAINING, STATE, TRAINED = "training.json", "state", "model"
# Sound trials of this study that are asked for again, see `study.retry_failed`.
RETRIED = "retried_trials.json"
PAUSED = "paused"  # states of trainings that stopped at a rung and can go on
MODEL = "model.json"  # imported weights, see `models/model.py`
# Telemetry of a run, see `telemetry/progress.py` and `telemetry/tensorboard.py`.
PROGRESS, TENSORBOARD = "progress.json", "tensorboard"
# States of trainings in the other processes of a pod, each in a folder of its number.
PROCESSES = "processes"
# A later search for other budgets: its report, and a folder of candidates.
BUDGETS, BUDGETS_FOLDER = "budgets.json", "budgets"
EXPORTS = "export"  # exported models, see `models/export.py`
# Content of the file `arch_file`, in the stored config.
_ARCH = "arch"
# Options that may change when a study continues.
_OF_A_RUN = ("storage", "extend", "retry_failed", "resume", "other_machine", "checkpoint_minutes")
# Sections of the executor, which does not change the result.
_EXECUTOR = ("executor", "ray", "pod")
# Differences that an error shows.
_SHOWN = 3


class WorkdirState(enum.Enum):
    """State of the study in a workdir."""

    NOTHING, UNFINISHED, FINISHED = range(3)


def look(workdir: Path, config: Config) -> WorkdirState:
    """Returns the state of the study of a config in a workdir.

    Raises:
      WorkdirError: The folder holds another study, or contradicts `study.resume`, or cannot be
        read.
      DamagedError: The stored config is damaged.
    """
    resume = config.study.resume
    with reading(workdir, WorkdirError):
        exists = (workdir / CONFIG).exists()
    if not exists:
        if resume == "must":
            raise WorkdirError(
                f"`config.study.resume` is `must`, but workdir `{workdir}` holds no study"
            )
        return WorkdirState.NOTHING
    finished = (workdir / RESULT).exists()
    stored, given = read_json(workdir / CONFIG, SCHEMA), plain_config(config)
    if stored != given or resume == "never":
        differ = differences(stored, given)
        what = f" with another config: {differ}" if differ else ""
        raise WorkdirError(
            f"workdir `{workdir}` holds {'a finished' if finished else 'an unfinished'} study"
            f"{what}; give another --workdir, or replace it with --overwrite"
        )
    return WorkdirState.FINISHED if finished else WorkdirState.UNFINISHED


def differences(
    stored: Any,
    given: Any,
    *,
    name: str = "config",
    places: tuple[str, str] = ("there", "here"),
) -> str:
    """The first values that differ between two configs, by the names of their keys."""
    there, here = _flat(stored, name), _flat(given, name)
    absent = object()
    differ = [key for key in there | here if there.get(key, absent) != here.get(key, absent)]
    shown = [
        f"`{key}` is {_shown(there.get(key))} {places[0]}, {_shown(here.get(key))} {places[1]}"
        for key in differ[:_SHOWN]
    ]
    return ", ".join(shown) + (f", and {len(differ) - _SHOWN} more" * (len(differ) > _SHOWN))


def _flat(value: Any, name: str) -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {
            k: v for key, inner in value.items() for k, v in _flat(inner, f"{name}.{key}").items()
        }
    return {name: value}


def _shown(value: Any) -> str:
    return one_line(json.dumps(value))[:60]


def stored_config(workdir: Path) -> Config:
    """Reads the config of the study in a workdir, checked: the argument of `start`.

    Raises:
      WorkdirError: The folder holds no study, or its config cannot be used.
    """
    file = workdir / CONFIG
    try:
        if not file.exists():
            raise WorkdirError(f"workdir `{workdir}` holds no study: it has no `{CONFIG}`")
        stored = _from_jsonable(read_json(file, SCHEMA))
        return check_config({k: v for k, v in stored.items() if k not in (_ARCH, "schema")})
    except (OSError, ValueError, ConfigError, SpaceError) as error:
        raise WorkdirError(f"`{file}` is not the config of a study: {error}") from error


def clear(workdir: Path) -> None:
    """Removes the files of an earlier study; raises `WorkdirError`, also for an imported model."""
    if (workdir / MODEL).exists():
        raise WorkdirError(f"workdir `{workdir}` holds an imported model; give another --workdir")
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        _remove_study(workdir)
    except OSError as error:
        raise WorkdirError(f"workdir `{workdir}` cannot be written: {error}") from error


def start(workdir: Path, config: Config) -> None:
    """Writes the config: from now on the workdir holds a study; raises `StorageError`."""
    write_json(workdir / CONFIG, plain_config(config), digest=True, schema=SCHEMA)


def finished_training(workdir: Path, config: Config, candidate: dict[str, Any]) -> Any:
    """Returns the result of the training of one candidate in a workdir; None: unfinished.

    Args:
      workdir: The folder.
      config: Config of the training.
      candidate: The candidate as JSON.

    Raises:
      WorkdirError: The folder holds something else, or cannot be read.
    """
    _check_no_study(workdir)
    with reading(workdir, WorkdirError):
        if not (workdir / TRAINING).exists():
            return None
        if read_json(workdir / TRAINING, SCHEMA) != _training(config, candidate):
            raise WorkdirError(
                f"workdir `{workdir}` holds another training; give another --workdir, or "
                "replace it with --overwrite"
            )
        return read_json(workdir / RESULT) if (workdir / RESULT).exists() else None


def start_training(workdir: Path, config: Config, candidate: dict[str, Any], again: bool) -> None:
    """Prepares the workdir for the training of one candidate, whatever training it holds.

    Args:
      workdir: The folder.
      config: Config of the training.
      candidate: The candidate as JSON.
      again: Remove an earlier training.

    Raises:
      WorkdirError: The folder holds a study, or cannot be used.
    """
    _check_no_study(workdir)
    try:
        if again:
            _remove(workdir, (TRAINING, RESULT, PROGRESS), (STATE, TRAINED, TENSORBOARD))
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(workdir / TRAINING, _training(config, candidate), digest=True, schema=SCHEMA)
    except (OSError, ValueError) as error:
        raise WorkdirError(f"workdir `{workdir}` cannot be used: {error}") from error


def _check_no_study(workdir: Path) -> None:
    if (workdir / CONFIG).exists():
        raise WorkdirError(f"workdir `{workdir}` holds a study; give another --workdir")


def _training(config: Config, candidate: dict[str, Any]) -> dict[str, Any]:
    return {"schema": SCHEMA, "candidate": candidate, "config": plain_config(config)}


def finish_training(workdir: Path, result: dict[str, Any]) -> None:
    """Writes the result of a training, and removes its state."""
    write_json(workdir / RESULT, result, digest=True)
    _remove(workdir, (), (STATE,))


def plain_config(config: Config) -> dict[str, Any]:
    """The config as read from JSON, with the content of `arch_file`.

    Options of a run, not of the study, have their defaults.
    """
    default = StudyConfig()
    options = {name: getattr(default, name) for name in _OF_A_RUN}
    study = dataclasses.replace(config.study, **options)
    plain = {"schema": SCHEMA, **jsonable(dataclasses.replace(config, study=study).to_dict())}
    for section in _EXECUTOR:
        del plain[section]
    if Path(config.arch_file).is_file():
        plain[_ARCH] = Path(config.arch_file).read_text(encoding="utf-8")
    return json.loads(json.dumps(plain))


def jsonable(value: Any) -> Any:
    """Turns tuples of numbers, which JSON would turn into lists, into `{"range": [...]}`."""
    if isinstance(value, dict):
        return {key: jsonable(v) for key, v in value.items()}
    if isinstance(value, tuple) and all(isinstance(v, int | float) for v in value):
        return {"range": list(value)}
    return [jsonable(v) for v in value] if isinstance(value, list | tuple) else value


def _from_jsonable(value: Any) -> Any:
    """The inverse of `jsonable`; a list of dicts, which only `stages` is, becomes a tuple."""
    if isinstance(value, dict):
        if set(value) == {"range"}:
            return tuple(value["range"])
        return {key: _from_jsonable(v) for key, v in value.items()}
    if isinstance(value, list):
        stages = any(isinstance(v, dict) for v in value)
        return (tuple if stages else list)(_from_jsonable(v) for v in value)
    return value


def _remove_study(workdir: Path) -> None:
    """Removes the files of a study, and nothing else; the config, which marks it, first."""
    files = [CONFIG, RESULT, PROVENANCE, LATENCY, f"{PREDICTOR}.sha256", BUDGETS, PROGRESS]
    files += [DATA, CONTACT_SHEET, SPLITS, TABLE, FOREIGN, RETRIED]
    files += [path.name for path in workdir.glob(WINNERS)]
    files += [f"{TRIALS}{end}" for end in ("", "-wal", "-shm")]
    folders = [WEIGHTS, REPORT, PREDICTOR, BUDGETS_FOLDER, STATE, PAUSED]
    folders += [PROCESSES, TENSORBOARD, EXPORTS]
    _remove(workdir, files, folders)


def _remove(workdir: Path, files: Sequence[str], folders: Sequence[str]) -> None:
    for name in files:
        (workdir / name).unlink(missing_ok=True)
    for name in folders:
        if (workdir / name).is_dir():
            shutil.rmtree(workdir / name)
