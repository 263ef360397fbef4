"""Importances, on scores whose causes are known."""

import dataclasses

import numpy as np
import pytest
from records import record_of

from jointnas_jax.report.importance import importance


def judged(score, count=24):
    """Importances where the score of a trial is a function of its knobs."""
    record = record_of()
    for trial in record.trials:
        value = score(trial["knobs"])
        trial.update(score=value, accuracies=(value,) * 10)
    return importance(dataclasses.replace(record, trials=record.trials[:count]))


def test_the_knob_that_decides_is_found():
    found = judged(lambda knobs: 50 * knobs["lr"], 48)
    assert found.knobs[0] == "lr"
    assert found.shares[0] > 2 * found.shares[1]
    assert found.shares.sum() == pytest.approx(1)
    assert found.recipe[0]
    assert found.recipe_share > 0.6


def test_a_knob_of_the_architecture_counts_for_the_architecture():
    found = judged(lambda knobs: float(knobs["stage1_expand"]), 48)
    assert (found.knobs[0], found.recipe[0]) == ("stage1_expand", False)
    assert found.recipe_share < 0.5


def test_knobs_that_act_together_are_told_from_those_that_add_up():
    names = ("lr", "stage1_expand")
    both = judged(lambda k: float((k["lr"] > 0.01) == (k["stage1_expand"] > 2)), 48)
    sums = judged(lambda k: 50 * k["lr"] + k["stage1_expand"], 48)
    strength = lambda found: max(
        (h for one, other, h in found.pairs if {one, other} == set(names)), default=0.0
    )
    assert strength(both) > 0.3 > strength(sums)


@pytest.mark.parametrize(("count", "score"), [(9, lambda k: k["lr"]), (24, lambda k: 0.5)])
def test_nothing_is_said_of_few_trials_or_of_equal_scores(count, score):
    assert judged(score, count) is None


def test_importances_do_not_change_from_call_to_call():
    first, second = (importance(record_of()) for _ in range(2))
    np.testing.assert_array_equal(first.shares, second.shares)
    np.testing.assert_array_equal(first.spreads, second.spreads)
    assert first.pairs == second.pairs
