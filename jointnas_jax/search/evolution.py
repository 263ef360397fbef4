"""The fine stage: predictor-guided evolution in one compiled program (paper, algorithm 2).

Every generation each parent makes children by crossover and mutation, all children are scored at
once, and the best of parents and children survive. Better parents change less (adaptive genetic
algorithm). It ends when the best score saturates.

Shapes: Q = population, C = children of a generation, K knobs, G = most generations.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jointnas_jax.config import EvolutionConfig

ScoreFn = Callable[[jax.Array], jax.Array]
FeasibleFn = Callable[[jax.Array], jax.Array]


class Evolution(NamedTuple):
    """Result of the fine stage.

    Attributes:
      population: `int32[Q, K]`, best first.
      scores: `float32[Q]`, -inf for rows that hold no candidate.
      generations: `int32[]`, generations run.
      best: `float32[G]`, best score after each generation, nan from `generations` on.
    """

    population: jax.Array
    scores: jax.Array
    generations: jax.Array
    best: jax.Array


def evolve(
    start: np.ndarray,
    key: jax.Array,
    score: ScoreFn,
    feasible: FeasibleFn,
    canonical: Callable[[jax.Array], jax.Array],
    cardinalities: np.ndarray,
    config: EvolutionConfig,
) -> Evolution:
    """Runs the evolution; jit-compatible, and meant to be compiled whole.

    Args:
      start: `int32[N, K]`, N at least 1, all feasible; the best Q are the first population.
      key: consumed.
      score: `int32[N, K] -> float32[N]`.
      feasible: `int32[N, K] -> bool[N]`, the budget.
      canonical: maps equal candidates to equal vectors, see `JointSpace.canonical`.
      cardinalities: `int32[K]`.
      config: sizes and rates.
    """
    size = config.population
    start = jnp.asarray(start)
    population, scores = survivors(start, jnp.where(feasible(start), score(start), -jnp.inf), size)

    def generation(carry: tuple) -> tuple:
        count, stale, population, scores, best = carry
        offspring = canonical(
            children(population, scores, jax.random.fold_in(key, count), cardinalities, config)
        )
        child_scores = jnp.where(feasible(offspring), score(offspring), -jnp.inf)
        merged = jnp.concatenate([population, offspring])
        population, after = survivors(merged, jnp.concatenate([scores, child_scores]), size)
        stale = jnp.where(after[0] - scores[0] > config.min_gain, 0, stale + 1)
        return count + 1, stale, population, after, best.at[count].set(after[0])

    def unsaturated(carry: tuple) -> jax.Array:
        return (carry[0] < config.generations) & (carry[1] < config.patience)

    best = jnp.full(config.generations, jnp.nan)
    carry = (jnp.int32(0), jnp.int32(0), population, scores, best)
    count, _, population, scores, best = jax.lax.while_loop(unsaturated, generation, carry)
    return Evolution(population, scores, count, best)


def diverse(population: np.ndarray, count: int, distance: int) -> np.ndarray:
    """Picks the first `count` rows of `int[N, K]` that differ pairwise in `distance` knobs or more.

    Neighbours in the population share the predictor's errors, so training several of them tells
    little. Where too few differ, the first rows left out fill up.
    """
    chosen: list[int] = []
    for i, row in enumerate(population):
        if len(chosen) < count and all((row != population[j]).sum() >= distance for j in chosen):
            chosen.append(i)
    rest = [i for i in range(len(population)) if i not in chosen]
    return population[chosen + rest[: max(0, count - len(chosen))]]


def survivors(vectors: jax.Array, scores: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """Returns the best `size` distinct rows of `int32[N, K]`, best first, and their scores.

    Repeated rows and missing ones get the score -inf: a population of one candidate's copies cannot
    evolve.
    """
    if len(vectors) < size:
        padding = size - len(vectors)
        vectors = jnp.concatenate([vectors, jnp.repeat(vectors[:1], padding, axis=0)])
        scores = jnp.concatenate([scores, jnp.full(padding, -jnp.inf)])
    # Best first; equal rows have equal scores, and the knobs as further sort keys make them
    # neighbours.
    order = jnp.lexsort((*vectors.T, -scores))
    vectors, scores = vectors[order], scores[order]
    repeated = jnp.concatenate([jnp.zeros(1, bool), (vectors[1:] == vectors[:-1]).all(-1)])
    scores = jnp.where(repeated, -jnp.inf, scores)
    scores, best = jax.lax.top_k(scores, size)
    return vectors[best], scores


def children(
    population: jax.Array,
    scores: jax.Array,
    key: jax.Array,
    cardinalities: np.ndarray,
    config: EvolutionConfig,
) -> jax.Array:
    """Makes `children_per_parent` children of every parent. The key is consumed.

    Args:
      population: `int32[Q, K]`, best first.
      scores: `float32[Q]`; rows with -inf are parents to no one.
      key: consumed.
      cardinalities: `int32[K]`.
      config: rates.

    Returns:
      `int32[C, K]` inside the space; every child differs from its parent where crossover did not
      undo it.
    """
    partner_key, cross_key, mutate_key, force_key, step_key, jump_key = jax.random.split(key, 6)
    size, knobs = population.shape
    count = size * config.children_per_parent
    alive = jnp.maximum(jnp.isfinite(scores).sum(), 1)
    parent = jnp.arange(count) % alive
    partner = jax.random.randint(partner_key, (count,), 0, alive)
    rank = parent / jnp.maximum(alive - 1, 1)
    shape = (count, knobs)

    def chance(key: jax.Array, rates: tuple[float, float]) -> jax.Array:
        best, worst = rates
        return jax.random.uniform(key, shape) < (best + (worst - best) * rank)[:, None]

    genes = jnp.where(chance(cross_key, config.crossover), population[partner], population[parent])
    forced = jax.random.randint(force_key, (count,), 0, knobs)[:, None] == jnp.arange(knobs)
    mutated = chance(mutate_key, config.mutation) | forced
    # Half of the mutations go one value up or down, around the ends; the others to any other value.
    sizes = jnp.asarray(cardinalities)
    direction = jax.random.randint(step_key, shape, 0, 4)
    jump = 1 + jax.random.randint(jump_key, shape, 0, jnp.maximum(sizes - 1, 1))
    shift = jnp.where(direction == 0, 1, jnp.where(direction == 1, sizes - 1, jump))
    return jnp.where(mutated, (genes + shift) % sizes, genes)
