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
from scipy.special import stdtrit

from jointnas_jax.command_line import text_table
from jointnas_jax.errors import InputError

HOLDS, FAILS, NOISE = "holds", "does not hold", "within the noise"
_CONFIDENCE = 0.95
# Fewer candidates than this cannot be ranked in any way that means something.
FEWEST = 3


class Verdict(NamedTuple):
    """What a sample of differences says."""

    mean: float = math.nan
    error: float = math.nan  # standard error of the mean; nan with fewer than two units
    low: float = math.nan  # of the 95 % interval, likewise
    high: float = math.nan
    units: float = 0.0  # independent differences, on average over shuffles
    verdict: str = NOISE  # or `HOLDS`, or `FAILS`


def judge(differences: np.ndarray | Sequence[float]) -> Verdict:
    """Applies the rule to units `float[U]`, or `float[S, U]` of S shuffles; nan where missing."""
    values = np.atleast_2d(np.asarray(differences, float))
    values = values[np.isfinite(values).any(axis=1)]
    if not values.size:
        return Verdict()
    mean, units = float(np.nanmean(values)), float(np.isfinite(values).sum(1).mean())
    several = values[np.isfinite(values).sum(1) > 1]
    if units < 2 or not several.size:
        return Verdict(mean, units=units)
    error = math.sqrt(np.nanvar(several, axis=1, ddof=1).mean() / units)
    half = error * float(stdtrit(units - 1, (1 + _CONFIDENCE) / 2))
    low, high = mean - half, mean + half
    verdict = HOLDS if low > 0 else FAILS if high < 0 else NOISE
    return Verdict(mean, error, low, high, units, verdict)


def row(label: str, numbers: Mapping[str, float], difference: Verdict) -> dict[str, Any]:
    """One line of a claim's table, as JSON has it: what was compared, means, and the verdict."""
    shown = {
        name: v if name == "verdict" else number(v) for name, v in difference._asdict().items()
    }
    return {
        "label": label,
        "numbers": {name: number(v) for name, v in numbers.items()},
        "difference": shown,
    }


def number(value: float) -> float | None:
    """A number for JSON, None where there is none."""
    return float(value) if math.isfinite(value) else None


def check_sizes(flag: str, sizes: Sequence[int], candidates: int) -> None:
    """Raises `InputError` if a set of one of the sizes leaves too few candidates to test on."""
    most = candidates - FEWEST
    for size in sizes:
        if not FEWEST <= size <= most:
            raise InputError(
                f"`--{flag}` must be from {FEWEST} to {most}, since of {candidates} candidates "
                f"{FEWEST} have to be left to test on, got {size}; train more with --candidates="
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
    labels: dict[str, list[str]] = {}
    for one in rows:
        labels.setdefault(one["difference"]["verdict"], []).append(one["label"])
    parts = [
        word if len(labels) == 1 else f"{word} for {'; '.join(labels[word])}"
        for word in (HOLDS, NOISE, FAILS)
        if word in labels
    ]
    return f"{claim}: {', '.join(parts)}."


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as text: means, the difference with its standard error, the verdict."""
    layout = {"": "{label}"} | {name: f"{{numbers[{name}]:.3f}}" for name in rows[0]["numbers"]}
    layout["difference"] = "{difference[mean]:+.3f} ± {difference[error]:.3f}"
    return text_table(rows, layout | {"verdict": "{difference[verdict]}"})
