"""What a candidate adds to a front, in expectation, is the mean of what its likely scores add."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from jointnas_jax.predictor.front import Front
from jointnas_jax.strategy.front import Reference, hypervolume

CORNER = Reference(cost=3.0, score=-1.0)


def front_of(costs, scores, real):
    references = dict(
        cost_reference=jnp.float32(CORNER.cost), score_reference=jnp.float32(CORNER.score)
    )
    arrays = (jnp.asarray(costs, jnp.float32), jnp.asarray(scores, jnp.float32), jnp.asarray(real))
    return Front.of(*arrays, **references)


@settings(max_examples=8)
@given(st.integers(0, 2**31 - 1), st.integers(0, 7), st.integers(0, 3))
def test_the_expected_area_is_the_mean_area(seed, count, padding):
    rng = np.random.default_rng(seed)
    costs, scores = rng.uniform(0, 3.2, count + padding), rng.normal(0, 1, count + padding)
    real = np.arange(count + padding) < count
    if not len(costs):
        costs, scores, real = np.zeros(1), np.zeros(1), np.zeros(1, bool)
    new = rng.uniform(0, 3, 4)
    mean, deviation = rng.normal(0, 1, 4), rng.uniform(0.1, 1, 4)
    found = front_of(costs, scores, real).log_improvement(
        *(jnp.asarray(v, jnp.float32) for v in (new, mean, deviation))
    )
    before = hypervolume(costs[real], scores[real], CORNER)
    for cost, m, d, log_area in zip(new, mean, deviation, found, strict=True):
        # Quantiles instead of draws: rare improvements are missed by chance otherwise.
        quantiles = m + d * norm.ppf((np.arange(500) + 0.5) / 500)
        added = [
            hypervolume(np.append(costs[real], cost), np.append(scores[real], y), CORNER)
            for y in quantiles
        ]
        assert float(np.exp(log_area)) == pytest.approx(np.mean(added) - before, abs=3e-3)


def test_a_candidate_at_the_reference_or_beyond_adds_nothing():
    front = front_of([1.0], [0.0], [True])
    costs = jnp.array([3.0, 4.0])
    found = front.log_improvement(costs, jnp.ones(2), jnp.ones(2))
    assert np.exp(np.asarray(found)).tolist() == [0, 0]
