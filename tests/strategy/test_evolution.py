import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jointnas_jax.config import EvolutionConfig
from jointnas_jax.nets.cost import CostTable, at_most, to_limbs
from jointnas_jax.space import PlainSpace
from jointnas_jax.strategy.evolution import children, diverse, evolve, repair_by_bisection, repeated

CONFIG = EvolutionConfig(population=64, generations=100)


def _distance(target):
    """A known function with one optimum at `target`, where it is 0."""
    return lambda vectors: -jnp.abs(vectors - target).sum(axis=-1).astype(jnp.float32)


def _run(space, score, feasible, start, seed=0, config=CONFIG, repair=None):
    run = jax.jit(
        functools.partial(
            evolve,
            score=score,
            feasible=feasible,
            canonical=space.canonical,
            cardinalities=space.cardinalities,
            config=config,
            repair=repair,
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


@pytest.mark.parametrize("shrunk", [True, False])
def test_children_over_the_budget_are_repaired(paper_space, shrunk):
    """With a repair of the budget's own or the one for any budget, every child can survive."""
    costs = CostTable.of(paper_space)
    limit = {"flops": 450_000_000}
    start = paper_space.sample(np.random.default_rng(0), 20_000)
    start = start[costs(start)[:, 0] <= limit["flops"]]
    seen = []

    def score(vectors):
        jax.debug.callback(lambda v: seen.append(np.asarray(v)), vectors)
        return vectors.sum(axis=-1).astype(jnp.float32)

    config = EvolutionConfig(population=64, generations=5)
    repair = costs.shrink(["flops"]) if shrunk else None
    run = functools.partial(_run, repair=repair, config=config)
    result = run(paper_space, score, costs.within(limit), start)
    jax.effects_barrier()
    assert (costs(np.concatenate(seen))[:, 0] <= limit["flops"]).all()
    # Repair leaves most children another candidate than their parent.
    assert result.duplicates < 0.3 * result.children
    assert (costs(result.population)[:, 0] <= limit["flops"]).all()


def test_several_budgets_at_once_give_what_each_gives_alone(paper_space):
    costs = CostTable.of(paper_space)
    limits = np.array([400_000_000, 500_000_000, 600_000_000])
    start = paper_space.sample(np.random.default_rng(0), 5000)
    exact, repair = costs.limbs(["flops"]), costs.shrink(["flops"])
    score = _distance(paper_space.cardinalities - 1)

    def search(limit):
        return evolve(
            start,
            jax.random.key(0),
            score,
            feasible=lambda vectors: at_most(exact(vectors), limit),
            canonical=paper_space.canonical,
            cardinalities=paper_space.cardinalities,
            config=EvolutionConfig(population=64, generations=40),
            repair=repair,
        )

    together = jax.jit(jax.vmap(search))(to_limbs(limits[:, None]))
    for i, limit in enumerate(limits):
        alone = jax.jit(search)(to_limbs([limit]))
        jax.tree.map(
            np.testing.assert_array_equal, jax.tree.map(lambda a, i=i: a[i], together), alone
        )
        assert costs(np.asarray(alone.population))[:, 0].max() <= limit
    assert (np.diff(together.scores[:, 0]) > 0).all()


def test_it_counts_children_and_duplicates():
    """A space of few candidates is soon used up."""
    space = PlainSpace.of(dict(a=(0, 3), b=[1, 2, 3]))
    start = space.sample(np.random.default_rng(0), 12)
    result = _run(space, _distance(np.array([3, 2])), ALWAYS, start)
    assert result.children == result.generations * 256
    found = result.population[np.isfinite(result.scores)]
    assert len(found) == 12
    new = 12 - len(np.unique(start, axis=0))
    assert result.duplicates == result.children - new


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31 - 1))
def test_children_are_inside_the_space_and_descend_from_their_parents(tiny_space, seed):
    rng = np.random.default_rng(seed)
    population = tiny_space.sample(rng, 16)
    config = EvolutionConfig(population=16, mutation=(0.0, 0.0), crossover=(0.0, 0.5))
    words = rng.integers(2**32, size=2, dtype=np.uint32)
    made = np.asarray(
        children(jnp.asarray(population), RANKS(16), words, tiny_space.cardinalities, config)
    )
    assert made.shape == (64, len(tiny_space.knobs))
    tiny_space.check(made)
    # One knob is mutated, so all others come from the two parents.
    for i, child in enumerate(made):
        others = [((child == population[i % 16]) | (child == p)).sum() for p in population]
        assert max(others) >= len(child) - 1
    # The best parent crosses with no one.
    assert ((made[::16] != population[0]).sum(axis=1) == 1).all()


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), share=st.floats(0.02, 0.9))
def test_what_returns_to_its_parent_is_within_any_budget(tiny_space, seed, share):
    """Whatever the rule: here it has no order that a repair could go by."""
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=len(tiny_space.knobs))
    noise = lambda vectors: jnp.sin(7 * (vectors * factors).sum(-1))
    vectors = tiny_space.sample(rng, 64)
    # Half of the children are parents of others, so some of them are feasible.
    limit = np.quantile(noise(vectors), share)
    feasible = lambda vectors: noise(vectors) <= limit
    good = vectors[np.asarray(feasible(vectors))]
    parents = good[rng.integers(len(good), size=64)]
    mended = np.asarray(repair_by_bisection(vectors, parents, feasible, tiny_space.canonical))
    assert np.asarray(feasible(mended)).all()
    tiny_space.check(mended)


