"""The folder of one study."""

import json
import shutil
from pathlib import Path
from typing import Any

from jointnas_jax.config import Config
from jointnas_jax.errors import WorkdirError
from jointnas_jax.study import store

CONFIG, RESULT, WEIGHTS, FIGURES = "config.json", "result.json", "weights", "figures"
WINNERS = "winner*.json"


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


def start(workdir: Path, config: Config) -> None:
    """Makes the workdir ready for a new study: removes an earlier one's files and writes the
    config.

    Raises:
      WorkdirError: the folder cannot be written.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        _remove_study(workdir)
        write_json(workdir / CONFIG, _plain(config))
    except OSError as error:
        raise WorkdirError(f"workdir `{workdir}` cannot be written: {error}") from error


def write_json(path: Path, data: Any) -> None:
    """Writes readable JSON; nan and inf are refused."""
    path.write_text(json.dumps(data, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _plain(config: Config) -> dict[str, Any]:
    """The config as JSON gives it back, ranges told from choices, with what `arch_file` holds."""
    plain = jsonable(config.to_dict())
    if Path(config.arch_file).is_file():
        plain["arch"] = Path(config.arch_file).read_text(encoding="utf-8")
    return json.loads(json.dumps(plain))


def jsonable(value: Any) -> Any:
    """Writes a tuple of numbers, which JSON would turn into a list, as `{"range": [...]}`."""
    if isinstance(value, dict):
        return {key: jsonable(v) for key, v in value.items()}
    if isinstance(value, tuple) and all(isinstance(v, int | float) for v in value):
        return {"range": list(value)}
    return [jsonable(v) for v in value] if isinstance(value, list | tuple) else value


def _remove_study(workdir: Path) -> None:
    """Removes what a study writes, and nothing else."""
    for name in (CONFIG, RESULT, store.FILE):
        (workdir / name).unlink(missing_ok=True)
    for path in workdir.glob(WINNERS):
        path.unlink()
    for name in (WEIGHTS, FIGURES):
        if (workdir / name).is_dir():
            shutil.rmtree(workdir / name)
