import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.preprocessing import PowerTransformer

from jointnas_jax.predictor.targets import Transform

FLOATS = st.lists(st.floats(-100, 100, width=32), min_size=3, max_size=40)


def fitted(scores, straighten=True):
    scores = jnp.asarray(scores, jnp.float32)
    return Transform.fit(scores, jnp.ones(len(scores), bool), straighten)


@given(FLOATS, st.booleans())
def test_targets_go_back_to_scores_and_keep_the_order(scores, straighten):
    scores = np.float32(scores)
    transform = fitted(scores, straighten)
    targets = np.asarray(transform.forward(scores))
    assert np.isfinite(targets).all()
    order = np.argsort(scores, kind="stable")
    assert (np.diff(targets[order]) >= -1e-5).all()
    span = max(np.ptp(scores), 1.0)
    np.testing.assert_allclose(transform.backward(targets), scores, atol=2e-3 * span)


def test_a_long_tail_becomes_straight():
    scores = 93 - np.random.default_rng(0).lognormal(0, 1, 200)
    assert abs(stats.skew(np.asarray(fitted(scores).forward(np.float32(scores))))) < 0.3
    assert stats.skew(scores) < -1.5


def test_it_is_as_likely_as_that_of_scikit_learn():
    scores = 93 - np.random.default_rng(1).gamma(1.0, 2.0, 100)
    z = (scores - scores.mean()) / scores.std()
    theirs = PowerTransformer().fit(z[:, None]).lambdas_[0]
    assert abs(float(fitted(scores).exponent) - theirs) < 0.1


def test_raw_targets_are_standardised_scores():
    scores = np.float32([1, 2, 5, 9])
    targets = fitted(scores, straighten=False).forward(scores)
    np.testing.assert_allclose(targets, (scores - scores.mean()) / scores.std(), rtol=1e-5)


def test_padding_does_not_count():
    scores = np.random.default_rng(0).normal(size=20).astype(np.float32)
    real = np.arange(20) < 12
    a = Transform.fit(jnp.asarray(np.where(real, scores, 1e6)), jnp.asarray(real), True)
    b = fitted(scores[:12])
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scores", [[0.5], [0.7, 0.7, 0.7]])
def test_scores_that_are_all_equal_stay_finite(scores):
    transform = fitted(scores)
    assert np.isfinite(transform.forward(np.float32(scores))).all()
    assert np.isfinite(transform.backward(np.float32([-3.0, 0.0, 3.0]))).all()
