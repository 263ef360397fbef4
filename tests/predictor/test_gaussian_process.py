import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, Matern, WhiteKernel

from jointnas_jax.predictor import gaussian_process as gp
from jointnas_jax.predictor.trend import Trend


@pytest.fixture(scope="module")
def trials():
    x = np.random.default_rng(0).uniform(-1, 1, (40, 3)).astype(np.float32)
    return x, (np.sin(3 * x[:, 0]) + x[:, 1]).astype(np.float32)


@pytest.fixture(scope="module")
def process(trials):
    x, y = trials
    return jax.jit(lambda x, y: gp.fit_process(x, y, jnp.ones(len(x), bool), knobs=3))(x, y)


def test_it_predicts_what_it_has_not_seen(trials, process):
    x = np.random.default_rng(1).uniform(-0.9, 0.9, (200, 3)).astype(np.float32)
    mean, _ = gp.predict(process, x)
    assert np.abs(mean - np.sin(3 * x[:, 0]) - x[:, 1]).mean() < 0.1


def test_it_finds_which_features_matter(process):
    first, _, third = np.asarray(process.hyper.scales)
    assert first < third


def test_it_is_less_sure_far_away(trials, process):
    _, near = gp.predict(process, trials[0])
    _, far = gp.predict(process, 5 * np.ones((1, 3), np.float32))
    assert near.max() < far[0]


def test_with_its_hyperparameters_scikit_learn_predicts_the_same(trials, process):
    """Same posterior from another implementation, for one length scale per feature."""
    x, y = trials
    h = process.hyper
    slope = np.exp(-np.asarray(h.slopes))
    curved = ConstantKernel(np.exp(h.amplitude)) * Matern(np.exp(np.asarray(h.scales)), nu=2.5)
    linear = sum(
        ConstantKernel(float(np.exp(h.linear) * s**2)) * _Column(j) for j, s in enumerate(slope)
    )
    kernel = curved + linear + WhiteKernel(float(np.exp(h.noise)) + gp._JITTER)
    theirs = GaussianProcessRegressor(kernel, alpha=0.0, optimizer=None)
    theirs.fit(x, y - float(h.mean))
    new = np.random.default_rng(2).uniform(-1, 1, (50, 3)).astype(np.float32)
    np.testing.assert_allclose(
        gp.predict(process, new)[0], theirs.predict(new) + float(h.mean), atol=2e-3
    )


class _Column(DotProduct):
    """The product of one feature."""

    def __init__(self, column=0):
        super().__init__(sigma_0=0.0, sigma_0_bounds="fixed")
        self.column = column

    def __call__(self, x, y=None, eval_gradient=False):
        y = x if y is None else y
        return np.outer(x[:, self.column], y[:, self.column])

    def diag(self, x):
        return np.square(x[:, self.column])


def test_padding_rows_do_not_count(trials):
    x, y = trials
    real = jnp.arange(40) < 25

    def fitted(fill):
        return gp.fit_process(
            jnp.where(real[:, None], x, fill), jnp.where(real, y, fill), real, knobs=3
        )

    a, b = (gp.predict(fitted(fill), x)[0] for fill in (0.0, 50.0))
    np.testing.assert_allclose(a, b, atol=1e-4)


def test_a_believed_trial_changes_no_expectation_and_leaves_less_to_learn_near_it(trials):
    """As a new fit with the same hyperparameters, to the trials and what was expected."""
    x, y = map(jnp.asarray, trials)
    real = jnp.arange(40) < 25
    process = gp.fit_process(x, y, real, knobs=3)
    far = jnp.full((1, 3), 2.0)
    x = jnp.concatenate([x, far])
    mean, deviation = gp.predict(process, x)
    believed = gp.believe(process, far[0])
    after, left = gp.predict(believed, x)
    np.testing.assert_allclose(after, mean, atol=1e-3)
    assert left[-1] < 0.2 * deviation[-1]
    assert (left <= deviation + 1e-4).all()
    factor = gp._factor(process.hyper, believed.inputs, believed.real, 0.0)
    rows = np.asarray(believed.real)
    np.testing.assert_allclose(believed.factor[rows][:, rows], factor[rows][:, rows], atol=1e-3)


