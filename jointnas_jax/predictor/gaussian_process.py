"""A Gaussian process beside the networks: it learns more from few trials, with a better spread.

Each value of a choice, each number and each cost has a separate length scale, by maximising the
posterior; a linear kernel is added to a Matern-5/2 one, for many effects on accuracy are additive.
The mean can follow a trend: what one expects of networks and recipes before any is trained.
Settings were chosen on NAS-Bench-Macro (`benchmarks/tabular.py predictor`) and kept for the HPOLib
tables. A search goes by the expected improvement of the process alone.

Shapes: N trials, of which the first n are real and the others padding, F features, T candidates to
predict.
"""

import math
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from jointnas_jax.predictor.trend import Trend

_STEPS, _LEARNING_RATE = 120, 0.1
# Keeps the Cholesky factor finite in float32.
_JITTER = 1e-4


class Hyper(NamedTuple):
    """Logarithms of positive numbers, except for the mean."""

    scales: jax.Array  # float32[F], length scales of the Matern kernel
    slopes: jax.Array  # float32[F], length scales of the linear kernel
    amplitude: jax.Array  # float32[], amplitude of the Matern kernel
    linear: jax.Array  # float32[], amplitude of the linear kernel
    noise: jax.Array  # float32[], variance of the noise
    mean: jax.Array  # float32[], mean of the process


class Process(flax.struct.PyTreeNode):
    """A fitted process."""

    hyper: Hyper
    trend: Trend
    inputs: jax.Array  # float32[N, F], features of the trials
    real: jax.Array  # bool[N], false for padding
    factor: jax.Array  # float32[N, N], lower Cholesky factor of the trials' covariance
    weights: jax.Array  # float32[N], the covariance's inverse times the centred targets


def fit_process(
    inputs: jax.Array,
    targets: jax.Array,
    real: jax.Array,
    *,
    knobs: int,
    trend: Trend | None = None,
    extra_noise: jax.Array | float = 0.0,
) -> Process:
    """Fits a process; for use under `jit`.

    Args:
      inputs: `float32[N, F]`. Two values of a choice should be at distance 1.
      targets: `float32[N]`, standardised.
      real: `bool[N]`, false for padding.
      knobs: number of choices and costs that the features describe.
      trend: of the mean; None: there is none.
      extra_noise: `float32[N]`, variances of the targets beside the noise of all.
    """
    width = inputs.shape[1]
    trend = trend or Trend.none(width)
    # Distances grow with the number of knobs (Hvarfner et al., arXiv 2402.02229).
    usual = 0.5 * math.log(knobs)
    start = Hyper(
        scales=jnp.full(width, usual),
        slopes=jnp.zeros(width),
        amplitude=jnp.zeros(()),
        linear=jnp.array(-1.0),
        noise=jnp.array(-6.0),
        mean=jnp.zeros(()),
    )
    widths = dict(scales=0.75, slopes=0.5, amplitude=1.0, linear=1.5, noise=3.0, mean=1.0)
    targets = jnp.where(real, targets - trend(inputs), 0.0)
    centre = lambda hyper: jnp.where(real, targets - hyper.mean, 0.0)

    def loss(hyper: Hyper) -> jax.Array:
        factor = _factor(hyper, inputs, real, extra_noise)
        centred = centre(hyper)
        weights = jax.scipy.linalg.cho_solve((factor, True), centred)
        prior = sum(
            jnp.square((value - usual_value) / width).sum()
            for value, usual_value, width in zip(hyper, start, widths.values(), strict=True)
        )
        # Padded rows have a diagonal of 1, whose logarithm is 0.
        return 0.5 * centred @ weights + jnp.log(jnp.diag(factor)).sum() + 0.5 * prior

    optimizer = optax.adam(optax.cosine_decay_schedule(_LEARNING_RATE, _STEPS))

    def step(_: int, carry: tuple) -> tuple:
        hyper, state, good = carry
        gradient = jax.grad(loss)(hyper)
        # In 32 bits a covariance may have no Cholesky factor: back to the last one with a factor.
        fine = jnp.isfinite(jnp.concatenate([g.ravel() for g in jax.tree.leaves(gradient)])).all()
        updates, after = optimizer.update(gradient, state)
        good = _choose(fine, hyper, good)
        state = _choose(fine, after, optimizer.init(hyper))
        return _choose(fine, optax.apply_updates(hyper, updates), good), state, good

    # From -2 the fitted noise falls where there is none; from below it would not rise.
    first = start._replace(noise=jnp.array(-2.0))
    hyper, _, good = jax.lax.fori_loop(0, _STEPS, step, (first, optimizer.init(first), first))
    factor = _factor(hyper, inputs, real, extra_noise)
    hyper = _choose(jnp.isfinite(factor).all(), hyper, good)
    factor = _factor(hyper, inputs, real, extra_noise)
    weights = jax.scipy.linalg.cho_solve((factor, True), centre(hyper))
    return Process(
        hyper=hyper, trend=trend, inputs=inputs, real=real, factor=factor, weights=weights
    )


