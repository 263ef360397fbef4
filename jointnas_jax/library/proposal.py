"""What the Optuna sampler computes: the next candidate, in one compiled program.

The space arrives as arrays. So the number of trials compiles nothing, nor does another study of as
many parameters.

Shapes: N rows for trials that were measured, B for those that are only believed, K knobs, F
features (filled up with constant ones), Q = population.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jointnas_jax.config import EvolutionConfig
from jointnas_jax.predictor.front import USUAL, Front
from jointnas_jax.predictor.gaussian_process import (
    Process,
    believe,
    best_and_worst,
    fit_process,
    log_improvement,
    predict,
)
from jointnas_jax.predictor.targets import Transform
from jointnas_jax.predictor.trend import Trend
from jointnas_jax.space.features import FeatureTable
from jointnas_jax.space.prior import Prior
from jointnas_jax.space.vectors import VectorSpace
from jointnas_jax.strategy.evolution import evolve

# Features come in multiples of this, so that spaces share programs.
_FEATURES = 8
# The reference of a front is dearer than all starts and trials by this, in logarithms.
_BEYOND = 0.1


class SpaceArrays(NamedTuple):
    """A space as a program knows it.

    Attributes:
      cardinalities: `int32[K]`.
      groups, values, factors, scales: `[F]`, see `FeatureTable`.
    """

    cardinalities: np.ndarray
    groups: np.ndarray
    values: np.ndarray
    factors: np.ndarray
    scales: np.ndarray

    @classmethod
    def of(cls, space: VectorSpace) -> "SpaceArrays":
        """The arrays of a space whose knobs are all of the architecture."""
        table = FeatureTable.of(space)
        missing = (0, -len(table.groups) % _FEATURES)
        # An ordinal feature with a factor of 0 is constant.
        return cls(
            space.cardinalities,
            np.pad(table.groups, missing),
            np.pad(table.values, missing, constant_values=-1),
            np.pad(table.factors, missing),
            np.pad(table.scales, missing),
        )

    def inputs(self, vectors: jax.Array | np.ndarray) -> jax.Array:
        """Inputs `float32[..., F]` of the process, of `int32[..., K]`."""
        width = len(self.groups)
        table = FeatureTable(self.groups, self.values, self.factors, width, self.scales)
        return table(vectors)[0] * self.scales


class Seen(NamedTuple):
    """What the trials of a study tell, the first rows of each array filled.

    Attributes:
      vectors: `int32[N, K]`, measured.
      scores: `float32[N]`, standardised.
      real: `int32[]`, number of rows that are filled.
      excess: `float32[N]`, how far each is outside its constraints, positive where it breaks one.
      judged: `bool[N]`, rows that have an excess.
      costs: `float32[N]`, logarithms of the known cost, if there is one.
      believed: `int32[B, K]`, trials without a score.
      failed: `bool[B]`, believed to be as bad as the worst; the others still run, and are believed
        to score as expected.
      beliefs: `int32[]`, rows of them that are filled.
    """

    vectors: np.ndarray
    scores: np.ndarray
    real: np.int32
    excess: np.ndarray
    judged: np.ndarray
    costs: np.ndarray
    believed: np.ndarray
    failed: np.ndarray
    beliefs: np.int32


@functools.partial(jax.jit, static_argnames=("constrained", "settings", "log_cost", "prior"))
def propose(
    space: SpaceArrays,
    seen: Seen,
    start: jax.Array,
    pinned: jax.Array,
    key: jax.Array,
    constrained: bool,
    settings: EvolutionConfig,
    log_cost: Callable[[Any], Any] | None = None,
    prior: Prior | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Evolves candidates to the highest expected improvement, of a front where a cost is known.

    Under constraints, to that times the probability of satisfying them; as long as no trial does,
    to the probability alone.

    Args:
      space: the search space.
      seen: at least one trial measured.
      start: `int32[S, K]` to begin with, of the pinned values.
      pinned: `int32[K]`, the index that a knob has in all candidates; negative where it is free.
      key: consumed.
      constrained: whether any row has an excess.
      settings: settings of the evolution.
      log_cost: logarithm of the known cost, `int32[N, K] -> float32[N]`, also under `jit`.
      prior: what is expected of the knobs; an input more of the process.

    Returns:
      The last population, best first, `int32[Q, K]`, and its marks `float32[Q]`, not finite for
      rows that hold no candidate.
    """
    knobs = len(space.cardinalities) + (prior is not None)

    def inputs_of(vectors: jax.Array | np.ndarray) -> jax.Array:
        inputs = space.inputs(vectors)
        if prior is None:
            return inputs
        return jnp.concatenate([inputs, prior.expectation(jnp.asarray(vectors))[..., None]], -1)

    inputs = inputs_of(seen.vectors)
    trend = Trend.none(len(space.groups)).expecting(1) if prior else None
    # Believing takes further rows of the process.
    room = len(seen.believed)
    padded = lambda array: jnp.pad(array, [(0, room)] + [(0, 0)] * (array.ndim - 1))
    rows, real = padded(inputs), padded(jnp.arange(len(inputs)) < seen.real)
    transform = Transform.fit(padded(seen.scores), real, straighten=True)
    process = fit_process(
        rows, transform.forward(padded(seen.scores)), real, knobs=knobs, trend=trend
    )
    process = _believe_all(process, inputs_of(seen.believed), seen)
    best, hope = best_and_worst(process)[0], None
    if constrained:
        hope = fit_process(rows, padded(seen.excess), padded(seen.judged), knobs=knobs)
        sound = real & (padded(seen.excess) <= 0)
        best = jnp.where(sound, predict(process, rows)[0], -jnp.inf).max()

    front = None
    if log_cost is not None:
        broken = real & (padded(seen.excess) > 0) if constrained else jnp.zeros_like(real)
        front = _front(process, padded(seen.costs), seen, start, ~broken, log_cost)

    def mark(vectors: jax.Array) -> jax.Array:
        points = inputs_of(vectors)
        mean, deviation = predict(process, points)
        if front is None or log_cost is None:
            marks = log_improvement(mean, deviation, best)
        else:
            marks = front.log_improvement(log_cost(vectors), mean, deviation)
        if hope is None:
            return marks
        outside, unsure = predict(hope, points)
        within = jax.scipy.stats.norm.logcdf(-outside / jnp.maximum(unsure, 1e-3))
        return jnp.where(jnp.isfinite(best), marks, 0.0) + within

    found = evolve(
        start,
        key,
        mark,
        feasible=None,
        canonical=lambda vectors: jnp.where(pinned < 0, vectors, pinned),
        cardinalities=space.cardinalities,
        config=settings,
    )
    return found.population, found.scores


