"""The folder of one study, or of the training of one candidate."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jointnas_jax.config import Config, check_config
from jointnas_jax.errors import InputError, WorkdirError
from jointnas_jax.study import store

CONFIG, RESULT, WEIGHTS, FIGURES = "config.json", "result.json", "weights", "figures"
PREDICTOR, WINNERS = "predictor", "winner*.json"
# Of the training of one candidate: what it is, its latest state, the trained model.
TRAINING, STATE, TRAINED = "training.json", "state", "model"
MODEL = "model.json"  # of imported weights, see `study/model.py`
# Of a later search for other budgets: its report, and a folder of candidates.
BUDGETS, BUDGETS_FOLDER = "budgets.json", "budgets"
# In the stored config, what the file `arch_file` held.
_ARCH = "arch"


def stored_result(workdir: Path, config: Config) -> dict[str, Any] | None:
    """Returns the result if this very study is finished in the workdir, None if it holds no study.

    Raises:
      WorkdirError: the folder holds another study or an unfinished one, or cannot be read.
    """
    try:
        if not (workdir / CONFIG).exists():
            return None
        stored = json.loads((workdir / CONFIG).read_text(encoding="utf-8"))
        finished = (workdir / RESULT).exists()
        if finished and stored == _plain(config):
            return json.loads((workdir / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WorkdirError(f"workdir `{workdir}` cannot be read: {error}") from error
    state = "a finished" if finished else "an unfinished"
    other = "" if stored == _plain(config) else " with another config"
    raise WorkdirError(
        f"workdir `{workdir}` holds {state} study{other}; give another --workdir, or "
        "replace it with --overwrite"
    )


def stored_config(workdir: Path) -> Config:
    """Reads the config of the study in a workdir, checked: the one that `start` was given.

    Raises:
      WorkdirError: the folder holds no study, or its config cannot be used.
    """
    file = workdir / CONFIG
    try:
        stored = _from_jsonable(json.loads(file.read_text(encoding="utf-8")))
        if isinstance(stored, dict):
            stored.pop(_ARCH, None)
        return check_config(stored)
    except FileNotFoundError:
        raise WorkdirError(f"workdir `{workdir}` holds no study: it has no `{CONFIG}`") from None
    except (OSError, ValueError, InputError) as error:
        raise WorkdirError(f"`{file}` is not the config of a study: {error}") from error


def start(workdir: Path, config: Config) -> None:
    """Makes the workdir ready for a new study: removes an earlier one's files and writes the
    config.

    Raises:
      WorkdirError: the folder cannot be written, or holds an imported model.
    """
    if (workdir / MODEL).exists():
        raise WorkdirError(f"workdir `{workdir}` holds an imported model; give another --workdir")
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        _remove_study(workdir)
        write_json(workdir / CONFIG, _plain(config))
    except OSError as error:
        raise WorkdirError(f"workdir `{workdir}` cannot be written: {error}") from error


def start_training(workdir: Path, config: Config, candidate: dict[str, Any], again: bool) -> Any:
    """Makes the workdir ready for the training of one candidate.

    Args:
      workdir: the folder.
      config: of the training.
      candidate: as JSON.
      again: remove an earlier training there, whatever it was.

    Returns:
      The result if this very training is finished there. None if it starts, or goes on.

    Raises:
      WorkdirError: the folder holds something else, or cannot be used.
    """
    this = {"candidate": candidate, "config": _plain(config)}
    try:
        if (workdir / CONFIG).exists():
            raise WorkdirError(f"workdir `{workdir}` holds a study; give another --workdir")
        if again:
            _remove(workdir, (TRAINING, RESULT), (STATE, TRAINED))
        if (workdir / TRAINING).exists():
            if json.loads((workdir / TRAINING).read_text(encoding="utf-8")) != this:
                raise WorkdirError(
                    f"workdir `{workdir}` holds another training; give another --workdir, or "
                    "replace it with --overwrite"
                )
            if (workdir / RESULT).exists():
                return json.loads((workdir / RESULT).read_text(encoding="utf-8"))
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(workdir / TRAINING, this)
    except (OSError, ValueError) as error:
        raise WorkdirError(f"workdir `{workdir}` cannot be used: {error}") from error
    return None


def finish_training(workdir: Path, result: dict[str, Any]) -> None:
    """Writes the result of a training, which needs its state no longer."""
    write_json(workdir / RESULT, result)
    _remove(workdir, (), (STATE,))


def write_json(path: Path, data: Any) -> None:
    """Writes readable JSON; nan and inf are refused."""
    path.write_text(json.dumps(data, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _plain(config: Config) -> dict[str, Any]:
    """The config as JSON gives it back, ranges told from choices, with what `arch_file` holds."""
    plain = jsonable(config.to_dict())
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
    folders = (WEIGHTS, FIGURES, PREDICTOR, BUDGETS_FOLDER)
    _remove(workdir, (CONFIG, RESULT, store.FILE, BUDGETS, *winners), folders)


def _remove(workdir: Path, files: Sequence[str], folders: Sequence[str]) -> None:
    for name in files:
        (workdir / name).unlink(missing_ok=True)
    for name in folders:
        if (workdir / name).is_dir():
            shutil.rmtree(workdir / name)
