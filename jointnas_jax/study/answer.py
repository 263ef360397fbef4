"""What a front is worth: beside the default candidate, scaled or not, and beside random search.

All comparisons are in pairs: the same seeds and the same test images. Intervals are of a bootstrap
over both (`strategy/paired.py`).

R = resamples, M = networks: winners, default candidate, scaled ones, random search's.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jointnas_jax.strategy.front import Reference, hypervolume
from jointnas_jax.strategy.paired import Interval, resample
from jointnas_jax.study.contender import Contender, References, over_seeds
from jointnas_jax.train.metrics import right_answers

# The reference of an area is worse than all networks by this share of their range.
_BEYOND = 0.1


@dataclasses.dataclass(frozen=True)
class Networks:
    """The networks of a study that were trained on the whole training split.

    Attributes:
      costs: `float64[M]`.
      accuracies: `float64[M]`, means over seeds.
      resampled: `float64[R, M]`; None where answers are not known.
      groups: `search`, `default`, `scaled_default` (with the default one), `random` -> positions.
    """

    costs: np.ndarray
    accuracies: np.ndarray
    resampled: np.ndarray | None
    groups: Mapping[str, list[int]]

    @classmethod
    def of(
        cls,
        cost: str,
        winners: Sequence[Contender],
        references: References,
        *,
        labels: np.ndarray,
        metric: str,
    ) -> "Networks":
        """Gathers those that trained with every seed.

        Args:
          cost: name of the cost of the front.
          winners: best first.
          references: retrained ones.
          labels: `int[N]`, of the test images.
          metric: `config.search.metric`.
        """
        kinds = {
            "search": winners,
            "default": [references.default],
            "scaled_default": references.scaled,
            "random": references.random,
        }
        rows = [
            (kind, contender, over_seeds(contender.test)["mean"])
            for kind, contenders in kinds.items()
            for contender in contenders
        ]
        rows = [row for row in rows if row[2] is not None]
        groups: dict[str, list[int]] = {kind: [] for kind in kinds}
        for position, (kind, _, _) in enumerate(rows):
            groups[kind].append(position)
        groups["scaled_default"] = groups["default"] + groups["scaled_default"]
        said = [contender.answers for _, contender, _ in rows]
        known = all(answers is not None for each in said for answers in each)
        return cls(
            costs=np.array([contender.cost(cost) for _, contender, _ in rows], float),
            accuracies=np.array([mean for *_, mean in rows], float),
            resampled=_resampled(said, labels, metric) if rows and known else None,
            groups=groups,
        )

    def interval(self, measure: Any) -> dict[str, float | None]:
        """A number made of `float64[..., M]` accuracies, with its interval; None: not finite."""
        value, low, high = float(measure(self.accuracies)), math.nan, math.nan
        if self.resampled is not None:
            _, low, high = Interval.of(value, np.asarray(measure(self.resampled), float))
        return {"value": _finite(value), "low": _finite(low), "high": _finite(high)}


def times_fewer(networks: Networks) -> dict[str, Any] | None:
    """By how much the cheapest winner that is as accurate as the default candidate is cheaper.

    None where no winner is, or it is not known. The interval counts where none is as 0.
    """
    ours, default = networks.groups["search"], networks.groups["default"]
    if not ours or not default:
        return None
    costs, cost = networks.costs[ours], networks.costs[default[0]]

    def times(accuracies: np.ndarray) -> np.ndarray:
        reached = accuracies[..., ours] >= accuracies[..., default]
        return cost / np.where(reached, costs, np.inf).min(-1)

    found = networks.interval(times)
    if not found["value"]:
        return None
    reached = networks.accuracies[ours] >= networks.accuracies[default]
    return found | {"winner": int(np.where(reached, costs, np.inf).argmin())}


def gain(networks: Networks) -> dict[str, Any] | None:
    """How much more accurate than the default candidate the best winner is that costs no more.

    By validation the best one is the first; None where all cost more, or it is not known.
    """
    ours, default = networks.groups["search"], networks.groups["default"]
    cheap = [i for i in ours if default and networks.costs[i] <= networks.costs[default[0]]]
    if not cheap:
        return None
    found = networks.interval(lambda a: a[..., cheap[0]] - a[..., default[0]])
    return found | {"winner": ours.index(cheap[0])}


def hypervolumes(networks: Networks) -> dict[str, Any]:
    """The areas under the fronts of search, scaled default candidate and random search.

    The axis of cost is logarithmic. The reference is worse than all networks, by a tenth of the
    range of their costs' logarithms and of their accuracies.
    """
    logs, accuracies = np.log(networks.costs), networks.accuracies
    corner = Reference(
        float(logs.max() + _BEYOND * max(np.ptp(logs), 0.1)),
        float(accuracies.min() - _BEYOND * max(np.ptp(accuracies), 0.001)),
    )
    areas: dict[str, Any] = {"reference": {"cost": math.exp(corner.cost), "accuracy": corner.score}}

    def area(group: str, rows: np.ndarray) -> np.ndarray:
        chosen = networks.groups[group]
        found = [hypervolume(logs[chosen], row[chosen], corner) for row in np.atleast_2d(rows)]
        return np.array(found) if rows.ndim > 1 else np.array(found[0])

    for group in ("search", "scaled_default", "random"):
        if networks.groups[group]:
            areas[group] = networks.interval(lambda rows, group=group: area(group, rows))
            if group != "search" and networks.groups["search"]:
                ahead = networks.interval(
                    lambda rows, group=group: area("search", rows) - area(group, rows)
                )
                areas[group]["search_ahead_by"] = ahead
    return areas


def _resampled(
    said: Sequence[Sequence[np.ndarray | None]], labels: np.ndarray, metric: str
) -> np.ndarray:
    """Resampled accuracies `float64[R, M]`, given the answers of all trainings of M networks."""
    weights = None
    if metric == "balanced_accuracy":
        weights = 1 / np.bincount(labels)[labels]
    right = [right_answers(np.stack([*map(np.asarray, each)]), labels, metric) for each in said]
    return resample(right, weights)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
