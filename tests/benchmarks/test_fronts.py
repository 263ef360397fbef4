"""Searches for a front of a table: what they evaluate, and how much of its area they find."""

import itertools

import numpy as np
import pytest

from benchmarks import fronts, searches
from benchmarks.tables import Table
from jointnas_jax.space import PlainSpace

AT = (10, 16, 24)


@pytest.fixture
def objective(monkeypatch):
    """Of 144 candidates the large ones with the second of three choices score best."""
    monkeypatch.setattr(searches, "AT", AT)
    monkeypatch.setattr(fronts, "AT", AT)
    space = PlainSpace.of({"width": (1, 8), "depth": (1, 6), "kind": ["a", "b", "c"]})
    vectors = np.array([*itertools.product(range(8), range(6), range(3))], np.int32)
    width, depth, kind = vectors.T
    scores = np.sqrt(width + 1) + np.log1p(depth) + 2.0 * (kind == 1)
    costs = 1000.0 * (1 + width) * (1 + depth)
    table = Table("made", space, vectors, scores[:, None], costs[:, None], ("flops",))
    return searches.Objective(table, None, noisy=False)


@pytest.mark.slow
def test_botorch_finds_more_of_the_front_than_chance(objective):
    pytest.importorskip("botorch")
    found = fronts.botorch_front(objective, 0)
    assert len(np.unique(found, axis=0)) == len(found) == AT[-1]
    area = fronts.shares(objective, found)[-1]
    random = [
        fronts.shares(objective, searches.random_search(objective, seed).vectors)[-1]
        for seed in range(5)
    ]
    assert area > max(random)
