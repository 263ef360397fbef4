"""The folder of one study, or of the training of one candidate."""

import dataclasses
import enum
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jointnas_jax.config import Config, StudyConfig, check_config
from jointnas_jax.errors import (
    ConfigError,
    SpaceError,
    WorkdirError,
    one_line,
)
from jointnas_jax.files import read_json, write_json

# Version of the config, the training and the provenance in a workdir. 2: the stage `validate` was
# called `final`, `train.winner_epochs` `train.final_epochs`, `provenance.json` `origin.json`.
SCHEMA = 2

CONFIG, RESULT, WEIGHTS, REPORT = "config.json", "result.json", "weights", "report"
PREDICTOR, WINNERS, TRIALS = "predictor", "winner*.json", "trials.db"
# Where the study began, see `storage/provenance.py`.
PROVENANCE = "provenance.json"
# What its latencies are summed up from, see `problem/latency_table.py`.
LATENCY = "latency.json"
# Of the training of one candidate: what it is, its latest state, the trained model.
TRAINING, STATE, TRAINED = "training.json", "state", "model"
MODEL = "model.json"  # of imported weights, see `models/model.py`
# Of a run: where it is, see `telemetry/progress.py`; what it measured, for TensorBoard.
PROGRESS, TENSORBOARD = "progress.json", "tensorboard"
# Where the other processes of a pod keep states of trainings, each in a folder of its number.
PROCESSES = "processes"
# Of a later search for other budgets: its report, and a folder of candidates.
BUDGETS, BUDGETS_FOLDER = "budgets.json", "budgets"
EXPORTS = "export"  # of its models, see `models/export.py`
# In the stored config, what the file `arch_file` held.
_ARCH = "arch"
_NOT_CONFIG = (_ARCH, "schema")
# Options that may change when a study goes on.
_OF_A_RUN = ("storage", "resume", "other_machine", "checkpoint_minutes")
# Sections that say who trains, which makes no difference to what comes out.
_EXECUTOR = ("executor", "ray", "pod")
# Differences that an error shows.
_SHOWN = 3


class Found(enum.Enum):
    """What a workdir holds of a study."""

    NOTHING, UNFINISHED, FINISHED = range(3)


def look(workdir: Path, config: Config) -> Found:
    """Tells whether this very study is in the workdir, and may go on there.

    Raises:
      WorkdirError: the folder holds another study, or none where `study.resume` wants one, or one
        where it wants none; or it cannot be read.
      DamagedError: the stored config is damaged.
    """
    resume = config.study.resume
    try:
        exists = (workdir / CONFIG).exists()
    except (OSError, ValueError) as error:  # a NUL in the path is a ValueError
        raise WorkdirError(f"workdir {one_line(repr(str(workdir)))}: {error}") from error
    if not exists:
        if resume == "must":
            raise WorkdirError(
                f"`config.study.resume` is `must`, but workdir `{workdir}` holds no study"
            )
        return Found.NOTHING
    found = Found.FINISHED if (workdir / RESULT).exists() else Found.UNFINISHED
    stored, given = read_json(workdir / CONFIG, SCHEMA), plain_config(config)
    if stored != given or resume == "never":
        state = "a finished" if found is Found.FINISHED else "an unfinished"
        differ = differences(stored, given, "config", ("there", "here"))
        what = f" with another config: {differ}" if differ else ""
        raise WorkdirError(
            f"workdir `{workdir}` holds {state} study{what}; give another --workdir, or "
            "replace it with --overwrite"
        )
    return found


