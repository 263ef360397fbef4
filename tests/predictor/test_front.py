"""What a candidate adds to a front, in expectation, is what it adds in the mean of many draws."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jointnas_jax.predictor.front import Front, hypervolume, nondominated

REFERENCES = dict(cost_reference=3.0, score_reference=-1.0)


def front_of(costs, scores, real):
    references = {name: jnp.float32(value) for name, value in REFERENCES.items()}
    arrays = (jnp.asarray(costs, jnp.float32), jnp.asarray(scores, jnp.float32), jnp.asarray(real))
    return Front.of(*arrays, **references)


@settings(max_examples=20)
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
    before = hypervolume(costs[real], scores[real], **REFERENCES)
    for cost, m, d, log_area in zip(new, mean, deviation, found, strict=True):
        draws = m + d * rng.normal(0, 1, 1500)
        added = [
            hypervolume(np.append(costs[real], cost), np.append(scores[real], y), **REFERENCES)
            for y in draws
        ]
        error = 4 * np.std(added) / np.sqrt(len(draws)) + 1e-3
        assert float(np.exp(log_area)) == pytest.approx(np.mean(added) - before, abs=error)


def test_a_candidate_at_the_reference_or_beyond_adds_nothing():
    front = front_of([1.0], [0.0], [True])
    costs = jnp.array([3.0, 4.0])
    found = front.log_improvement(costs, jnp.ones(2), jnp.ones(2))
    assert np.exp(np.asarray(found)).tolist() == [0, 0]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=9))
def test_a_front_holds_what_nothing_else_beats(points):
    costs, scores = np.array(points, float).T
    front = nondominated(costs, scores)

    def beaten(i):
        as_good = (costs <= costs[i]) & (scores >= scores[i])
        return (as_good & ((costs < costs[i]) | (scores > scores[i]))).any()

    expected = {points[i] for i in range(len(points)) if not beaten(i)}
    assert {points[i] for i in front} == expected
    assert len(front) == len(expected)  # equal ones once
    assert (np.diff(costs[front]) > 0).all()
    assert (np.diff(scores[front]) > 0).all()


def test_failed_trials_are_on_no_front():
    assert nondominated(np.array([1.0, 2.0]), np.array([np.nan, 0.5])).tolist() == [1]


def test_areas_agree_with_another_library():
    moocore = pytest.importorskip("moocore")
    rng = np.random.default_rng(0)
    for _ in range(20):
        costs, scores = rng.uniform(0, 3, 8), rng.normal(0, 1, 8)
        expected = moocore.hypervolume(np.column_stack([costs, -scores]), ref=[3.0, 1.0])
        assert hypervolume(costs, scores, **REFERENCES) == pytest.approx(expected)
