import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jointnas_jax.config import EvolutionConfig
from jointnas_jax.nets.cost import CostTable
from jointnas_jax.search.evolution import children, diverse, evolve, survivors

CONFIG = EvolutionConfig(population=64, generations=100)


def _distance(target):
    """A known function with one optimum at `target`, where it is 0."""
    return lambda vectors: -jnp.abs(vectors - target).sum(axis=-1).astype(jnp.float32)


def _run(space, score, feasible, start, seed=0, config=CONFIG):
    run = jax.jit(
        functools.partial(
            evolve,
            score=score,
            feasible=feasible,
            canonical=space.canonical,
            cardinalities=space.cardinalities,
            config=config,
        )
    )
    return jax.device_get(run(start, jax.random.key(seed)))


ALWAYS = lambda vectors: jnp.ones(len(vectors), bool)


@pytest.mark.parametrize("seed", range(3))
def test_it_finds_the_optimum_of_a_known_function(paper_space, seed):
    """One of 10^24 candidates."""
    target = paper_space.sample(np.random.default_rng(seed), 1)[0]
    start = paper_space.sample(np.random.default_rng(100 + seed), 64)
    result = _run(paper_space, _distance(target), ALWAYS, start, seed)
    assert result.scores[0] == 0
    assert (result.population[0] == target).all()


def test_it_stays_inside_the_space_and_the_budget(paper_space):
    costs = CostTable.of(paper_space)
    budget = {"flops": 600_000_000, "params": 9_000_000}
    start = paper_space.sample(np.random.default_rng(0), 5000)
    start = start[(costs(start)[:, :2] <= list(budget.values())).all(axis=1)]
    larger_is_better = lambda vectors: vectors.sum(axis=-1).astype(jnp.float32)
    result = _run(paper_space, larger_is_better, costs.within(budget), start)
    alive = result.population[np.isfinite(result.scores)]
    assert len(alive) == 64
    paper_space.check(alive)
    assert (costs(alive)[:, :2] <= list(budget.values())).all()
    # Without the budget the best score would be reached by candidates that it forbids.
    assert costs((paper_space.cardinalities - 1)[None])[0, 0] > budget["flops"]
    assert result.scores[0] > larger_is_better(start).max()


def test_the_population_is_distinct_sorted_and_never_gets_worse(tiny_space):
    start = tiny_space.sample(np.random.default_rng(0), 10)
    result = _run(tiny_space, _distance(start[0] * 0), ALWAYS, start)
    alive = result.population[np.isfinite(result.scores)]
    assert len(np.unique(alive, axis=0)) == len(alive)
    assert (np.diff(result.scores) <= 0).all()
    best = result.best[: result.generations]
    assert (np.diff(best) >= 0).all()
    assert np.isnan(result.best[result.generations :]).all()
    assert (tiny_space.canonical(alive) == alive).all()


def test_it_stops_when_the_best_score_saturates(tiny_space):
    start = tiny_space.sample(np.random.default_rng(0), 64)
    flat = lambda vectors: jnp.zeros(len(vectors))
    assert _run(tiny_space, flat, ALWAYS, start).generations == CONFIG.patience


def test_the_key_decides(tiny_space):
    start = tiny_space.sample(np.random.default_rng(0), 32)
    random_score = lambda vectors: jnp.sin(
        (vectors * jnp.arange(1, vectors.shape[1] + 1)).sum(-1) * 1.7
    )
    a, b = (_run(tiny_space, random_score, ALWAYS, start, seed=4) for _ in range(2))
    np.testing.assert_array_equal(a.population, b.population)
    np.testing.assert_array_equal(a.best, b.best)
    other = _run(tiny_space, random_score, ALWAYS, start, seed=5)
    assert not np.array_equal(a.population, other.population)


def test_a_start_over_budget_cannot_win(tiny_space):
    start = tiny_space.sample(np.random.default_rng(0), 64)
    allowed = lambda vectors: vectors[:, 0] == 0
    high = lambda vectors: vectors[:, 0].astype(jnp.float32)
    result = _run(tiny_space, high, allowed, start)
    assert (result.population[np.isfinite(result.scores)][:, 0] == 0).all()


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31 - 1), alive=st.integers(1, 16))
def test_children_are_inside_the_space_and_descend_from_the_living(tiny_space, seed, alive):
    population = jnp.asarray(tiny_space.sample(np.random.default_rng(seed), 16))
    scores = jnp.where(jnp.arange(16) < alive, 1.0, -jnp.inf)
    config = EvolutionConfig(population=16, mutation=(0.0, 0.0), crossover=(0.0, 0.5))
    made = np.asarray(
        children(population, scores, jax.random.key(seed), tiny_space.cardinalities, config)
    )
    assert made.shape == (64, len(tiny_space.knobs))
    tiny_space.check(made)
    # Only one knob is mutated, so all others come from living parents.
    living = np.asarray(population[:alive])
    foreign = [
        (made[:, j][:, None] != living[:, j][None]).all(axis=1) for j in range(made.shape[1])
    ]
    assert (np.sum(foreign, axis=0) <= 1).all()


def test_better_parents_change_less(paper_space):
    population = jnp.asarray(paper_space.sample(np.random.default_rng(0), 256))
    config = EvolutionConfig(population=256, children_per_parent=8, crossover=(0.0, 0.0))
    made = children(
        population, jnp.zeros(256), jax.random.key(0), paper_space.cardinalities, config
    )
    parents = jnp.tile(population, (8, 1))
    changed = (made != parents).mean(axis=1).reshape(8, 256).mean(axis=0)
    assert changed[:64].mean() < 0.6 * changed[-64:].mean()


def test_survivors_are_the_best_distinct_rows():
    vectors = jnp.array([[0, 0], [1, 1], [0, 0], [2, 2], [1, 1]])
    scores = jnp.array([1.0, 3.0, 1.0, 2.0, 3.0])
    kept, kept_scores = survivors(vectors, scores, 4)
    assert kept[:3].tolist() == [[1, 1], [2, 2], [0, 0]]
    assert kept_scores.tolist() == [3.0, 2.0, 1.0, -np.inf]


def test_finalists_differ_where_they_can():
    population = np.array([[0, 0, 0], [0, 0, 1], [1, 1, 0], [2, 2, 2]])
    assert diverse(population, 3, 2).tolist() == [[0, 0, 0], [1, 1, 0], [2, 2, 2]]
    assert len(diverse(population[:2], 2, 2)) == 2
    assert len(diverse(population[:1], 3, 2)) == 1
