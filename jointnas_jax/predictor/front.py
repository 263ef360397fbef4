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

# Share of the costs' range.
_BEYOND = 0.1


# Quantile of the scores from which a front counts, where all of it is wanted.
USUAL = 0.5


def beyond(costs: np.ndarray) -> float:
    """The reference of `float[P]`, logarithms of the costs of a pool: somewhat dearer than all.

    So the dearest candidates add something.
    """
    return float(costs.max() + max(_BEYOND * np.ptp(costs), 1e-3))


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

    @classmethod
    def of_trials(
        cls,
        costs: jax.Array,
        expected: jax.Array,
        real: jax.Array,
        *,
        cost_reference: jax.Array,
        quantile: float,
    ) -> "Front":
        """The front of trials, from a quantile of their scores up; see `of`.

        What is cheap, but worse than these, adds nothing to it.
        """
        good = jnp.nanquantile(jnp.where(real, expected, jnp.nan), quantile)
        return cls.of(costs, expected, real, cost_reference=cost_reference, score_reference=good)

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
