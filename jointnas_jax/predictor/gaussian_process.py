"""A Gaussian process beside the networks: it learns more from few trials, and knows its limits.

Each knob, and each cost, has a length scale of its own, found by maximising the posterior; a linear
kernel is added to a Matern-5/2 one, since much of what makes a network good adds up. On
NAS-Bench-Macro (10 seeds, 20 / 50 / 100 / 200 / 400 trials) both have a Kendall's tau of .775 /
.877 / .901 / .922 / .931 (`scripts/bench_tabular.py predictor`, fits that start at low noise). The
process alone says how much better than all trials a candidate may be, which is what a search goes
by.

Shapes: N trials, of which the first n are real and the others padding, F features in G groups,
T candidates to predict.
"""

import math
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

_STEPS, _LEARNING_RATE = 120, 0.1
# Keeps the Cholesky factor finite in float32.
_JITTER = 1e-4


class Hyper(NamedTuple):
    """Logarithms of positive numbers, except for the mean.

    Attributes:
      scales: `float32[G]`, length scales.
      slopes: `float32[G]`, length scales of the linear kernel.
      amplitude: `float32[]`, of the Matern kernel.
      linear: `float32[]`, amplitude of the linear kernel.
      noise: `float32[]`, variance.
      mean: `float32[]`.
    """

    scales: jax.Array
    slopes: jax.Array
    amplitude: jax.Array
    linear: jax.Array
    noise: jax.Array
    mean: jax.Array


@flax.struct.dataclass
class Process:
    """A fitted process.

    Attributes:
      hyper: hyperparameters.
      inputs: `float32[N, F]`, of the trials.
      real: `bool[N]`, which rows count.
      factor: `float32[N, N]`, lower Cholesky factor of the trials' covariance.
      weights: `float32[N]`, the covariance's inverse times the centred targets.
    """

    hyper: Hyper
    inputs: jax.Array
    real: jax.Array
    factor: jax.Array
    weights: jax.Array


def fit_process(inputs: jax.Array, targets: jax.Array, real: jax.Array, groups: Any) -> Process:
    """Fits a process; for use under `jit`.

    Args:
      inputs: `float32[N, F]`. Two values of a choice should be at distance 1.
      targets: `float32[N]`, standardised.
      real: `bool[N]`, false for padding.
      groups: `int[F]`, which features share a length scale, from 0.
    """
    count = int(max(groups)) + 1
    # As many more knobs differ, candidates are further apart (Hvarfner et al., arXiv 2402.02229).
    usual = 0.5 * math.log(count)
    start = Hyper(
        scales=jnp.full(count, usual),
        slopes=jnp.zeros(count),
        amplitude=jnp.zeros(()),
        linear=jnp.array(-1.0),
        noise=jnp.array(-6.0),
        mean=jnp.zeros(()),
    )
    widths = Hyper(scales=0.75, slopes=0.5, amplitude=1.0, linear=1.5, noise=3.0, mean=1.0)
    targets = jnp.where(real, targets, 0.0)
    centre = lambda hyper: jnp.where(real, targets - hyper.mean, 0.0)

    def loss(hyper: Hyper) -> jax.Array:
        factor = _factor(hyper, inputs, real, groups)
        centred = centre(hyper)
        weights = jax.scipy.linalg.cho_solve((factor, True), centred)
        prior = sum(
            jnp.square((value - usual_value) / width).sum()
            for value, usual_value, width in zip(hyper, start, widths, strict=True)
        )
        # Padded rows have a diagonal of 1, whose logarithm is 0.
        return 0.5 * centred @ weights + jnp.log(jnp.diag(factor)).sum() + 0.5 * prior

    optimizer = optax.adam(optax.cosine_decay_schedule(_LEARNING_RATE, _STEPS))

    def step(_: int, carry: tuple) -> tuple:
        hyper, state = carry
        updates, state = optimizer.update(jax.grad(loss)(hyper), state)
        return optax.apply_updates(hyper, updates), state

    # From there the noise falls where there is none; from below it does not rise.
    first = start._replace(noise=jnp.array(-2.0))
    hyper, _ = jax.lax.fori_loop(0, _STEPS, step, (first, optimizer.init(first)))
    factor = _factor(hyper, inputs, real, groups)
    weights = jax.scipy.linalg.cho_solve((factor, True), centre(hyper))
    return Process(hyper, inputs, real, factor, weights)


