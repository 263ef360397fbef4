"""Metrics of an evaluation equal scikit-learn's, however the images are cut into batches."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from jointnas_jax.train.metrics import Metrics, answers_of, confusion, right_answers, sums_of


def drawn(seed, images, classes):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (images, classes)).astype(np.float32)
    return logits, rng.integers(0, classes, images).astype(np.int32)


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 2**31 - 1), st.integers(2, 40), st.sampled_from([2, 5, 9]))
def test_they_equal_those_of_scikit_learn(seed, images, classes):
    logits, labels = drawn(seed, images, classes)
    found = Metrics.of(np.asarray(sums_of(logits, labels), np.float64))
    exact = np.exp(logits.astype(float))
    probabilities, names = exact / exact.sum(1, keepdims=True), np.arange(classes)
    top = np.argsort(-probabilities, axis=1)[:, :5]
    recalls = [(logits.argmax(1) == labels)[labels == c].mean() for c in np.unique(labels)]
    assert found.accuracy == reference.accuracy_score(labels, logits.argmax(1))
    assert found.balanced_accuracy == pytest.approx(np.mean(recalls))
    assert found.top5 == pytest.approx((top == labels[:, None]).any(1).mean())
    assert found.log_loss == pytest.approx(
        reference.log_loss(labels, probabilities, labels=names), rel=1e-4
    )
    one_hot = np.eye(classes)[labels]
    assert found.brier == pytest.approx(
        np.square(probabilities - one_hot).sum(1).mean(), rel=1e-4, abs=1e-6
    )


def test_batches_and_padding_change_nothing():
    logits, labels = drawn(0, 10, 4)
    whole = Metrics.of(np.asarray(sums_of(logits, labels), np.float64))
    padded = np.concatenate([logits, np.full((2, 4), 7, np.float32)])
    names = np.concatenate([labels, [-1, -1]]).astype(np.int32)
    parts = [np.asarray(sums_of(padded[i : i + 6], names[i : i + 6]), float) for i in (0, 6)]
    cut = Metrics.of(np.sum(parts, 0))
    for name in ("accuracy", "balanced_accuracy", "top5", "log_loss", "brier"):
        assert getattr(cut, name) == pytest.approx(getattr(whole, name), rel=1e-6)


@pytest.mark.parametrize("name", ["brier", "log_loss", "accuracy"])
def test_a_score_is_better_where_the_right_class_is_more_probable(name):
    labels = np.array([0, 1, 2], np.int32)
    sure, unsure, wrong = (
        Metrics.of(np.asarray(sums_of(scale * np.eye(3, dtype=np.float32), labels), float))
        for scale in (9.0, 1.0, -1.0)
    )
    assert 0 <= wrong.score(name) < unsure.score(name) <= sure.score(name) <= 1
    assert (unsure.score(name) < sure.score(name)) == (name != "accuracy")


def test_logits_that_are_not_finite_make_finite_metrics_of_a_bad_score():
    """Weights may be finite and overflow on new images; what is measured must still be stored."""
    logits = np.array([[np.inf, 0, 0], [np.nan] * 3, [3e38, -3e38, 0]], np.float32)
    found = Metrics.of(np.asarray(sums_of(logits, np.array([1, 2, 1], np.int32)), float))
    assert np.isfinite([found.log_loss, found.brier, found.balanced_accuracy]).all()
    assert (found.accuracy, found.top5) == (0, 0)
    assert found.score("log_loss") < 1e-6
    assert found.score("brier") < 0.5


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 2**31 - 1), st.sampled_from([0.7, 1.4, 2.0]))
def test_how_sure_a_network_is_of_all_its_answers_changes_no_score(seed, factor):
    """Networks that differ by a temperature have the same accuracy, and the same scores."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, 300).astype(np.int32)
    logits = (rng.normal(0, 1, (300, 4)) + 1.4 * np.eye(4)[labels]).astype(np.float32)
    plain, scaled = (
        Metrics.of(np.asarray(sums_of(values, labels), float))
        for values in (logits, factor * logits)
    )
    assert plain.accuracy == scaled.accuracy
    for name in ("brier", "log_loss"):
        assert plain.score(name) == pytest.approx(scaled.score(name), abs=0.02)
        assert getattr(plain, f"calibrated_{name}") <= getattr(plain, name) + 0.02
    assert plain.calibrated_log_loss <= plain.log_loss


def test_each_class_counts_alike_in_a_balanced_score():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [200, 20, 5]).astype(np.int32)
    logits = (rng.normal(0, 1, (225, 3)) + 2 * np.eye(3)[labels] * [2, 1, 0]).astype(np.float32)
    whole = Metrics.of(np.asarray(sums_of(logits, labels), float))
    repeated = np.concatenate(
        [np.flatnonzero(labels == c).repeat(200 // n) for c, n in ((0, 200), (1, 20), (2, 5))]
    )
    equal = Metrics.of(np.asarray(sums_of(logits[repeated], labels[repeated]), float))
    assert whole.balanced_accuracy == pytest.approx(equal.accuracy)
    assert whole.balanced_accuracy < whole.accuracy
    assert whole.score("accuracy", "balanced_accuracy") == whole.balanced_accuracy
    assert whole.score("accuracy", "top5") == whole.top5 == 1
    assert whole.score("brier", "balanced_accuracy") == pytest.approx(
        equal.score("brier"), abs=0.05
    )
    assert whole.score("brier", "balanced_accuracy") < whole.score("brier")


def test_answers_are_the_likeliest_class_and_the_rank_of_the_right_one():
    logits = np.array([[1, 3, 2], [5, 1, 2], [0, np.nan, 1]], np.float32)
    answers = np.asarray(answers_of(logits, np.array([2, 0, 1], np.int32)))
    assert answers[0, :2].tolist() == [1, 0]
    assert answers[1].tolist() == [1, 0, 3]


def test_right_answers_agree_with_the_metrics():
    logits, labels = drawn(1, 50, 9)
    answers = np.asarray(answers_of(logits, labels))
    whole = Metrics.of(np.asarray(sums_of(logits, labels), np.float64))
    for metric in ("accuracy", "top5"):
        share = right_answers(answers, labels, metric).mean()
        assert share == pytest.approx(getattr(whole, metric))


def test_confusions_count_every_answer_once():
    labels = np.array([0, 1, 1, 2])
    answers = [np.array([[0, 1, 0, 2], [0, 0, 1, 0]]), np.array([[1, 1, 1, 2], [1, 0, 0, 0]])]
    counts = confusion(answers, labels, 3)
    assert counts.tolist() == [[1, 1, 0], [1, 3, 0], [0, 0, 2]]
