"""Which candidates are members of a study's front: one rule for the search and for random ones."""

import dataclasses

import numpy as np

from jointnas_jax.predictor.front import beyond
from jointnas_jax.problem.problem import Problem
from jointnas_jax.strategy.front import Reference, spread


@dataclasses.dataclass(frozen=True)
class FrontRule:
    """The rule, with the cost's end of the front's area.

    Attributes:
      problem: the problem of the study.
      cost: name of the cost of the front.
      reference: logarithm of the cost above which nothing counts.
    """

    problem: Problem
    cost: str
    reference: float

    @classmethod
    def of(cls, problem: Problem, pool: np.ndarray) -> "FrontRule | None":
        """The rule of a study with a pool `int32[P, K]`; None where it searches no front."""
        if not (cost := problem.config.front):
            return None
        logs = _logs(problem, cost, pool)
        return cls(problem, cost, beyond(logs))

    def best(
        self, vectors: np.ndarray, scores: np.ndarray, *, count: int, all_count: bool = False
    ) -> list[int]:
        """Picks members of the front of candidates, spread over the cost.

        Args:
          vectors: `int32[N, K]`.
          scores: `float[N]`, measured or predicted; nan for a failure.
          count: at most so many.
          all_count: whether scores below the median count, too, as of those that were chosen well.

        Returns:
          Positions.
        """
        logs = _logs(self.problem, self.cost, vectors)
        least = np.nanmin(scores) - 1e-6 if all_count else np.nanmedian(scores) - 1e-9
        return spread(logs, scores, count, Reference(self.reference, float(least)))

    def members(
        self,
        measured: np.ndarray,
        new: np.ndarray,
        measured_scores: np.ndarray,
        new_scores: np.ndarray,
        *,
        count: int,
    ) -> tuple[list[int], list[int]]:
        """Picks finalists: half of them measured candidates, half what the fine stage found.

        Predictions are surer where something was measured; elsewhere they are the best of many, and
        flatter.

        Args:
          measured, new: `int32[N, K]` and `int32[M, K]`.
          measured_scores, new_scores: predicted, `float[N]` and `float[M]`.
          count: how many in all.

        Returns:
          Positions among the measured, and among the new ones.
        """
        logs = _logs(self.problem, self.cost, np.concatenate([measured, new]))
        scores = np.concatenate([measured_scores, new_scores])
        corner = Reference(self.reference, float(np.median(measured_scores)) - 1e-9)
        ours = len(measured)
        first = spread(logs[:ours], measured_scores, -(-count // 2), corner)
        then = spread(logs, scores, count - len(first), corner, chosen=first)
        chosen = first + then
        return [i for i in chosen if i < ours], [i - ours for i in chosen if i >= ours]


def _logs(problem: Problem, cost: str, vectors: np.ndarray) -> np.ndarray:
    """Logarithms of a cost, `float64[N]`."""
    return np.log(problem.costs(vectors)[:, problem.costs.names.index(cost)])
