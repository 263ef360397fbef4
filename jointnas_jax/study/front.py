"""Which candidates are members of a study's front: one rule for the search and for random ones."""

import dataclasses

import numpy as np

from jointnas_jax.errors import ConfigError
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
        """The rule of a study with a pool `int32[P, K]`; None where it searches no front.

        Raises `ConfigError` where all candidates cost the same.
        """
        if not (cost := problem.config.front):
            return None
        logs = np.log(problem.front_costs(pool))
        if not np.ptp(logs) > 1e-6:
            raise ConfigError(
                f"`config.search.front` = `{cost}` needs candidates of different cost, but all of "
                f"the pool cost {round(np.exp(logs[0])):,}; search one candidate with "
                '--config.search.front=""'
            )
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
        logs = np.log(self.problem.front_costs(vectors))
        least = np.nanmedian(scores) - 1e-9
        if all_count:  # the lowest one adds something, too: it is the cheapest
            least = np.nanmin(scores) - max(np.nanmax(scores) - np.nanmin(scores), 1e-3)
        return spread(logs, scores, count, Reference(self.reference, float(least)))

    def members(
        self,
        vectors: tuple[np.ndarray, np.ndarray],
        scores: tuple[np.ndarray, np.ndarray],
        count: int,
    ) -> tuple[list[int], list[int]]:
        """Picks finalists: half of them measured candidates, half from all, new ones included.

        Predictions are surer where something was measured; elsewhere they are the best of many, and
        flatter.

        Args:
          vectors: measured and new candidates, `int32[N, K]` and `int32[M, K]`.
          scores: predicted, `float[N]` and `float[M]`.
          count: how many in all.

        Returns:
          Positions among the measured, and among the new ones.
        """
        logs = np.log(self.problem.front_costs(np.concatenate(vectors)))
        corner = Reference(self.reference, float(np.median(scores[0])) - 1e-9)
        ours = len(scores[0])
        first = spread(logs[:ours], scores[0], -(-count // 2), corner)
        rest = count - len(first)
        then = spread(logs, np.concatenate(scores), rest, corner, chosen=first)
        chosen = first + then
        return [i for i in chosen if i < ours], [i - ours for i in chosen if i >= ours]
