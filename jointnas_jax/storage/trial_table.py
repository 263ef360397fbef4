"""The trials of a study as a table: a row for each, a column for each knob and cost."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from jointnas_jax.storage.trial_store import Trial

_FIELDS = ("number", "stage", "round", "seed", "status", "resumed", "epochs", "predicted", "score")
_LAST = ("seconds", "pack", "reason")


def rows_of(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """A dict for each trial, all with the same keys in the same order.

    `accuracy` is that after the last epoch; costs have the prefix `cost_`, knobs their own names.
    """
    costs = list(dict.fromkeys(name for trial in trials for name in trial.costs))
    knobs = list(dict.fromkeys(name for trial in trials for name in trial.knobs))
    return [
        {name: getattr(trial, name) for name in _FIELDS}
        | {"accuracy": trial.accuracies[-1] if trial.score is not None else None}
        | {name: getattr(trial, name) for name in _LAST}
        | {f"cost_{name}": trial.costs.get(name) for name in costs}
        | {name: trial.knobs.get(name) for name in knobs}
        for trial in trials
    ]


def csv_of(trials: Sequence[Trial]) -> bytes:
    """The rows as a CSV file with a header; missing values are empty."""
    rows = rows_of(trials)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]) if rows else list(_FIELDS))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
