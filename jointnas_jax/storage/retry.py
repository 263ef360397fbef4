"""Failed trials of an unfinished study train again, without a loss of what is sound.

What the search asked for after a failure depends on it. So all trials are taken out of the store,
and the search asks from its beginning: a sound trial that it asks for again comes from a file, and
everything else trains. Where a training fails again, the study is the one that it was.
"""

import dataclasses
from pathlib import Path
from typing import Any

from jointnas_jax.files import read_json, write_json
from jointnas_jax.storage.trial_store import FAILED, STAGES, Trial, TrialStore
from jointnas_jax.storage.workdir import RETRIED

_RETRAINED = STAGES[-1]


def begin_retry(workdir: Path, store: TrialStore, *, wanted: bool) -> None:
    """Takes all trials out of a store if one of them failed, and writes the sound ones to a file.

    Interrupted anywhere, it goes on the next time.

    Args:
      workdir: of the study.
      store: with its trials.
      wanted: whether failed trials are to train again; else only what was interrupted goes on.

    Raises:
      StorageError: something cannot be written.
      DamagedError: the file, or a stored trial, is not what was written.
    """
    before = _read(workdir)
    if before["emptied"]:
        trials = store.load()
        if not wanted or all(trial.status != FAILED for trial in trials):
            return
        rows = _sound(trials, before["trials"])
        write_json(workdir / RETRIED, {"emptied": False, "trials": rows}, digest=True)
    store.create()
    write_json(workdir / RETRIED, _read(workdir) | {"emptied": True}, digest=True)


def retried_rows(workdir: Path) -> list[dict[str, Any]]:
    """The sound trials that `begin_retry` took out, as dicts; of equal ones the last counts."""
    return _read(workdir)["trials"]


def _read(workdir: Path) -> dict[str, Any]:
    file = workdir / RETRIED
    return read_json(file) if file.exists() else {"emptied": True, "trials": []}


def _sound(trials: list[Trial], before: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Trials that did not fail, behind those that were taken out before.

    Retrained ones only where nothing before them failed: with other winners the weights of a
    winner are another one's.
    """
    keep = {trial.stage for trial in trials if trial.status == FAILED} == {_RETRAINED}
    sound = [dataclasses.asdict(trial) for trial in trials if trial.status != FAILED]
    return [row for row in [*before, *sound] if keep or row["stage"] != _RETRAINED]
