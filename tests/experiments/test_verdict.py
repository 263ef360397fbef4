"""A verdict respects the noise, and sets are what they are said to be."""

import numpy as np
import pytest

from experiments.verdict import (
    FAILS,
    HOLDS,
    NOISE,
    disjoint_sets,
    judge,
    others,
    row,
    sentence,
    table,
)


@pytest.mark.parametrize(
    ("differences", "word"),
    [
        ([0.10, 0.11, 0.12], HOLDS),
        ([-0.10, -0.11, -0.12], FAILS),
        ([0.10, -0.02, 0.05], NOISE),
        ([0.10, 0.08], NOISE),  # two seeds leave an interval 12.7 standard errors wide
        ([5.0], NOISE),  # one shows no noise
        ([], NOISE),
        ([np.nan, np.nan], NOISE),
        ([0.0, 0.0, 0.0], NOISE),
    ],
)
def test_a_claim_holds_where_the_interval_lies_above_zero(differences, word):
    assert judge(differences).verdict == word


def test_the_interval_is_students():
    """Mean 2, deviation 1, three units: 4.303 standard errors on each side."""
    found = judge([1.0, 2.0, 3.0])
    assert (found.mean, found.units) == (2.0, 3.0)
    assert found.error == pytest.approx(1 / 3**0.5)
    assert found.high - found.mean == pytest.approx(4.303 / 3**0.5, abs=1e-3)
    assert found.mean - found.low == pytest.approx(found.high - found.mean)


def test_more_shuffles_of_the_same_candidates_are_not_more_units():
    one = judge([1.0, 2.0, 3.0])
    many = judge([[1.0, 2.0, 3.0], [3.0, 1.0, 2.0], [2.0, 3.0, 1.0]])
    assert many == one


def test_what_is_missing_counts_for_nothing():
    assert judge([1.0, np.nan, 2.0, 3.0]) == judge([1.0, 2.0, 3.0])
    assert judge([[1.0, 2.0, 3.0], [np.nan] * 3]) == judge([1.0, 2.0, 3.0])


@pytest.mark.parametrize(("count", "size", "sets"), [(20, 6, 3), (20, 10, 2), (20, 19, 1)])
def test_sets_of_a_shuffle_share_nothing_and_are_never_tested_on_themselves(count, size, sets):
    divided = disjoint_sets(count, size, shuffles=4)
    assert divided.shape == (4, sets, size)
    for shuffle in divided:
        assert len(np.unique(shuffle)) == sets * size
        for chosen in shuffle:
            rest = others(count, chosen)
            assert len(rest) == count - size
            assert not set(rest) & set(chosen)
    assert len({shuffle.tobytes() for shuffle in divided}) == 4


def rows(*cases):
    return [row(label, {"a": a}, judge(differences)) for label, a, differences in cases]


def test_the_sentence_says_where_the_claim_holds_and_where_not():
    good, bad = ("x", 0.5, [0.1, 0.11, 0.12]), ("y", 0.4, [-0.1, -0.11, -0.12])
    noisy = ("z", float("nan"), [0.1])
    assert sentence("A beats B", rows(good)) == "A beats B: holds."
    assert sentence("A beats B", rows(good, bad, noisy)) == (
        "A beats B: holds for x, within the noise for z, does not hold for y."
    )


def test_the_table_shows_a_dash_where_there_is_no_number():
    shown = table(rows(("x", 0.5, [0.1, 0.2, 0.3]), ("z", float("nan"), [0.1])))
    head, first, second = shown.splitlines()
    assert "difference" in head
    assert "0.500" in first
    assert "+0.200 ± 0.058" in first
    assert "- " in second
    assert "+0.100 ± -" in second
