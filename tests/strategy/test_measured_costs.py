"""A budget of a cost that rises and falls with the knobs as it likes, such as measured latency."""

import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jointnas_jax.config import EvolutionConfig
from jointnas_jax.nets.cost import CostTable
from jointnas_jax.nets.latency import pieces_of_space, with_latency
from jointnas_jax.strategy.evolution import evolve
from jointnas_jax.strategy.pool import sobol_pool

NAMES = ("flops", "latency")


@pytest.fixture(scope="module")
def costs(tiny_space):
    times = {key: zlib.crc32(key.encode()) % 10**6 for key in pieces_of_space(tiny_space)}
    return with_latency(CostTable.of(tiny_space), tiny_space, times)


def test_nothing_over_the_budget_is_drawn_born_or_kept(tiny_space, costs):
    columns = [costs.names.index(name) for name in NAMES]
    sample = costs(tiny_space.sample(np.random.default_rng(0), 2000))[:, columns]
    limits = [int(limit) for limit in np.quantile(sample, (0.8, 0.3), axis=0)[[0, 1], [0, 1]]]
    pool = sobol_pool(tiny_space, 64, costs, dict(zip(columns, limits, strict=True)), seed=0)
    assert len(pool) == 64
    seen = []

    def score(vectors):
        jax.debug.callback(lambda v: seen.append(np.asarray(v)), vectors)
        return vectors.sum(axis=-1).astype(jnp.float32)

    feasible = costs.within(dict(zip(NAMES, limits, strict=True)))
    search = functools.partial(
        evolve,
        score=score,
        feasible=feasible,
        canonical=tiny_space.canonical,
        cardinalities=tiny_space.cardinalities,
        config=EvolutionConfig(population=64, generations=8),
    )
    found = jax.jit(search)(pool, jax.random.key(0))
    jax.effects_barrier()
    every = np.concatenate([pool, *seen, np.asarray(found.population)])
    assert len(every) > 1000
    assert (costs(every)[:, columns] <= limits).all()
    # It gets on, so children are not all returned to their parents.
    assert found.scores[0] >= pool.sum(axis=1).max()
    assert found.scores.mean() > pool.sum(axis=1).mean() + 2
    assert found.duplicates < 0.6 * found.children


def test_such_a_cost_is_not_monotone(tiny_space, costs):
    """So the repair that holds for counted costs would return whole architectures."""
    children, parents = (tiny_space.sample(np.random.default_rng(i), 100) for i in range(2))
    arch = len(tiny_space.arch_knobs)
    repaired = costs.shrink(["latency"])(children, parents)
    assert (repaired[:, :arch] == parents[:, :arch]).mean() > 0.9
    assert (costs.shrink(["flops"])(children, parents) == parents)[:, :arch].mean() < 0.9
