import math

import numpy as np
import pytest

from jointnas_jax.strategy.report_card import ReportCard, cross_validate

SCORES = np.random.default_rng(0).normal(size=40)


def _card(mean, spread=1.0, noise=0.0, scores=SCORES):
    return cross_validate(scores, lambda rest: (mean, np.full(len(scores), spread)), noise)


def test_no_trial_is_predicted_from_itself():
    folds = []

    def predict(rest):
        folds.append(set(range(40)) - set(rest.tolist()))
        return np.where(np.isin(np.arange(40), rest), SCORES, -SCORES), np.ones(40)

    card = cross_validate(SCORES, predict, 0.0)
    assert sorted(i for fold in folds for i in fold) == list(range(40))
    assert card.kendall == pytest.approx(-1.0)


def test_marks_of_a_perfect_predictor():
    card = _card(SCORES, spread=0.1)
    assert card[:5] == (40, pytest.approx(1.0), pytest.approx(1.0), 1.0, 0.0)
    assert card.verdict() == "the predictor ranks candidates well"


def test_regret_is_what_the_best_of_the_top_three_lacks():
    order = np.argsort(-SCORES)
    mean = SCORES.copy()
    mean[order[:2]] = -10.0
    assert _card(mean).regret == pytest.approx(SCORES[order[0]] - SCORES[order[2]])


@pytest.mark.parametrize(
    ("spread", "noise", "low", "high"),
    [(1.0, 0.0, 0.8, 1.0), (0.1, 0.0, 0.0, 0.3), (0.1, 1.0, 0.8, 1)],
)
def test_coverage_counts_spread_and_noise(spread, noise, low, high):
    assert low <= _card(np.zeros(40), spread, noise).coverage <= high


def test_chance_is_not_trusted():
    shuffled = np.random.default_rng(1).permutation(SCORES)
    assert _card(shuffled).verdict().startswith("do not trust the predictor yet")
    assert _card(np.zeros(40)).verdict().startswith("too few")  # a constant ranks nothing


def test_a_predictor_that_is_too_sure_is_told_so():
    near = SCORES + 0.3 * np.random.default_rng(1).normal(size=40)
    assert "too sure" in _card(near, spread=0.01).verdict()
    assert "too sure" not in _card(near, spread=0.3).verdict()


def test_two_trials_are_too_few():
    card = _card(np.zeros(2), scores=SCORES[:2])
    assert math.isnan(card.kendall)
    assert card.verdict().startswith("too few trials")


def test_more_trials_make_a_weak_relation_certain():
    weak = lambda n: ReportCard(n, 0.3, 0.4, 0.9, 0.0, 0.0).verdict()
    assert "could be chance" in weak(10)
    assert "roughly" in weak(100)
