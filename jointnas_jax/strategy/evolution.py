"""The fine stage: predictor-guided evolution in one compiled program (paper, algorithm 2).

Every generation each parent makes children by crossover and mutation, all children are scored at
once, and the best of parents and children survive. Better parents change less (adaptive genetic
algorithm). It ends when the best score saturates.

It is made to cost little beside the scores: genes of 8 bits, random words from a hash of their
position, partners by rotation, repeated candidates detected by fingerprint, and no sort.

Shapes: Q = population, C = children of a generation, K knobs, G = most generations.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jointnas_jax.config import EvolutionConfig

Array = TypeVar("Array")
ScoreFn = Callable[[jax.Array], jax.Array]
FeasibleFn = Callable[[jax.Array], jax.Array]
RepairFn = Callable[[jax.Array, jax.Array], jax.Array]


class Evolution(NamedTuple, Generic[Array]):
    """Result of the fine stage, JAX's arrays or NumPy's.

    Attributes:
      population: `int32[Q, K]`, best first.
      scores: `float32[Q]`, -inf for rows that hold no candidate.
      generations: `int32[]`, generations run.
      best: `float32[G]`, best score after each generation, nan from `generations` on.
      children: `int32[]`, children made in all.
      duplicates: `int32[]`, how many of them repeated a parent or an earlier child.
    """

    population: Array
    scores: Array
    generations: Array
    best: Array
    children: Array
    duplicates: Array


def counts(evolutions: Sequence[Evolution[np.ndarray]]) -> dict[str, int]:
    """Generations, children and duplicates of all of them."""
    names = ("generations", "children", "duplicates")
    return {name: sum(int(getattr(e, name)) for e in evolutions) for name in names}


def evolve(
    start: jax.Array | np.ndarray,
    key: jax.Array,
    score: ScoreFn,
    *,
    feasible: FeasibleFn | None,
    canonical: Callable[[jax.Array], jax.Array],
    cardinalities: np.ndarray | jax.Array,
    config: EvolutionConfig,
    repair: RepairFn | None = None,
) -> Evolution[jax.Array]:
    """Runs the evolution; jit-compatible, and meant to be compiled whole.

    Under `vmap` over what `feasible` closes over, it serves a vector of budgets at once.

    Args:
      start: `int32[N, K]`, N at least 1; the best Q are the first population. Rows over the budget
        are repaired towards the first feasible row.
      key: consumed.
      score: `int32[N, K] -> float32[N]`.
      feasible: `int32[N, K] -> bool[N]`, the budget; None: there is none.
      canonical: maps equal candidates to equal vectors, see `JointSpace.canonical`.
      cardinalities: `int32[K]`; under `jit` they may be traced, so that spaces share a program.
      config: sizes and rates.
      repair: makes of children and their feasible parents, `int32[C, K]` each, children that are
        feasible by construction: they are not tested again. None: `repair_by_bisection`.
    """
    feasible, repair = _make_repair(feasible, canonical, repair)
    size, count = config.population, config.population * config.children_per_parent
    first = jnp.asarray(start)
    missing = max(0, size - len(first))
    first = jnp.concatenate([first, jnp.repeat(first[:1], missing, axis=0)])
    fits = feasible(first)
    first = repair(first, jnp.broadcast_to(first[jnp.argmax(fits)], first.shape))
    # Where no row is feasible there is no parent to go by: all scores are -inf.
    allowed = fits.any() & ~repeated(first)
    scores, best = _best(jnp.where(allowed, score(first), -jnp.inf), size)
    population = first[best].astype(_gene_type(cardinalities))

    def generation(carry: tuple) -> tuple:
        number, stale, population, scores, best, duplicates = carry
        parents = _parents(population, scores)
        seed = jax.random.bits(jax.random.fold_in(key, number), (2,), jnp.uint32)
        tiled = jnp.tile(parents[0], (config.children_per_parent, 1)).astype(jnp.int32)
        # Only where no row is alive the parents are not feasible either. Branches besides end what
        # XLA fuses: or it makes a child anew for each of the tables that its cost is read from, and
        # repairs it anew for each of its genes.
        allowed = jnp.isfinite(scores[0])

        def bred() -> jax.Array:
            return canonical(children(*parents, seed, cardinalities, config).astype(jnp.int32))

        offspring = jax.lax.cond(allowed, bred, lambda: tiled)
        offspring = jax.lax.cond(allowed, lambda: repair(offspring, tiled), lambda: tiled)
        merged = jnp.concatenate([population, offspring.astype(population.dtype)])
        again = repeated(merged)[size:]
        child_scores = jnp.where(allowed & ~again, score(offspring), -jnp.inf)
        after, kept = _best(jnp.concatenate([scores, child_scores]), size)
        stale = jnp.where(after[0] - scores[0] > config.min_gain, 0, stale + 1)
        best = best.at[number].set(after[0])
        return number + 1, stale, merged[kept], after, best, duplicates + again.sum()

    unsaturated = lambda carry: (carry[0] < config.generations) & (carry[1] < config.patience)
    zero, best = jnp.int32(0), jnp.full(config.generations, jnp.nan)
    number, _, population, scores, best, duplicates = jax.lax.while_loop(
        unsaturated, generation, (zero, zero, population, scores, best, zero)
    )
    return Evolution(population.astype(jnp.int32), scores, number, best, number * count, duplicates)


def repair_by_bisection(
    children: jax.Array,
    parents: jax.Array,
    feasible: FeasibleFn,
    canonical: Callable[[jax.Array], jax.Array],
) -> jax.Array:
    """Returns children knob by knob to their parents' values, until they are within the budget.

    Needs log2(K) tests for any budget: a child returned in full is feasible, so between that and
    the child itself there is a last knob to return, which bisection finds.

    Args:
      children: `int32[C, K]`.
      parents: `int32[C, K]`, feasible.
      feasible: see `evolve`.
      canonical: see `evolve`.
    """
    count, knobs = children.shape
    # Each row begins at another knob, so that none is changed less than others.
    order = (jnp.arange(knobs) + jnp.arange(count)[:, None]) % knobs

    def mixed(kept: jax.Array) -> jax.Array:
        return canonical(jnp.where(order < kept[:, None], children, parents))

    def halve(_: int, bounds: tuple) -> tuple:
        low, high = bounds
        middle = (low + high) // 2
        fits = feasible(mixed(middle))
        return jnp.where(fits, middle, low), jnp.where(fits, high, middle)

    bounds = jnp.zeros(count, jnp.int32), jnp.full(count, knobs, jnp.int32)
    return mixed(jax.lax.fori_loop(0, knobs.bit_length(), halve, bounds)[0])


def _make_repair(
    feasible: FeasibleFn | None,
    canonical: Callable[[jax.Array], jax.Array],
    repair: RepairFn | None,
) -> tuple[FeasibleFn, RepairFn]:
    """The budget as a test, and the repair of children that fail it."""
    if feasible is None:
        return lambda vectors: jnp.ones(len(vectors), bool), lambda offspring, parents: offspring
    mend = repair or functools.partial(repair_by_bisection, feasible=feasible, canonical=canonical)

    def repaired(offspring: jax.Array, parents: jax.Array) -> jax.Array:
        fits = feasible(offspring)[:, None]
        return jnp.where(fits, offspring, canonical(mend(offspring, parents)))

    return feasible, repaired


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


def repeated(vectors: jax.Array) -> jax.Array:
    """Which rows of `int[N, K]` repeat an earlier row: `bool[N]`.

    Rows are compared by fingerprints of 32 bits, by way of a table that keeps the first row of each
    slot; rows that find another fingerprint in theirs try again elsewhere. Of 10,000 different rows
    one is taken for a repetition with a probability of 1 %.
    """
    count, knobs = vectors.shape
    # Odd factors, so that a difference in one knob always shows.
    factors = np.random.default_rng(0).integers(0, 2**31, knobs, dtype=np.uint32) * 2 + 1
    prints = (vectors.astype(jnp.uint32) * factors).sum(axis=1, dtype=jnp.uint32)
    bits = (8 * count - 1).bit_length()
    rows = jnp.arange(count)

    def turn(carry: tuple) -> tuple:
        factor, waiting, again = carry
        slots = ((prints * factor) >> (32 - bits)).astype(jnp.int32)
        table = jnp.full(2**bits, count - 1)
        table = table.at[jnp.where(waiting, slots, 2**bits)].min(rows, mode="drop")
        first = table[slots]
        same = prints[first] == prints
        return factor * factor, waiting & ~same, again | (waiting & same & (first < rows))

    waiting = jnp.ones(count, bool)
    carry = (jnp.uint32(0x9E3779B1), waiting, ~waiting)
    return jax.lax.while_loop(lambda carry: carry[1].any(), turn, carry)[2]


def children(
    parents: jax.Array,
    ranks: jax.Array,
    seed: jax.Array,
    cardinalities: np.ndarray | jax.Array,
    config: EvolutionConfig,
) -> jax.Array:
    """Makes `children_per_parent` children of every parent.

    Args:
      parents: `int[Q, K]`.
      ranks: `float32[Q]`, 0 for the best and 1 for the worst.
      seed: `uint32[2]`.
      cardinalities: `int32[K]`.
      config: rates.

    Returns:
      `int[C, K]` inside the space, row i a child of parent i modulo Q; every child differs from its
      parent where crossover did not undo it.
    """
    size, knobs = parents.shape
    litters = config.children_per_parent
    count = size * litters
    # All children of a litter take the partner that is equally far down the list.
    twice = jnp.concatenate([parents, parents])
    turns = (_words(seed[0], (litters,)) % jnp.uint32(max(size - 1, 1))).astype(jnp.int32) + 1
    turned = [jax.lax.dynamic_slice_in_dim(twice, turns[i], size) for i in range(litters)]
    genes, other = jnp.tile(parents, (litters, 1)), jnp.concatenate(turned)

    chance = lambda rates, bits: (2**bits * (rates[0] + (rates[1] - rates[0]) * ranks)).astype(
        jnp.uint32
    )
    forced = _words(seed[1] ^ seed[0], (count,)) % jnp.uint32(knobs)
    # Without the barrier XLA computes what belongs to a child anew for each of its genes.
    cross, mutate, forced, genes, other = jax.lax.optimization_barrier(
        (chance(config.crossover, 8), chance(config.mutation, 10), forced, genes, other)
    )
    # One word for each gene: 8 bits for crossover, 10 for mutation, 2 and 12 for the new value.
    word = _words(seed[1], (count, knobs))
    crossed = (word >> 24) < jnp.tile(cross, litters)[:, None]
    mutated = ((word >> 14) & 1023) < jnp.tile(mutate, litters)[:, None]
    mutated |= forced[:, None] == jnp.arange(knobs, dtype=jnp.uint32)
    # Half of the mutations go one value up or down, around the ends; the others to any other value.
    sizes = jnp.asarray(cardinalities, jnp.uint32)
    direction = (word >> 12) & 3
    jump = 1 + (((word & 4095) * jnp.maximum(sizes - 1, 1)) >> 12)
    shift = jnp.where(direction == 0, 1, jnp.where(direction == 1, sizes - 1, jump))
    value = jnp.where(crossed, other, genes).astype(jnp.uint32)
    moved = value + shift
    moved = jnp.where(moved >= sizes, moved - sizes, moved)
    return jnp.where(mutated, moved, value).astype(parents.dtype)


def _parents(population: jax.Array, scores: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The living rows, as often as it takes to fill the population, and their ranks in [0, 1]."""
    alive = jnp.maximum(jnp.isfinite(scores).sum(), 1)
    row = jnp.arange(len(population)) % alive
    return population[row], row / jnp.maximum(alive - 1, 1)


def _best(scores: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """The best `size` scores and their positions, best first.

    Behind a barrier: XLA sorts everything where a slice of the result is used.
    """
    return jax.lax.optimization_barrier(jax.lax.top_k(scores, size))


def _words(seed: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Random `uint32` words: a hash of position and seed (constants: Wellons' `lowbias32`).

    Good enough to mutate by, and far cheaper than the words of `jax.random`.
    """
    word = jax.lax.iota(jnp.uint32, int(np.prod(shape))).reshape(shape) * jnp.uint32(0x9E3779B9)
    word ^= seed
    word = (word ^ (word >> 16)) * jnp.uint32(0x7FEB352D)
    word = (word ^ (word >> 15)) * jnp.uint32(0x846CA68B)
    return word ^ (word >> 16)


def _gene_type(cardinalities: np.ndarray | jax.Array) -> type:
    traced = not isinstance(cardinalities, np.ndarray)
    return jnp.int32 if traced or np.max(cardinalities) > 256 else jnp.uint8
