"""What is worked out from trials alone is what the study itself says."""

import dataclasses

import numpy as np
import pytest
from records import record_of

from jointnas_jax.report.accuracy_figures import front
from jointnas_jax.report.words import amount, points, seconds, spread


def test_all_candidates_count_at_the_epoch_of_the_early_stop_rule():
    record = record_of()
    assert record.epochs == 6
    trial, score = record.scored("coarse")[0]
    assert score == trial["accuracies"][5] < trial["score"]


def test_an_unfinished_study_applies_the_rule_itself_once_round_1_is_stored():
    record = record_of(finished=False)
    assert record.stop["by_epoch"][-1] == pytest.approx(1)
    assert record.stop["epochs"] == 1  # the curves of all candidates have one shape
    begun = dataclasses.replace(record, trials=record.trials[:7])
    assert begun.stop is None
    assert begun.epochs == 10


def test_rounds_are_counted_from_trials():
    record = record_of(fails=lambda number: number == 9)
    first, second, third = record.rounds
    assert [summary.trained for summary in record.rounds] == [8, 8, 8]
    assert [summary.failed for summary in record.rounds] == [0, 1, 0]
    assert (first.ranked, second.ranked, third.ranked) == (0, 7, 8)
    assert np.isnan(first.spearman)
    assert second.spearman > 0.5
    assert first.best == max(s for t, s in record.scored("coarse") if t["round"] == 1)


def test_the_front_has_no_candidate_with_a_better_and_cheaper_one():
    record = record_of()
    found = front(record)
    everything = [(t["costs"]["flops"], s) for t, s in record.scored("coarse", "random")]
    for flops, score in everything:
        better = [(f, s) for f, s in everything if f <= flops and s > score]
        equal = (flops, score) in found
        assert equal is (not better)


def test_the_found_candidate_takes_what_is_fixed_from_the_default_one():
    record = record_of("arch", finished=False)
    assert record.leader.recipe == record.default.recipe
    assert record.leader.arch != record.default.arch


def test_a_network_in_a_file_is_not_drawn_before_the_end():
    record = record_of("recipe", finished=False)
    assert [name for name, _ in record.archs] == ["found"]
    fixed = dataclasses.replace(record.config, arch_file="network.json")
    assert dataclasses.replace(record, config=fixed).archs == []


def test_numbers_have_three_digits_and_a_unit():
    plain = lambda text: text.replace("\N{NO-BREAK SPACE}", " ")
    assert [plain(amount(n)) for n in (7, 999, 999_600, 80_000, 9_248, 1_234_567, 4.5e9)] == [
        *("7", "999", "1 M", "80 K", "9.25 K", "1.23 M", "4.5 G")
    ]
    assert [plain(seconds(s)) for s in (0.42, 59.4, 320, 11_520)] == [
        *("0.4 s", "59 s", "5 min 20 s", "3 h 12 min")
    ]
    assert plain(points(-0.0046)) == "\N{MINUS SIGN}0.46 points"
    assert spread(dict(seeds=[], mean=None, std=None)) == "not measured"
    assert spread(dict(seeds=[None], mean=None, std=None)) == "failed"
