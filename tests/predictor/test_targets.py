import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.preprocessing import PowerTransformer

from jointnas_jax.predictor.targets import Transform, standardised

FLOATS = st.lists(st.floats(-100, 100, width=32), min_size=3, max_size=40)


def fitted(scores, straighten=True):
    """The transform, and the standardised scores."""
    z, _, _ = standardised(np.asarray(scores))
    return Transform.fit(jnp.asarray(z), jnp.ones(len(z), bool), straighten), z


@given(FLOATS, st.booleans())
def test_targets_go_back_to_scores_and_keep_the_order(scores, straighten):
    transform, z = fitted(scores, straighten)
    targets = np.asarray(transform.forward(z))
    assert np.isfinite(targets).all()
    order = np.argsort(scores, kind="stable")
    assert (np.diff(targets[order]) >= -1e-5).all()
    np.testing.assert_allclose(transform.backward(targets), z, atol=1e-2)


def test_a_long_tail_becomes_straight():
    scores = 93 - np.random.default_rng(0).lognormal(0, 1, 200)
    transform, z = fitted(scores)
    assert abs(stats.skew(np.asarray(transform.forward(z)))) < 0.3
    assert stats.skew(scores) < -1.5


def test_it_is_as_likely_as_that_of_scikit_learn():
    scores = 93 - np.random.default_rng(1).gamma(1.0, 2.0, 100)
    z = (scores - scores.mean()) / scores.std()
    theirs = PowerTransformer().fit(z[:, None]).lambdas_[0]
    assert abs(float(fitted(scores)[0].exponent) - theirs) < 0.1


def test_raw_targets_are_standardised_scores():
    scores = np.float32([1, 2, 5, 9])
    transform, z = fitted(scores, straighten=False)
    expected = (scores - scores.mean()) / scores.std()
    np.testing.assert_allclose(transform.forward(z), expected, rtol=1e-5)


def test_padding_does_not_count():
    scores = np.random.default_rng(0).normal(size=20).astype(np.float32)
    real = np.arange(20) < 12
    _, z = fitted(scores[:12])
    padded = jnp.asarray(np.concatenate([z, np.full(8, 1e6, np.float32)]))
    a, (b, _) = Transform.fit(padded, jnp.asarray(real), True), fitted(scores[:12])
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scores", [[0.5], [0.7, 0.7, 0.7], [0.9] * 8, [1e8] * 5, [0.0, 0.0]])
def test_scores_that_are_all_equal_are_left_alone(scores):
    """Rounding does not decide the exponent."""
    transform, z = fitted(scores)
    assert float(transform.exponent) == 1
    np.testing.assert_allclose(transform.forward(z), 0)
    np.testing.assert_allclose(transform.backward(np.float32([-3, 0, 3])), [-3, 0, 3], atol=1e-5)


@pytest.mark.parametrize(("scale", "offset"), [(1e-8, 0.0), (1.0, 1e8), (1e-8, 1.0), (1e8, 0.0)])
def test_scale_and_offset_of_the_scores_do_not_matter(scale, offset):
    scores = 93 - np.random.default_rng(0).lognormal(0, 1, 50)
    plain, moved = fitted(scores), fitted(scale * scores + offset)
    np.testing.assert_allclose(moved[1], plain[1], atol=1e-3)
    assert float(moved[0].exponent) == pytest.approx(float(plain[0].exponent), abs=0.11)


def test_five_scores_do_not_bend_the_scale_much():
    """The likeliest exponents of five normal scores lie anywhere."""
    draws = [np.random.default_rng(seed).normal(size=5) for seed in range(40)]
    exponents = [float(fitted(scores)[0].exponent) for scores in draws]
    assert max(abs(e - 1) for e in exponents) < 1.5