@pytest.fixture(scope="module")
def fit(trials):
    """Fits to the first 30 of the trials, less something, with a trend of equal features."""
    x, y = trials
    fitted = jax.jit(
        lambda y, trend: gp.fit_process(x, y, jnp.arange(40) < 30, knobs=3, trend=trend)
    )

    def call(slope=0.0, peak=0.0, less=0.0):
        one = np.ones(3, np.float32)
        return fitted(y - less, Trend(slope * one, peak * one, np.float32(0.1), 0.5 * one))

    return call


def test_far_from_all_trials_it_expects_the_trend(fit):
    far = np.array([[9.0, 0.5, 0.5]], np.float32)
    assert gp.predict(fit(peak=1.0), far)[0] < gp.predict(fit(), far)[0] - 20


def test_a_trend_washes_out_where_something_is_measured(fit):
    new = np.random.default_rng(1).uniform(-0.9, 0.9, (200, 3)).astype(np.float32)
    error = gp.predict(fit(-1.0, 0.5), new)[0] - np.sin(3 * new[:, 0]) - new[:, 1]
    assert np.abs(error).mean() < 0.2


def test_with_a_trend_it_learns_what_the_trend_leaves(trials, fit):
    x, _ = map(jnp.asarray, trials)
    process = fit(0.3, 0.2)
    rest = fit(less=process.trend(x) - 0.1)
    expected = gp.predict(rest, x)[0] - 0.1 + process.trend(x)
    np.testing.assert_allclose(gp.predict(process, x)[0], expected, atol=2e-3)
    bad = jnp.float32(-4.0)
    believed = gp.believe(process, x[35], bad)
    left = gp.believe(rest, x[35], bad - process.trend(x[35]) + 0.1)
    expected = gp.predict(left, x)[0] - 0.1 + process.trend(x)
    np.testing.assert_allclose(gp.predict(believed, x)[0], expected, atol=5e-3)


def test_a_trial_believed_to_be_bad_lowers_what_is_expected_near_it(trials):
    """As a new fit with the same hyperparameters, to the trials and the believed target."""
    x, y = map(jnp.asarray, trials)
    real = jnp.arange(40) < 25
    process = gp.fit_process(x, y, real, knobs=3)
    believed = gp.believe(process, x[30], jnp.float32(-4.0))
    factor = gp._factor(process.hyper, x, jnp.arange(40) < 25, 0.0)[:25, :25]
    np.testing.assert_allclose(process.factor[:25, :25], factor, atol=1e-3)
    targets = jnp.append(y[:25], -4.0) - process.hyper.mean
    rows = jnp.append(jnp.arange(25), 30)
    whole = gp._factor(process.hyper, x[rows], jnp.ones(26, bool), 0.0)
    weights = jax.scipy.linalg.cho_solve((whole, True), targets)
    np.testing.assert_allclose(believed.weights[:26], weights, rtol=0.05, atol=0.05)
    assert gp.predict(believed, x[30:31])[0] < gp.predict(process, x[30:31])[0] - 1


def test_a_step_to_where_there_is_no_cholesky_factor_is_taken_back(trials, monkeypatch):
    """Steps that are far too long, among inputs that repeat."""
    monkeypatch.setattr(gp, "_LEARNING_RATE", 4.0)
    x, y = np.repeat(trials[0][:4], 10, 0), np.repeat(trials[1][:4], 10)
    process = gp.fit_process(jnp.asarray(x), jnp.asarray(y), jnp.ones(40, bool), knobs=3)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(process))


@pytest.mark.parametrize("mean", [-30.0, -6.0, -4.9, -1.0, 0.0, 3.0])
def test_the_expected_improvement_is_that_of_the_integral(mean):
    log = gp.log_improvement(jnp.float32(mean + 1), jnp.float32(2), jnp.float32(1))
    # Over t = (target - best) / deviation; the density's peak is taken out, it underflows.
    z = mean / 2
    peak = stats.norm.logpdf(min(z, 0.0))
    density = lambda t: t * np.exp(stats.norm.logpdf(t - z) - peak)
    expected = np.log(integrate.quad(density, 0, max(z, 0) + 10)[0]) + peak + np.log(2)
    assert float(log) == pytest.approx(expected, abs=0.01)


def test_the_best_trial_is_no_lucky_one(trials):
    """Where the same input scored twice, their mean counts."""
    x = np.repeat(trials[0][:20], 2, 0)
    y = np.repeat(trials[1][:20], 2) + np.tile([0.5, -0.5], 20).astype(np.float32)
    process = gp.fit_process(x, y, jnp.ones(40, bool), knobs=3)
    assert float(gp.best_and_worst(process)[0]) < y.max() - 0.25
