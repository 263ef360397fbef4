import itertools
import runpy
import time
from pathlib import Path

import numpy as np
import pytest

from jointnas_jax.config import check_config
from jointnas_jax.errors import SpaceError
from jointnas_jax.nets.cost import COSTS, CostTable
from jointnas_jax.space import JointSpace
from jointnas_jax.strategy.pool import descend, distinct, sobol_pool

CONFIGS = Path(__file__).parent.parent.parent / "configs"


def load_config(name):
    return runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"]()


def test_a_pool_is_full_distinct_and_within_the_budget(paper_space):
    costs = CostTable.of(paper_space)
    limit = 700_000_000
    pool = sobol_pool(paper_space, 500, costs, {0: limit}, seed=0)
    assert pool.shape == (500, len(paper_space.knobs))
    assert len(distinct(pool)) == 500
    assert costs(pool)[:, 0].max() <= limit
    assert (paper_space.check(pool) == pool).all()


def test_the_seed_decides_the_pool(paper_space):
    costs = CostTable.of(paper_space)
    a, b, other = (sobol_pool(paper_space, 64, costs, {}, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, other)


def test_a_pool_spreads_over_every_knob_more_evenly_than_chance(paper_space):
    pool = sobol_pool(paper_space, 1024, CostTable.of(paper_space), {}, seed=0)
    random = paper_space.sample(np.random.default_rng(0), 1024)

    def unevenness(vectors):
        shares = [
            np.bincount(vectors[:, j], minlength=n) / len(vectors) * n
            for j, n in enumerate(paper_space.cardinalities)
        ]
        return np.mean([np.abs(s - 1).max() for s in shares])

    assert unevenness(pool) < 0.5 * unevenness(random)


def test_a_small_space_gives_all_it_has(tiny_space):
    candidate = tiny_space.decode(tiny_space.sample(np.random.default_rng(0), 1)[0])
    space = tiny_space.with_fixed_arch(candidate.arch)
    pool = sobol_pool(space, 10_000, CostTable.of(space), {}, seed=0)
    assert len(pool) == space.recipe_size


def test_a_rare_budget_is_sampled_on(tiny_space):
    """One candidate in some hundred fits: whole blocks of samples may bring nothing new."""
    costs = CostTable.of(tiny_space)
    limit = int(
        np.quantile(costs(tiny_space.sample(np.random.default_rng(0), 20_000))[:, 0], 0.005)
    )
    pool = sobol_pool(tiny_space, 300, costs, {0: limit}, seed=0)
    assert len(pool) > 50
    assert costs(pool)[:, 0].max() <= limit


def every(space):
    """All vectors of a space, recipes left out."""
    knobs = [range(len(knob.values)) for knob in space.arch_knobs]
    rows = np.array([*itertools.product(*knobs)], np.int32)
    recipes = np.zeros((len(rows), len(space.recipe_knobs)), np.int32)
    return np.concatenate([rows, recipes], axis=1)


@pytest.mark.parametrize("columns", [[0], [1], [0, 1]])
def test_a_budget_is_refused_only_where_no_candidate_of_the_space_satisfies_it(tiny_space, columns):
    costs, names = CostTable.of(tiny_space), COSTS
    smallest = costs(every(tiny_space))[:, columns].min(axis=0)
    budget = dict(zip(columns, smallest.tolist(), strict=True))
    pool = sobol_pool(tiny_space, 500, costs, budget, seed=0, names=names)
    np.testing.assert_array_equal(costs(pool)[:, columns], np.tile(smallest, (len(pool), 1)))
    budget[columns[-1]] -= 1
    needed = rf"{COSTS[columns[-1]]} of at least {smallest[-1]:,} where the limit is"
    with pytest.raises(SpaceError, match=needed):
        sobol_pool(tiny_space, 500, costs, budget, seed=0, names=names)


def test_a_budget_that_chance_never_meets_still_has_a_pool(paper_space):
    """A pool used to be refused where none of the samples was within the budget."""
    costs, limit = CostTable.of(paper_space), 230_000_000
    pool = sobol_pool(paper_space, 25_000, costs, {0: limit}, seed=0)
    assert len(distinct(pool)) == len(pool) >= 32
    assert costs(pool)[:, 0].max() <= limit


def test_the_pool_of_the_papers_search_has_all_its_candidates():
    """Four candidates in a thousand are within the budget: 6 million draws."""
    config = check_config(load_config("imagenet_joint"))
    space = JointSpace.from_config(config.space, image_channels=3, num_classes=200)
    costs, limit = CostTable.of(space), config.budget.limits()["flops"]
    draw = lambda size: sobol_pool(space, size, costs, {0: limit}, seed=(config.seed, 0))
    start = time.process_time()
    pool = draw(config.search.pool_size)
    assert time.process_time() - start < 60
    assert pool.shape == distinct(pool).shape == (25_000, len(space.knobs))
    assert costs(pool)[:, 0].max() <= limit == 450_000_000
    np.testing.assert_array_equal(draw(500), pool[:500])


@pytest.mark.parametrize("budget", [{0: 260_000_000}, {0: 300_000_000, 1: 6_800_000}])
def test_candidates_descend_to_a_budget_that_chance_does_not_meet(paper_space, budget):
    costs, limits = CostTable.of(paper_space), list(budget.values())
    drawn = paper_space.sample(np.random.default_rng(0), 20_000)
    fits = lambda vectors: (costs(vectors)[:, list(budget)] <= limits).all(axis=1)
    assert not fits(drawn).any()
    found = descend(paper_space, drawn[:32], costs, budget)
    assert fits(found).all()
    assert len(distinct(found)) == 32
    assert (paper_space.canonical(paper_space.check(found)) == found).all()


def test_a_descent_leaves_alone_what_fits_and_ends_at_the_cheapest(paper_space):
    costs = CostTable.of(paper_space)
    drawn = paper_space.sample(np.random.default_rng(0), 4)
    np.testing.assert_array_equal(descend(paper_space, drawn, costs, {0: 10**10}), drawn)
    cheapest = costs(np.zeros_like(drawn[:1]))[0, 0]
    assert (costs(descend(paper_space, drawn, costs, {0: 1}))[:, 0] == cheapest).all()


def test_candidates_descend_to_costs_of_zero(paper_space):
    """Such as a count of what is not wanted."""
    costs = lambda vectors: (vectors > 0).sum(axis=1, dtype=np.int64)[:, None]
    vectors = paper_space.sample(np.random.default_rng(0), 8)
    with np.errstate(all="raise"):
        cheap = descend(paper_space, vectors, costs, {0: 0})
    assert costs(cheap).max() == 0