def _front(
    process: Process,
    costs: jax.Array,
    seen: Seen,
    start: jax.Array,
    sound: jax.Array,
    log_cost: Callable[[Any], Any],
) -> Front:
    """The front of the trials, believed ones included, that break no constraint.

    Args:
      process: knows all trials.
      costs: `float32[N + B]`, of the measured ones.
      seen, start, log_cost: see `propose`.
      sound: `bool[N + B]`, false where a trial breaks a constraint.
    """
    costs = jax.lax.dynamic_update_slice(costs, log_cost(seen.believed), (seen.real,))
    counted = process.real & sound
    dearest = jnp.maximum(log_cost(start).max(), jnp.where(counted, costs, -jnp.inf).max())
    expected = predict(process, process.inputs)[0]
    return Front.of_trials(
        costs, expected, counted, cost_reference=dearest + _BEYOND, quantile=USUAL
    )


def _believe_all(process: Process, points: jax.Array, seen: Seen) -> Process:
    """Adds the trials without a score, `float32[B, F]`, one after the other."""

    def add(i: jax.Array, process: Process) -> Process:
        expected = predict(process, points[i][None])[0][0]
        target = jnp.where(seen.failed[i], best_and_worst(process)[1], expected)
        return believe(process, points[i], target)

    return jax.lax.fori_loop(0, seen.beliefs, add, process)
