"""Fronts of a cost that is known exactly and a score that is predicted.

A front is the best score at each cost. What a candidate would add to it is an area: of all costs
from its own up to the reference, on a logarithmic axis, times what its score is above the front
there. The cost is known, so the expectation of that area is a sum of expected improvements, one for
each step of the front.

Shapes: N trials, real ones and padding, T candidates.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jointnas_jax.predictor.gaussian_process import log_improvement

# The reference is dearer than the limit by this share of the costs' range, so that a candidate at
# the limit adds something.
BEYOND = 0.1


class Front(NamedTuple):
    """The steps of a front: from each edge to the next one the front has a height.

    Attributes:
      edges: `float32[N + 2]`, logarithms of costs, ascending; the first is minus infinity, the last
        the reference.
      heights: `float32[N + 1]`, scores, never falling; the first is the reference.
    """

    edges: jax.Array
    heights: jax.Array

    @classmethod
    def of(
        cls,
        costs: jax.Array,
        scores: jax.Array,
        real: jax.Array,
        *,
        cost_reference: jax.Array,
        score_reference: jax.Array,
    ) -> "Front":
        """The front of trials; for use under `jit`.

        Args:
          costs: `float32[N]`, logarithms.
          scores: `float32[N]`; expected ones, so that a lucky trial is no front.
          real: `bool[N]`, false for padding.
          cost_reference: `float32[]`, above which a candidate adds nothing.
          score_reference: `float32[]`, below which it adds nothing.
        """
        costs = jnp.where(real, jnp.minimum(costs, cost_reference), cost_reference)
        order = jnp.argsort(costs)
        above = jnp.where(real, jnp.maximum(scores, score_reference), score_reference)
        heights = jax.lax.cummax(above[order])
        return cls(
            jnp.concatenate([jnp.array([-jnp.inf]), costs[order], cost_reference[None]]),
            jnp.concatenate([score_reference[None], heights]),
        )

    def log_improvement(self, costs: jax.Array, mean: jax.Array, deviation: jax.Array) -> jax.Array:
        """Logarithm of the expected area that candidates add, `float32[T]`; for use under `jit`.

        Args:
          costs: `float32[T]`, logarithms; known.
          mean, deviation: `float32[T]`, of the predicted scores.
        """
        left = jnp.maximum(self.edges[:-1], costs[:, None])
        widths = jnp.maximum(self.edges[1:] - left, 0.0)
        each = log_improvement(mean[:, None], deviation[:, None], self.heights)
        # A step of no width adds nothing, with a finite gradient of nothing.
        logs = jnp.where(widths > 0, jnp.log(jnp.where(widths > 0, widths, 1.0)) + each, -jnp.inf)
        return jax.nn.logsumexp(logs, axis=1)


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


def hypervolume(
    costs: np.ndarray, scores: np.ndarray, *, cost_reference: float, score_reference: float
) -> float:
    """The area under the front of trials, from the score's reference and up to the cost's.

    Args:
      costs: `float[N]`, logarithms.
      scores: `float[N]`.
      cost_reference, score_reference: see `Front.of`.
    """
    inside = (costs < cost_reference) & (scores > score_reference)
    costs, scores = costs[inside], scores[inside]
    front = nondominated(costs, scores)
    edges = np.concatenate([costs[front], [cost_reference]])
    return float((np.diff(edges) * (scores[front] - score_reference)).sum())
