"""Whether measured differences support a claim, or only show noise.

The rule: of the differences between independent units, such as seeds, the 95 % interval of their
mean by Student's t. The claim **holds** where the interval lies above zero, it **does not hold**
where it lies below, and everything else is **within the noise**, as is a single unit.

Trained candidates are expensive, so some claims are tried on many small sets drawn from the same
ones. Sets that share candidates are not independent. Therefore a shuffle divides all candidates
into disjoint sets, these are the units, and more shuffles make the mean steadier but never count as
more units. (What remains shared are the candidates that a set is tested on.)
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

HOLDS, FAILS, NOISE = "holds", "does not hold", "within the noise"
_CONFIDENCE = 0.95


class Verdict(NamedTuple):
    """What a sample of differences says.

    Attributes:
      mean: of the differences.
      error: standard error of the mean; nan where there are fewer than two units.
      low, high: the 95 % interval, likewise.
      units: independent differences, on average over shuffles.
      word: `HOLDS`, `FAILS` or `NOISE`.
    """

    mean: float
    error: float
    low: float
    high: float
    units: float
    word: str


class Row(NamedTuple):
    """One line of a claim's table.

    Attributes:
      label: what was compared.
      numbers: name of a column -> its mean.
      difference: the verdict.
    """

    label: str
    numbers: Mapping[str, float]
    difference: Verdict

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, None where there is no number."""
        number = lambda v: float(v) if math.isfinite(v) else None
        *measured, word = self.difference
        names = Verdict._fields[:-1]
        return {
            "label": self.label,
            "numbers": {name: number(v) for name, v in self.numbers.items()},
            "difference": {n: number(v) for n, v in zip(names, measured, strict=True)}
            | {"verdict": word},
        }


def judge(differences: np.ndarray | Sequence[float]) -> Verdict:
    """Applies the rule.

    Args:
      differences: `float[U]` of units, or `float[S, U]` of S shuffles; nan where there is none.
    """
    values = np.atleast_2d(np.asarray(differences, float))
    values = values[np.isfinite(values).any(axis=1)]
    if not values.size:
        return Verdict(*[math.nan] * 4, 0.0, NOISE)
    mean, units = float(np.nanmean(values)), float(np.isfinite(values).sum(1).mean())
    spread = values[np.isfinite(values).sum(1) > 1]
    if units < 2 or not spread.size:
        return Verdict(mean, *[math.nan] * 3, units, NOISE)
    error = math.sqrt(np.nanvar(spread, axis=1, ddof=1).mean() / units)
    half = error * stats.t.ppf((1 + _CONFIDENCE) / 2, units - 1)
    low, high = mean - half, mean + half
    return Verdict(
        mean, error, low, high, units, HOLDS if low > 0 else FAILS if high < 0 else NOISE
    )


def disjoint_sets(count: int, size: int, shuffles: int) -> np.ndarray:
    """Divides `count` candidates into sets of `size`, again after every shuffle.

    Returns:
      Positions `int[shuffles, count // size, size]`; what does not fill a set is left over.
    """
    sets = count // size
    orders = [np.random.default_rng(s).permutation(count) for s in range(shuffles)]
    return np.array([order[: sets * size].reshape(sets, size) for order in orders])


def others(count: int, chosen: np.ndarray) -> np.ndarray:
    """Positions of all `count` candidates but the chosen ones, `int[count - n]`."""
    return np.setdiff1d(np.arange(count), chosen)


def sentence(claim: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """The claim with its verdicts, each with the rows that it is about."""
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row["difference"]["verdict"], []).append(row["label"])
    parts = [
        word if len(found) == 1 else f"{word} for {'; '.join(found[word])}"
        for word in (HOLDS, NOISE, FAILS)
        if word in found
    ]
    return f"{claim}: {', '.join(parts)}."


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The rows as lines of text: means, the difference with its standard error, the verdict."""
    show = lambda v: "-" if v is None else f"{v:.3f}"
    names = list(rows[0]["numbers"])
    width = max(len(row["label"]) for row in rows)
    lines = [f"  {'':<{width}}" + "".join(f"{n:>12}" for n in names) + f"{'difference':>18}"]
    for row in rows:
        difference = row["difference"]
        mean = "-" if difference["mean"] is None else f"{difference['mean']:+.3f}"
        lines.append(
            f"  {row['label']:<{width}}"
            + "".join(f"{show(row['numbers'][n]):>12}" for n in names)
            + f"{mean + ' ± ' + show(difference['error']):>18}  {difference['verdict']}"
        )
    return lines
