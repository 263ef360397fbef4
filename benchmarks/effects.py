"""Effects of single knobs at equal cost, in tables of recorded learning curves.

python -m benchmarks.effects

A linear regression, for each table, of the scores of all trainings to the end (validation and test
images together, logarithms of the errors, in standard deviations) on the logarithm of the FLOPs and
all knobs: numbers, with the squares of their distances from the middle, and choices by value. What
studies expect before any training (`space/expected.py`) stands on it. Told are the effects of one
deviation of the FLOPs, from the smallest to the largest number, from the middle to both ends, and
of a choice from its first value; each with its standard error.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from benchmarks.curves import COLUMNS, TABLES, last, read_table
from benchmarks.race import restored
from jointnas_jax.command_line import define_path, run_measurement, text_table
from jointnas_jax.space import JointSpace

_SCORE = COLUMNS.index("calibrated_brier")
# Beyond every score, so that errors have logarithms; candidates that a table needs.
ABOVE, _LEAST = 1.02, 100
# Variance of an effect that is expected, as a share of that of the rest: for stability.
_RIDGE = 2.0


def effects(table: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Name of an effect -> its size and standard error, in standard deviations of the scores."""
    space = JointSpace.from_config(restored(table["space"]), image_channels=1, num_classes=2)
    rows = [r for r in table["trainings"] if r["reason"] is None and r["fold"] == 0]
    vectors = np.array([r["vector"] for r in rows])
    errors = np.array([[last(r)[_SCORE], last(r, "test_")[_SCORE]] for r in rows])
    scores = -np.log(errors + ABOVE - 1)
    target = ((scores - scores.mean(0)) / scores.std(0)).mean(1)
    target /= target.std()
    flops = np.log([r["costs"]["flops"] for r in rows])
    columns = {"FLOPs": (flops - flops.mean()) / flops.std()}
    for knob, index in zip(space.knobs, vectors.T, strict=True):
        if knob.ordinal and len(knob.values) > 2:
            place = index / (len(knob.values) - 1)
            columns |= {knob.name: place, f"{knob.name} squared": np.square(2 * place - 1)}
        else:
            for i, value in enumerate(knob.values[1:], 1):
                columns[f"{knob.name} = {value}"] = (index == i).astype(float)
    inputs = np.stack([*columns.values()], 1)
    inputs -= inputs.mean(0)
    inverse = np.linalg.inv(inputs.T @ inputs + _RIDGE * np.eye(len(columns)))
    sizes = inverse @ inputs.T @ target
    deviations = np.sqrt(np.diag(inverse) * (target - inputs @ sizes).var())
    return dict(zip(columns, zip(sizes.tolist(), deviations.tolist(), strict=True), strict=True))


def compare(files: Sequence[Path]) -> dict[str, Any]:
    """The effects in all tables that are large enough."""
    tables = {f.name.removeprefix("curves_").removesuffix(".json.gz"): read_table(f) for f in files}
    found = {n: effects(t) for n, t in tables.items() if len(t["trainings"]) >= _LEAST}
    names = dict.fromkeys(name for each in found.values() for name in each)
    told = lambda size, error: f"{size:+.2f} ± {error:.2f}"
    rows = [
        {"effect": name}
        | {n: told(*each[name]) if name in each else "" for n, each in found.items()}
        for name in names
    ]
    print(text_table(rows, {name: f"{{{name}}}" for name in ("effect", *found)}))
    return {"effects": found}


def main(argv: list[str]) -> dict[str, Any]:
    """Returns the report."""
    flags.FLAGS(argv)
    return compare(sorted(Path(flags.FLAGS.tables or TABLES).glob("curves_*.json.gz")))


if __name__ == "__main__":
    define_path("tables", "", "Folder of the tables; '': benchmarks/data.")
    sys.exit(run_measurement(__doc__, main))
