"""Fronts, their areas, and the members that say most."""

import moocore
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jointnas_jax.strategy.front import Reference, hypervolume, nondominated, spread

CORNER = Reference(cost=3.0, score=-1.0)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=9))
def test_a_front_holds_what_nothing_else_beats(points):
    costs, scores = np.array(points, float).T
    front = nondominated(costs, scores)

    def beaten(i):
        as_good = (costs <= costs[i]) & (scores >= scores[i])
        return (as_good & ((costs < costs[i]) | (scores > scores[i]))).any()

    expected = {points[i] for i in range(len(points)) if not beaten(i)}
    assert {points[i] for i in front} == expected
    assert len(front) == len(expected)  # equal ones once
    assert (np.diff(costs[front]) > 0).all()
    assert (np.diff(scores[front]) > 0).all()


def test_failed_trials_are_on_no_front():
    assert nondominated(np.array([1.0, 2.0]), np.array([np.nan, 0.5])).tolist() == [1]


def test_areas_agree_with_another_library():
    rng = np.random.default_rng(0)
    for _ in range(20):
        costs, scores = rng.uniform(0, 3, 8), rng.normal(0, 1, 8)
        expected = moocore.hypervolume(np.column_stack([costs, -scores]), ref=[3.0, 1.0])
        assert hypervolume(costs, scores, CORNER) == pytest.approx(expected)


@given(st.integers(0, 2**31 - 1), st.integers(1, 12), st.integers(1, 6))
def test_members_are_picked_by_the_area_that_they_add(seed, count, wanted):
    rng = np.random.default_rng(seed)
    costs, scores = rng.uniform(0, 3.2, count), rng.normal(0, 1, count)
    picked = spread(costs, scores, wanted, CORNER)
    assert len(set(picked)) == len(picked) <= wanted
    assert set(picked) <= set(nondominated(costs, scores))
    areas = [hypervolume(costs[picked[:n]], scores[picked[:n]], CORNER) for n in range(wanted + 1)]
    for n, position in enumerate(picked):
        assert areas[n + 1] > areas[n]
        others = (
            hypervolume(costs[[*picked[:n], i]], scores[[*picked[:n], i]], CORNER)
            for i in range(count)
        )
        assert areas[n + 1] == max(others)
        assert position == picked[n]
    whole = hypervolume(costs, scores, CORNER)
    if len(picked) < wanted:
        assert hypervolume(costs[picked], scores[picked], CORNER) == pytest.approx(whole)


def test_what_is_chosen_already_is_not_picked_again():
    costs, scores = np.array([0.0, 1.0, 2.0]), np.array([0.0, 0.5, 1.0])
    first = spread(costs, scores, 1, CORNER)
    then = spread(costs, scores, 2, CORNER, chosen=first)
    assert sorted(first + then) == [0, 1, 2]


def test_failures_are_never_picked():
    assert spread(np.array([0.0, 1.0]), np.array([np.nan, 0.5]), 2, CORNER) == [1]
