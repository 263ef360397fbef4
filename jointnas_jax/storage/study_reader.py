"""Reads a study from its workdir, also while it runs. Nothing here imports JAX."""

import contextlib
import dataclasses
import functools
import json
import time
from pathlib import Path
from typing import Any

from jointnas_jax.errors import DamagedError
from jointnas_jax.files import read_json, reading
from jointnas_jax.report.record import StudyRecord
from jointnas_jax.storage.database import sqlite_url, url_of
from jointnas_jax.storage.provenance import Provenance
from jointnas_jax.storage.trial_store import Trial, TrialStore
from jointnas_jax.storage.workdir import (
    BUDGETS,
    CONTACT_SHEET,
    DATA,
    RESULT,
    TRIALS,
    stored_config,
)

# Seconds after which a study that runs is read again, see `_trials`.
_AGAIN = 0.5


def open_store(
    workdir: Path, storage: str, provenance: Provenance, *, read_only: bool = False
) -> TrialStore:
    """Opens the store of a study that has begun.

    Args:
      workdir: Folder of the study.
      storage: `config.study.storage`; "" is the database where the study began, whose driver finds
        a password elsewhere if it needs one.
      provenance: Provenance of the study.
      read_only: See `TrialStore`.
    """
    begun = url_of(provenance.storage) if provenance.storage else sqlite_url(workdir)
    return TrialStore(storage or begun, provenance.study, read_only=read_only)


def stored_trials(workdir: Path, storage: str = "") -> list[Trial]:
    """Reads the trials of a finished study; `storage` and errors as in `read_record`."""
    return _trials(workdir, storage, read_json(workdir / RESULT))


def read_trials(workdir: Path, storage: str = "") -> list[Trial]:
    """Reads the trials of a study, finished or not; `storage` and errors as in `read_record`."""
    stored_config(workdir)
    result = read_json(workdir / RESULT) if (workdir / RESULT).exists() else None
    return _trials(workdir, storage, result)


def read_record(workdir: Path, storage: str = "") -> StudyRecord:
    """Reads a study, finished or not; changes nothing.

    Args:
      workdir: Folder of the study.
      storage: As in `open_store`.

    Raises:
      WorkdirError: The workdir holds no study, or cannot be read.
      DamagedError: Stored data is not what was written.
    """
    config = stored_config(workdir)
    result = read_json(workdir / RESULT) if (workdir / RESULT).exists() else None
    trials = [dataclasses.asdict(trial) for trial in _trials(workdir, storage, result)]
    data = read_json(workdir / DATA) if (workdir / DATA).exists() else None
    sheet = workdir / CONTACT_SHEET
    with reading(sheet):
        images = sheet.read_bytes() if sheet.exists() else None
    return StudyRecord(workdir, config, trials, result, _budgets(workdir), data, images)


def _trials(workdir: Path, storage: str, result: dict[str, Any] | None) -> list[Trial]:
    """All trials; those of an unfinished study may be written while they are read."""
    provenance = Provenance.read(workdir)
    if not (storage or provenance.storage or (workdir / TRIALS).exists()):
        raise DamagedError(
            f"`{workdir / TRIALS}` is missing; put back a copy of it, or start again with "
            "--overwrite"
        )
    load = functools.partial(_load, workdir, storage, provenance)
    try:
        place, trials = load()
    except DamagedError:
        if result is not None:
            raise
        # Stages are read one by one: a trial that is stored meanwhile leaves a gap.
        time.sleep(_AGAIN)
        place, trials = load()
    if result is not None and len(trials) != result["trials"]:
        raise DamagedError(
            f"`{place}` is damaged: it holds {len(trials)} of the study's {result['trials']} trials"
        )
    return trials


def _load(workdir: Path, storage: str, provenance: Provenance) -> tuple[str, list[Trial]]:
    """The place of the trials, and all of them."""
    with contextlib.closing(open_store(workdir, storage, provenance, read_only=True)) as store:
        return store.place, store.load()


def _budgets(workdir: Path) -> dict[str, Any] | None:
    """The report of a later search for other budgets, which has no digest."""
    file = workdir / BUDGETS
    with reading(file, fix="; search for the budgets again, or remove it"):
        if not file.exists():
            return None
        data = json.loads(file.read_text(encoding="utf-8"))
        for entry in data["budgets"]:
            float(entry["predicted"]), int(entry["costs"]["flops"])
        return data
