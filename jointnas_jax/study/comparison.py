"""What a front is worth: beside the default candidate, scaled or not, and beside random search.

All comparisons are in pairs: the same seeds and the same test images. Intervals are of a bootstrap
over both (`strategy/paired.py`).

R = resamples, M = networks: winners, default candidate, scaled ones, random search's.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jointnas_jax.strategy.front import Reference, hypervolume
from jointnas_jax.strategy.paired import interval, resample
from jointnas_jax.study.contender import Contender, References, over_seeds
from jointnas_jax.train.metrics import right_answers


@dataclasses.dataclass(frozen=True)
class Networks:
    """The networks of a study that were trained on the whole training split.

    Attributes:
      costs: `float64[M]`.
      accuracies: `float64[M]`, means over seeds.
      resampled: `float64[R, M]`; None where answers are not known.
      groups: `search`, `default`, `scaled_default` (with the default one), `random` -> positions.
      ranks: of the winners at the positions of `search`, among all of the study.
      default_won: whether the default candidate is one of them.
    """

    costs: np.ndarray
    accuracies: np.ndarray
    resampled: np.ndarray | None
    groups: Mapping[str, list[int]]
    ranks: list[int]
    default_won: list[bool]

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
            (kind, contender, mean)
            for kind, contenders in kinds.items()
            for contender in contenders
            if (mean := over_seeds(contender.test)["mean"]) is not None
        ]
        groups: dict[str, list[int]] = {kind: [] for kind in kinds}
        for position, (kind, _, _) in enumerate(rows):
            groups[kind].append(position)
        sound = [rows[i][1] for i in groups["search"]]
        groups["scaled_default"] = groups["default"] + groups["scaled_default"]
        said = [contender.answers for _, contender, _ in rows]
        known = all(answers is not None for each in said for answers in each)
        return cls(
            costs=np.array([contender.cost(cost) for _, contender, _ in rows], float),
            accuracies=np.array([mean for *_, mean in rows], float),
            resampled=_resampled(said, labels, metric) if rows and known else None,
            groups=groups,
            ranks=[list(winners).index(winner) for winner in sound],
            default_won=[winner.identity == references.default.identity for winner in sound],
        )

    @property
    def challengers(self) -> list[tuple[int, int]]:
        """Position and rank of each winner, best first, but for the default candidate itself."""
        rows = zip(self.groups["search"], self.ranks, self.default_won, strict=True)
        return [(position, rank) for position, rank, default in rows if not default]

    def interval(self, measure: Callable[[np.ndarray], np.ndarray]) -> dict[str, float | None]:
        """A number made of `float64[..., M]` accuracies, with its interval; None: not known."""
        low = high = math.nan
        if self.resampled is not None:
            low, high = interval(np.asarray(measure(self.resampled), float))
        value = float(measure(self.accuracies))
        return {"value": _finite(value), "low": _finite(low), "high": _finite(high)}


def times_fewer(networks: Networks) -> dict[str, Any] | None:
    """By how much the cheapest winner that is as accurate as the default candidate is cheaper.

    None where no winner is, or it is not known. The interval counts a resample in which none is as
    0; `reached` is the share of the others.
    """
    challengers, default = networks.challengers, networks.groups["default"]
    if not challengers or not default:
        return None
    ours = [position for position, _ in challengers]
    costs, cost = networks.costs[ours], networks.costs[default[0]]

    def cheapest(accuracies: np.ndarray) -> np.ndarray:
        reached = accuracies[..., ours] >= accuracies[..., default]
        return np.where(reached, costs, np.inf)

    times = networks.interval(lambda accuracies: cost / cheapest(accuracies).min(-1))
    if not times["value"]:
        return None
    reached = None
    if networks.resampled is not None:
        reached = float(np.isfinite(cheapest(networks.resampled).min(-1)).mean())
    rank = challengers[int(cheapest(networks.accuracies).argmin())][1]
    return {**times, "reached": reached, "winner": rank}


def gain(networks: Networks) -> dict[str, Any] | None:
    """How much more accurate than the default candidate the best winner is that costs no more.

    By validation the best one is the first; None where all cost more, or it is not known.
    """
    default = networks.groups["default"]
    if not default:
        return None
    limit = networks.costs[default[0]]
    cheap = [(p, rank) for p, rank in networks.challengers if networks.costs[p] <= limit]
    if not cheap:
        return None
    position, rank = cheap[0]
    ahead = networks.interval(lambda a: a[..., position] - a[..., default[0]])
    return {**ahead, "winner": rank}


def hypervolumes(networks: Networks) -> dict[str, Any]:
    """The areas under the fronts of search, scaled default candidate and random search.

    The axis of cost is logarithmic. The reference is worse than all networks, by a tenth of the
    range of their costs' logarithms and of their accuracies.
    """
    logs, accuracies = np.log(networks.costs), networks.accuracies
    corner = Reference.beyond(logs, accuracies)
    areas: dict[str, Any] = {"reference": {"cost": math.exp(corner.cost), "accuracy": corner.score}}

    def area(group: str, rows: np.ndarray) -> np.ndarray:
        chosen = networks.groups[group]
        found = [hypervolume(logs[chosen], row[chosen], corner) for row in np.atleast_2d(rows)]
        return np.array(found) if rows.ndim > 1 else np.array(found[0])

    def lead(group: str, rows: np.ndarray) -> np.ndarray:
        return area("search", rows) - area(group, rows)

    for group in ("search", "scaled_default", "random"):
        if networks.groups[group]:
            areas[group] = networks.interval(functools.partial(area, group))
            if group != "search" and networks.groups["search"]:
                areas[group]["search_ahead_by"] = networks.interval(functools.partial(lead, group))
    return areas


def _resampled(
    said: Sequence[Sequence[np.ndarray | None]], labels: np.ndarray, metric: str
) -> np.ndarray:
    """Resampled accuracies `float64[R, M]`, given the answers of all trainings of M networks."""
    right = [right_answers(np.stack([*map(np.asarray, each)]), labels, metric) for each in said]
    return resample(right, labels if metric == "balanced_accuracy" else None)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