def test_a_start_over_the_budget_is_repaired(paper_space):
    costs = CostTable.of(paper_space)
    limit = {"flops": 450_000_000}
    sample = paper_space.sample(np.random.default_rng(0), 20_000)
    within = costs(sample)[:, 0] <= limit["flops"]
    start = np.concatenate([sample[~within][:63], sample[within][:1]])
    config = EvolutionConfig(population=64, generations=1, children_per_parent=1)
    score = _distance(paper_space.cardinalities - 1)
    repair = costs.shrink(["flops"])
    result = _run(paper_space, score, costs.within(limit), start, config=config, repair=repair)
    assert np.isfinite(result.scores).sum() > 50
    assert (costs(result.population)[:, 0] <= limit["flops"]).all()


RANKS = lambda size: jnp.arange(size) / (size - 1)


def test_the_dead_have_no_children(tiny_space):
    start = tiny_space.sample(np.random.default_rng(0), 64)
    only = lambda vectors: (vectors == start[0]).all(axis=-1)
    result = _run(tiny_space, _distance(start[1]), only, start)
    assert np.isfinite(result.scores).sum() == 1
    assert (result.population[0] == start[0]).all()


def test_better_parents_change_less(paper_space):
    population = jnp.asarray(paper_space.sample(np.random.default_rng(0), 256))
    config = EvolutionConfig(population=256, children_per_parent=8, crossover=(0.0, 0.0))
    made = children(population, RANKS(256), np.uint32([1, 2]), paper_space.cardinalities, config)
    changed = (made != jnp.tile(population, (8, 1))).mean(axis=1).reshape(8, 256).mean(axis=0)
    assert changed[:64].mean() < 0.6 * changed[-64:].mean()


def test_mutation_reaches_every_value_alike():
    """Of a knob with many values: the neighbours most, all others equally often."""
    population = jnp.zeros((256, 4), jnp.uint8)
    config = EvolutionConfig(population=256, children_per_parent=64, mutation=(1.0, 1.0))
    made = np.asarray(children(population, RANKS(256), np.uint32([3, 4]), np.full(4, 20), config))
    shares = np.bincount(made.ravel(), minlength=20) / made.size
    assert shares[0] == 0
    np.testing.assert_allclose(shares[[1, 19]], 0.25 + 0.5 / 19, atol=0.01)
    np.testing.assert_allclose(shares[2:19], 0.5 / 19, atol=0.005)


@settings(max_examples=50)
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 300), values=st.integers(1, 50))
def test_repeated_rows_are_all_but_the_first_of_equal_ones(seed, rows, values):
    vectors = np.random.default_rng(seed).integers(0, values, (rows, 3))
    seen, expected = set(), []
    for row in map(tuple, vectors):
        expected.append(row in seen)
        seen.add(row)
    assert np.asarray(jax.jit(repeated)(vectors)).tolist() == expected


def test_finalists_differ_where_they_can():
    population = np.array([[0, 0, 0], [0, 0, 1], [1, 1, 0], [2, 2, 2]])
    assert diverse(population, 3, 2).tolist() == [[0, 0, 0], [1, 1, 0], [2, 2, 2]]
    assert len(diverse(population[:2], 2, 2)) == 2
    assert len(diverse(population[:1], 3, 2)) == 1
