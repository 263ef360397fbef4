"""`jn.evolve`: the fine stage alone."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jointnas_jax.config import EvolutionConfig
from jointnas_jax.errors import InputError, shown
from jointnas_jax.library.costs import Budget, CostFn, Costs
from jointnas_jax.library.predictor import Predictor
from jointnas_jax.library.space import AnySpace, Decoded, check_space, columns, encode_all
from jointnas_jax.strategy import evolution
from jointnas_jax.strategy.constraints import on_host

# Knobs (name -> values of N candidates) -> N scores.
ScoreFn = Callable[[dict[str, np.ndarray]], Any]


class Evolved(NamedTuple):
    """The last population of an evolution, best first.

    Attributes:
      candidates: different ones, all within the budget.
      scores: `float64[len(candidates)]`.
      generations: generations run.
    """

    candidates: list[Decoded]
    scores: np.ndarray
    generations: int


def evolve(
    space: AnySpace,
    score: Predictor | ScoreFn,
    *,
    start: Sequence[Decoded] = (),
    costs: CostFn | None = None,
    budget: Budget | None = None,
    seed: int = 0,
    settings: EvolutionConfig | None = None,
) -> Evolved:
    """Evolves candidates to the highest score, in one compiled program.

    For scores that cost little: a whole generation is scored at once. For an objective that is
    expensive there is `search`.

    Args:
      space: a `Space` or a `JointSpace`.
      score: a `Predictor`, or a function from knobs (name -> array of the values in N candidates)
        to N scores, higher is better; a candidate whose score is not finite cannot win.
      start: candidates to begin with, besides an even sample of the space.
      costs: costs of candidates, see `search`.
      budget: name of a cost -> limit; no candidate over it survives.
      seed: seed of everything random.
      settings: sizes and rates.

    Raises:
      InputError: an argument breaks a rule, or no candidate is within the budget.
    """
    space, settings = check_space(space), settings or EvolutionConfig()
    priced = Costs.read(space, costs, budget)
    constraints = priced.constraints(space)
    pool = constraints.pool(settings.population, seed)
    first = np.concatenate([encode_all(space, start), pool])
    if isinstance(score, Predictor):
        marks: Callable[[jax.Array], jax.Array] = score.score_fn
    else:
        marks = on_host(lambda vectors: _scores(space, score, vectors), np.float32)
        marks(first)  # an error inside a program would come as one of JAX

    def program(first: jax.Array, key: jax.Array) -> evolution.Evolution:
        return evolution.evolve(
            first,
            key,
            marks,
            feasible=constraints.feasible,
            canonical=space.canonical,
            cardinalities=space.cardinalities,
            config=settings,
            repair=priced.repair,
        )

    with priced.unwrapped_errors():
        evolved = jax.tree.map(np.asarray, jax.jit(program)(first, jax.random.key(seed)))
    alive = np.isfinite(evolved.scores)
    vectors, scores = evolved.population[alive], evolved.scores[alive].astype(np.float64)
    return Evolved([space.decode(v) for v in vectors], scores, int(evolved.generations))


def _scores(space: AnySpace, score: ScoreFn, vectors: np.ndarray) -> np.ndarray:
    scores = np.asarray(score(columns(space, vectors)), np.float32)
    if scores.shape != (len(vectors),):
        raise InputError(
            f"`score` must return a number for each of {len(vectors)} candidates, got the shape "
            f"{shown(list(scores.shape))}; each knob is an array of their values"
        )
    return np.where(np.isfinite(scores), scores, -np.inf)
