"""What a score at a rung says of the end is learnt from those that went on."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from jointnas_jax.strategy.rungs import at_the_end

NAN = np.nan


def curves(count, rungs, ended, *, noise=0.0, seed=0):
    """Scores that grow alike from rung to rung; the first candidates reach the end."""
    rng = np.random.default_rng(seed)
    quality = rng.normal(size=(count, 1))
    measured = quality * np.linspace(0.5, 1, rungs) + np.arange(rungs)
    measured = measured + noise * rng.normal(size=measured.shape)
    whole = measured[:, -1].copy()
    measured[ended:, -1] = NAN
    return measured, whole


def test_what_reached_the_end_counts_as_measured():
    measured, whole = curves(6, 2, ended=6)
    scores, variances = at_the_end(measured)
    np.testing.assert_array_equal(scores, whole)
    assert not variances.any()


def test_many_pairs_teach_the_line():
    measured, whole = curves(60, 2, ended=40)
    scores, variances = at_the_end(measured)
    np.testing.assert_allclose(scores[40:], whole[40:], atol=0.2)
    assert (variances[40:] < 0.1).all()


def test_where_the_early_score_says_nothing_the_mean_is_expected():
    measured, whole = curves(200, 2, ended=150)
    measured[:, 0] = np.random.default_rng(1).normal(size=200)
    scores, variances = at_the_end(measured)
    assert np.std(scores[150:]) < 0.4 * np.std(whole[:150])
    np.testing.assert_allclose(variances[150:], np.var(whole[:150]), rtol=0.2)


def test_before_any_pair_the_better_early_score_is_expected_to_end_better():
    scores, variances = at_the_end(np.array([[0.1, NAN], [0.3, NAN], [0.2, NAN]]))
    assert scores[1] > scores[2] > scores[0]
    assert (variances > 0).all()


@given(
    arrays(float, st.tuples(st.integers(1, 8), st.integers(2, 4)), elements=st.floats(-1e3, 1e3)),
    st.data(),
)
def test_every_candidate_with_a_score_has_a_finite_one(measured, data):
    count, rungs = measured.shape
    reached = data.draw(st.lists(st.integers(0, rungs), min_size=count, max_size=count))
    for row, rung in zip(measured, reached, strict=True):
        row[rung:] = NAN
    scores, variances = at_the_end(measured)
    np.testing.assert_array_equal(np.isfinite(scores), np.array(reached) > 0)
    assert np.isfinite(variances).all()
    assert (variances >= 0).all()
