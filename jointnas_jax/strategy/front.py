"""Fronts of a known cost and a score: what is on one, how large it is, and which members say most.

A front is the best score at each cost. Costs are logarithms, lower is better; of scores higher is.
"""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np

# Share of a range.
_BEYOND = 0.1


class Reference(NamedTuple):
    """What is dearer, or scores less, counts for nothing.

    Attributes:
      cost: logarithm.
      score: score.
    """

    cost: float
    score: float

    @classmethod
    def beyond(cls, costs: np.ndarray, scores: np.ndarray) -> "Reference":
        """Worse than all of `float[N]` each, by a tenth of their ranges."""
        return cls(
            float(costs.max() + _BEYOND * max(np.ptp(costs), 0.1)),
            float(scores.min() - _BEYOND * max(np.ptp(scores), 0.001)),
        )


def nondominated(costs: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Positions of a front by ascending cost, `int[F]`: nothing as cheap or cheaper is as good.

    Args:
      costs: `float[N]`.
      scores: `float[N]`; nan is on no front.
    """
    scores = np.where(np.isnan(scores), -np.inf, scores)
    order = np.lexsort((-scores, costs))
    best = np.maximum.accumulate(np.concatenate([[-np.inf], scores[order][:-1]]))
    return order[scores[order] > best]


def hypervolume(costs: np.ndarray, scores: np.ndarray, reference: Reference) -> float:
    """The area under the front of trials, from the reference's score and up to its cost.

    Args:
      costs: `float[N]`, logarithms.
      scores: `float[N]`.
      reference: the corner of the area.
    """
    inside = (costs < reference.cost) & (scores > reference.score)
    costs, scores = costs[inside], scores[inside]
    front = nondominated(costs, scores)
    edges = np.concatenate([costs[front], [reference.cost]])
    return float((np.diff(edges) * (scores[front] - reference.score)).sum())


def spread(
    costs: np.ndarray,
    scores: np.ndarray,
    count: int,
    reference: Reference,
    *,
    chosen: Collection[int] = (),
) -> list[int]:
    """Picks candidates whose front has the largest area, one after the other.

    So they spread over the costs: beside one that is chosen, a similar one adds little.

    Args:
      costs, scores: `float[N]`; nan is no score.
      count: how many to pick; fewer where no other one adds anything.
      reference: see `hypervolume`.
      chosen: positions that are picked already.

    Returns:
      Positions in the order of picking, without those of `chosen`.
    """
    scores = np.where(np.isnan(scores), -np.inf, scores)
    taken = list(chosen)
    # What something cheaper beats adds nothing, whatever else is chosen.
    front = nondominated(costs, scores)
    for _ in range(count):
        areas = [hypervolume(costs[[*taken, i]], scores[[*taken, i]], reference) for i in front]
        before = hypervolume(costs[taken], scores[taken], reference)
        best = int(np.argmax(areas)) if areas else -1
        if best < 0 or areas[best] <= before:
            break
        taken.append(int(front[best]))
    return taken[len(chosen) :]