def predict(process: Process, inputs: jax.Array, groups: Any) -> tuple[jax.Array, jax.Array]:
    """Expected targets and their standard deviations, without noise, `float32[T]` each."""
    across = _kernel(process.hyper, inputs, process.inputs, groups) * process.real
    solved = jax.scipy.linalg.solve_triangular(process.factor, across.T, lower=True)
    scaled = inputs * jnp.exp(-process.hyper.slopes)[groups]
    prior = jnp.exp(process.hyper.amplitude)
    prior = prior + jnp.exp(process.hyper.linear) * jnp.square(scaled).sum(-1)
    variance = jnp.maximum(prior - jnp.square(solved).sum(0), 0.0)
    return process.hyper.mean + across @ process.weights, jnp.sqrt(variance)


def believe(process: Process, inputs: jax.Array, groups: Any) -> Process:
    """Adds a trial, `float32[F]`, that scored what was expected of it; for use under `jit`.

    Expectations stay, so the weight of the new row is 0; deviations shrink near it (the kriging
    believer, Ginsbourger et al. 2010). Needs a row of padding.
    """
    row = process.real.sum()
    across = _kernel(process.hyper, inputs[None], process.inputs, groups)[0] * process.real
    solved = jax.scipy.linalg.solve_triangular(process.factor, across, lower=True)
    own = _kernel(process.hyper, inputs[None], inputs[None], groups)[0, 0]
    rest = own + jnp.exp(process.hyper.noise) + _JITTER - solved @ solved
    return process.replace(
        inputs=process.inputs.at[row].set(inputs),
        real=process.real.at[row].set(True),
        factor=process.factor.at[row].set(solved.at[row].set(jnp.sqrt(jnp.maximum(rest, _JITTER)))),
    )


def best_trial(process: Process, groups: Any) -> jax.Array:
    """The highest expected target of a trial, `float32[]`; under noise no lucky one."""
    return jnp.where(process.real, predict(process, process.inputs, groups)[0], -jnp.inf).max()


def log_improvement(mean: jax.Array, deviation: jax.Array, best: jax.Array) -> jax.Array:
    """Logarithm of the expected improvement on `best`, `float32[T]`.

    Precise however small it is (Ament et al., arXiv 2310.20708), so that a search can climb it.
    """
    deviation = jnp.maximum(deviation, 1e-6)
    z = (mean - best) / deviation
    near = jax.scipy.stats.norm.pdf(z) + z * jax.scipy.stats.norm.cdf(z)
    # Far below the best the two cancel; their difference tends to pdf / (z^2 + 3).
    far = jax.scipy.stats.norm.logpdf(z) - jnp.log(z * z + 3)
    return jnp.where(z < -5, far, jnp.log(jnp.maximum(near, 1e-30))) + jnp.log(deviation)


def _kernel(hyper: Hyper, a: jax.Array, b: jax.Array, groups: Any) -> jax.Array:
    """Covariance `float32[A, B]` of two sets of inputs."""
    scales = jnp.exp(-hyper.scales)[groups]
    slopes = jnp.exp(-hyper.slopes)[groups]
    x, y = a * scales, b * scales
    squares = jnp.square(x).sum(-1)[:, None] + jnp.square(y).sum(-1) - 2 * x @ y.T
    # The constant keeps the root's slope finite where inputs are equal.
    distance = jnp.sqrt(5 * jnp.maximum(squares, 0.0) + 1e-6)
    curved = jnp.exp(hyper.amplitude - distance) * (1 + distance + jnp.square(distance) / 3)
    return curved + jnp.exp(hyper.linear) * (a * slopes) @ (b * slopes).T


def _factor(hyper: Hyper, inputs: jax.Array, real: jax.Array, groups: Any) -> jax.Array:
    covariance = _kernel(hyper, inputs, inputs, groups)
    covariance = jnp.where(real[:, None] & real, covariance, 0.0)
    diagonal = jnp.where(real, jnp.exp(hyper.noise) + _JITTER, 1.0)
    return jnp.linalg.cholesky(covariance + jnp.diag(diagonal))