def differences(first: Any, second: Any, name: str, places: tuple[str, str]) -> str:
    """The first values that differ, by the names of their keys; "" if all are the same.

    Args:
      first: as JSON holds it.
      second: likewise.
      name: of the whole.
      places: where either is from.
    """
    first, second = _flat(first, name), _flat(second, name)
    keys = [*first, *(key for key in second if key not in first)]
    absent = object()
    differ = [key for key in keys if first.get(key, absent) != second.get(key, absent)]
    shown = [
        f"`{key}` is {_shown(first.get(key))} {places[0]}, {_shown(second.get(key))} {places[1]}"
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
    """Reads the config of the study in a workdir, checked: the one that `start` was given.

    Raises:
      WorkdirError: the folder holds no study, or its config cannot be used.
    """
    file = workdir / CONFIG
    try:
        if not file.exists():
            raise WorkdirError(f"workdir `{workdir}` holds no study: it has no `{CONFIG}`")
        stored = _from_jsonable(read_json(file, SCHEMA))
        for name in _NOT_CONFIG:
            stored.pop(name, None)
        return check_config(stored)
    except (OSError, ValueError, ConfigError, SpaceError) as error:
        raise WorkdirError(f"`{file}` is not the config of a study: {error}") from error


def clear(workdir: Path) -> None:
    """Makes the workdir ready for a new study: removes an earlier one's files.

    Raises:
      WorkdirError: the folder cannot be written, or holds an imported model.
    """
    if (workdir / MODEL).exists():
        raise WorkdirError(f"workdir `{workdir}` holds an imported model; give another --workdir")
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        _remove_study(workdir)
    except OSError as error:
        raise WorkdirError(f"workdir `{workdir}` cannot be written: {error}") from error


def start(workdir: Path, config: Config) -> None:
    """Writes the config: from now on the workdir holds a study.

    Raises:
      StorageError: it cannot be written.
    """
    write_json(workdir / CONFIG, plain_config(config), digest=True, schema=SCHEMA)


def finished_training(workdir: Path, config: Config, candidate: dict[str, Any]) -> Any:
    """Looks whether the training of one candidate is finished in a workdir; changes nothing.

    Args:
      workdir: the folder.
      config: of the training.
      candidate: as JSON.

    Returns:
      Its result if it is, None if it starts there, or goes on.

    Raises:
      WorkdirError: the folder holds something else, or cannot be read.
    """
    _check_no_study(workdir)
    try:
        if not (workdir / TRAINING).exists():
            return None
        if read_json(workdir / TRAINING, SCHEMA) != _training(config, candidate):
            raise WorkdirError(
                f"workdir `{workdir}` holds another training; give another --workdir, or "
                "replace it with --overwrite"
            )
        return read_json(workdir / RESULT) if (workdir / RESULT).exists() else None
    except (OSError, ValueError) as error:
        raise WorkdirError(f"workdir `{workdir}` cannot be read: {error}") from error


def start_training(workdir: Path, config: Config, candidate: dict[str, Any], again: bool) -> None:
    """Makes the workdir ready for the training of one candidate, which is not finished there.

    Args:
      workdir: the folder.
      config: of the training.
      candidate: as JSON.
      again: remove an earlier training there, whatever it was.

    Raises:
      WorkdirError: the folder holds a study, or cannot be used.
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
    """Writes the result of a training, which needs its state no longer."""
    write_json(workdir / RESULT, result, digest=True)
    _remove(workdir, (), (STATE,))


def plain_config(config: Config) -> dict[str, Any]:
    """The config as JSON gives it back, ranges told from choices, with what `arch_file` holds.

    What is of a run, not of the study, takes its default.
    """
    default, study = StudyConfig(), config.study
    study = dataclasses.replace(study, **{name: getattr(default, name) for name in _OF_A_RUN})
    plain = {"schema": SCHEMA, **jsonable(dataclasses.replace(config, study=study).to_dict())}
    for section in _EXECUTOR:
        del plain[section]
    if Path(config.arch_file).is_file():
        plain[_ARCH] = Path(config.arch_file).read_text(encoding="utf-8")
    return json.loads(json.dumps(plain))


def jsonable(value: Any) -> Any:
    """Writes a tuple of numbers, which JSON would turn into a list, as `{"range": [...]}`."""
    if isinstance(value, dict):
        return {key: jsonable(v) for key, v in value.items()}
    if isinstance(value, tuple) and all(isinstance(v, int | float) for v in value):
        return {"range": list(value)}
    return [jsonable(v) for v in value] if isinstance(value, list | tuple) else value


def _from_jsonable(value: Any) -> Any:
    """The inverse of `_jsonable`; a list of dicts, which only `stages` is, becomes a tuple."""
    if isinstance(value, dict):
        if set(value) == {"range"}:
            return tuple(value["range"])
        return {key: _from_jsonable(v) for key, v in value.items()}
    if isinstance(value, list):
        stages = any(isinstance(v, dict) for v in value)
        return (tuple if stages else list)(_from_jsonable(v) for v in value)
    return value


def _remove_study(workdir: Path) -> None:
    """Removes what a study writes, and nothing else."""
    winners = [path.name for path in workdir.glob(WINNERS)]
    folders = (WEIGHTS, REPORT, PREDICTOR, BUDGETS_FOLDER, STATE, PROCESSES, TENSORBOARD, EXPORTS)
    # First what says that there is a study.
    files = (
        CONFIG,
        RESULT,
        PROVENANCE,
        LATENCY,
        f"{PREDICTOR}.sha256",
        BUDGETS,
        PROGRESS,
        *winners,
    )
    _remove(workdir, (*files, *(f"{TRIALS}{end}" for end in ("", "-wal", "-shm"))), folders)


def _remove(workdir: Path, files: Sequence[str], folders: Sequence[str]) -> None:
    for name in files:
        (workdir / name).unlink(missing_ok=True)
    for name in folders:
        if (workdir / name).is_dir():
            shutil.rmtree(workdir / name)