def predict(process: Process, inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Expected targets and their standard deviations, without noise, `float32[T]` each."""
    across = _kernel(process.hyper, inputs, process.inputs) * process.real
    solved = jax.scipy.linalg.solve_triangular(process.factor, across.T, lower=True)
    scaled = inputs * jnp.exp(-process.hyper.slopes)
    prior = jnp.exp(process.hyper.amplitude)
    prior = prior + jnp.exp(process.hyper.linear) * jnp.square(scaled).sum(-1)
    variance = jnp.maximum(prior - jnp.square(solved).sum(0), 0.0)
    usual = process.hyper.mean + process.trend(inputs)
    return usual + across @ process.weights, jnp.sqrt(variance)


def believe(process: Process, inputs: jax.Array, target: jax.Array | None = None) -> Process:
    """Adds a fantasised trial (the kriging believer, Ginsbourger et al. 2010); for use under `jit`.

    Args:
      process: the process, with a row of padding.
      inputs: `float32[F]`, features of the trial.
      target: `float32[]`, its fantasised score; None: the expected one, so that expectations stay.
    """
    row = process.real.sum()
    across = _kernel(process.hyper, inputs[None], process.inputs)[0] * process.real
    solved = jax.scipy.linalg.solve_triangular(process.factor, across, lower=True)
    variance = _kernel(process.hyper, inputs[None], inputs[None])[0, 0]
    rest = variance + jnp.exp(process.hyper.noise) + _JITTER - solved @ solved
    rest = jnp.maximum(rest, _JITTER)
    weights = process.weights
    if target is not None:
        # The new row of the inverse covariance, by its Schur complement.
        usual = process.hyper.mean + process.trend(inputs)
        surprise = (target - usual - across @ weights) / rest
        back = jax.scipy.linalg.solve_triangular(process.factor, solved, lower=True, trans=1)
        weights = (weights - surprise * back).at[row].set(surprise)
    return process.replace(
        inputs=process.inputs.at[row].set(inputs),
        real=process.real.at[row].set(True),
        factor=process.factor.at[row].set(solved.at[row].set(jnp.sqrt(rest))),
        weights=weights,
    )


def best_and_worst(process: Process) -> tuple[jax.Array, jax.Array]:
    """The highest and lowest expected target of a trial, `float32[]` each, without its noise."""
    expected = predict(process, process.inputs)[0]
    best = jnp.where(process.real, expected, -jnp.inf).max()
    return best, jnp.where(process.real, expected, jnp.inf).min()


def slopes(process: Process) -> jax.Array:
    """How much targets are expected to rise with each input, `float32[F]`: on all of its range.

    That is the trend, and what the linear kernel learnt.
    """
    hyper = process.hyper
    learnt = (process.inputs * process.real[:, None]).T @ process.weights
    return jnp.asarray(process.trend.slopes) + jnp.exp(hyper.linear - 2 * hyper.slopes) * learnt


def log_improvement(mean: jax.Array, deviation: jax.Array, best: jax.Array) -> jax.Array:
    """Logarithm of the expected improvement on `best`, `float32[T]`.

    Precise for every size (Ament et al., arXiv 2310.20708), so that a search can climb it.
    """
    deviation = jnp.maximum(deviation, 1e-6)
    z = (mean - best) / deviation
    near = jax.scipy.stats.norm.pdf(z) + z * jax.scipy.stats.norm.cdf(z)
    # Far below the best the two terms cancel; their sum tends to pdf / (z^2 + 3).
    far = jax.scipy.stats.norm.logpdf(z) - jnp.log(z * z + 3)
    return jnp.where(z < -5, far, jnp.log(jnp.maximum(near, 1e-30))) + jnp.log(deviation)


def _choose(first: jax.Array, a: Any, b: Any) -> Any:
    """`a` where `first: bool[]`, else `b`, of equal structure."""
    return jax.tree.map(lambda x, y: jnp.where(first, x, y), a, b)


def _kernel(hyper: Hyper, a: jax.Array, b: jax.Array) -> jax.Array:
    """Covariance `float32[A, B]` of two sets of inputs."""
    scales = jnp.exp(-hyper.scales)
    slopes = jnp.exp(-hyper.slopes)
    x, y = a * scales, b * scales
    squares = jnp.square(x).sum(-1)[:, None] + jnp.square(y).sum(-1) - 2 * x @ y.T
    # The constant keeps the root's slope finite where inputs are equal.
    distance = jnp.sqrt(5 * jnp.maximum(squares, 0.0) + 1e-6)
    curved = jnp.exp(hyper.amplitude - distance) * (1 + distance + jnp.square(distance) / 3)
    return curved + jnp.exp(hyper.linear) * (a * slopes) @ (b * slopes).T


def _factor(
    hyper: Hyper, inputs: jax.Array, real: jax.Array, extra_noise: jax.Array | float
) -> jax.Array:
    covariance = _kernel(hyper, inputs, inputs)
    covariance = jnp.where(real[:, None] & real, covariance, 0.0)
    diagonal = jnp.where(real, jnp.exp(hyper.noise) + extra_noise + _JITTER, 1.0)
    return jnp.linalg.cholesky(covariance + jnp.diag(diagonal))
