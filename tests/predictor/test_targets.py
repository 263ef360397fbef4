import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats
from sklearn.preprocessing import PowerTransformer

from jointnas_jax.predictor.targets import Transform, standardised, winsorised

FLOATS = st.lists(st.floats(-100, 100, width=32), min_size=3, max_size=40)


def fitted(scores, straighten=True, size=0):
    """The transform, and the standardised scores; fitted with padding up to `size`."""
    z, _, _ = standardised(np.asarray(scores))
    padded = np.pad(z, (0, max(0, size - len(z))))
    return Transform.fit(jnp.asarray(padded), jnp.arange(len(padded)) < len(z), straighten), z


@given(FLOATS, st.booleans())
def test_targets_go_back_to_scores_and_keep_the_order(scores, straighten):
    transform, z = fitted(scores, straighten, size=40)  # one program for all
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


# Scores as searches have them.
SPREADS = {
    "even": lambda rng, count: rng.random(count),
    "normal": lambda rng, count: rng.normal(0, 1e-6, count),
    "tail": lambda rng, count: 93 - rng.gamma(1.0, 2.0, count),
    "long tail": lambda rng, count: 93 - rng.lognormal(0, 1, count),
    "accuracies": lambda rng, count: np.round(287 * (1 - rng.beta(2, 8, count))) / 287,
    "few values": lambda rng, count: rng.integers(0, 3, count) * 1e6,
    "converging": lambda rng, count: -(10.0 ** rng.uniform(-3, 0, count)),
    # Candidates around an optimum, equal but for rounding.
    "nearly equal": lambda rng, count: np.append(
        -rng.random(count), -0.04 - 1e-9 * rng.integers(0, 9, 4)
    ),
    "equal": lambda rng, count: np.ones(count),
}


@pytest.mark.parametrize("kind", SPREADS)
def test_scores_without_outliers_stay_as_they_are(kind):
    """To the bit, however many, while a search goes on."""
    rng, changed, tried = np.random.default_rng(0), 0, 0
    for count in [*range(2, 20), 40, 100, 400] * 20:
        scores = SPREADS[kind](rng, count)
        tried += 1
        changed += winsorised(scores) is not scores
        mean, std = scores.mean(), scores.std()
        if winsorised(scores) is scores and std > 0:
            expected = ((scores - mean) / std).astype(np.float32)
            np.testing.assert_array_equal(standardised(scores)[0], expected)
    # By chance a gap can be as rare as it says.
    assert changed / tried < 0.01


PENALTIES = {
    "all alike": lambda rng, size, count: np.full(count, -size),
    "noisy": lambda rng, size, count: -size * (1 + rng.random(count)),
    "several": lambda rng, size, count: -size * 10.0 ** (3 * rng.integers(0, 3, count)),
    "by how much": lambda rng, size, count: -size * 10.0 ** rng.uniform(2, 5, count),
}


@given(
    st.sampled_from(["even", "normal", "tail", "accuracies"]),
    st.sampled_from(sorted(PENALTIES)),
    st.sampled_from([1e3, 1e6, 1e12, 1e30, 1e300]),
    st.integers(6, 40),
    st.floats(0.1, 0.85),
    st.integers(0, 99),
)
def test_penalties_count_as_just_below_the_rest(kind, penalty, size, count, share, seed):
    """Whatever their size, for a minority and a majority of them."""
    rng = np.random.default_rng(seed)
    good = SPREADS[kind](rng, count)
    reach = np.ptp(good)
    below = np.sort(good.max() - good)
    # The good ones have no gap themselves that is wide for what is above it.
    assume(reach and (np.diff(below)[1:] <= 9 * below[1:-1]).all() and below[1] > 0)
    bad = good.max() + np.maximum(
        PENALTIES[penalty](rng, size * max(reach, 1e-3), max(1, int(count * share / (1 - share)))),
        -1e305,
    )
    scores = rng.permutation(np.concatenate([good, bad]))
    raised = winsorised(scores)
    is_good = scores >= good.min()
    np.testing.assert_array_equal(raised[is_good], scores[is_good])
    assert (raised[~is_good] < good.min()).all()
    assert (raised[~is_good] >= good.min() - reach).all()
    z = standardised(scores)[0]
    assert np.isfinite(z).all()
    # What was different stays different in 32 bits, and in order.
    assert len(np.unique(z[is_good])) == len(np.unique(scores[is_good]))
    assert (np.diff(z[np.argsort(scores)]) >= 0).all()


EXTREMES = {
    "the largest floats": [1.7e308, -1.7e308, 1e308, -1e308, 0.0],
    "a penalty and two scores": [0.5, 0.4, -1e300, -1e300],
    "a penalty and one score": [0.5, -3e38],
    "penalties alone": [-1e300, -1e300, -1e300],
    "one far above": [1e300, 0.1, 0.2, 0.3, 0.4, 0.5],
    "one": [3.0],
    "tiny": [5e-324, 0.0, -5e-324, -1.0],
    "ties at the top": [1.0, 1.0, 1.0, 1.0, -1e6],
}


@pytest.mark.parametrize("name", EXTREMES)
@pytest.mark.filterwarnings("error")
def test_any_finite_scores_have_finite_targets_and_the_best_is_best(name):
    scores = np.array(EXTREMES[name])
    z, mean, std = standardised(scores)
    assert np.isfinite([*z, mean, std]).all()
    assert z[np.argmax(scores)] == z.max()
    assert winsorised(scores).max() == scores.max()
    transform = Transform.fit(jnp.asarray(z), jnp.ones(len(z), bool), True)
    assert np.isfinite(transform.forward(jnp.asarray(z))).all()
