"""Reliability is the correlation that two trainings of all candidates would have."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jointnas_jax.strategy.reliability import Reliability, in_words


@settings(max_examples=20)
@given(st.integers(0, 2**31 - 1), st.floats(0.2, 2.0))
def test_it_is_the_correlation_of_two_trainings(seed, noise):
    rng = np.random.default_rng(seed)
    truth, of_seeds = rng.normal(0, 1, (4000, 1)), rng.normal(0, 3, 3)
    scores = truth + of_seeds + rng.normal(0, noise, (4000, 3))
    found = Reliability.of(scores[:2000], scores[:, 0])
    assert found.noise == pytest.approx(noise, rel=0.1)
    assert found.correlation == pytest.approx(
        np.corrcoef(scores[:, 0], scores[:, 1])[0, 1], abs=0.1
    )


def test_so_many_trainings_as_it_says_are_enough():
    rng = np.random.default_rng(0)
    truth = rng.normal(0, 1, (20000, 1))
    found = Reliability.of(
        (truth + rng.normal(0, 1, (20000, 3)))[:5000], (truth + rng.normal(0, 1, (20000, 1)))[:, 0]
    )
    assert found.trainings in (9, 10)  # 9 at a correlation of 0.5
    means = [(truth + rng.normal(0, 1, (20000, found.trainings))).mean(1) for _ in range(2)]
    assert np.corrcoef(*means)[0, 1] == pytest.approx(0.9, abs=0.015)


@pytest.mark.parametrize(
    ("repeated", "candidates"),
    [([], [0.1, 0.2, 0.3]), ([[0.1, 0.2]] * 2, [0.1, 0.2, 0.3]), ([[0.1, 0.2]] * 6, [0.1])],
)
def test_too_few_trainings_say_nothing(repeated, candidates):
    found = Reliability.of(repeated, candidates)
    assert set(found) == {None}
    assert "too few" in in_words(found._asdict())


def test_candidates_that_are_alike_cannot_be_ranked():
    rng = np.random.default_rng(0)
    found = Reliability.of(rng.normal(0, 1, (40, 3)), np.linspace(0, 0.1, 40))
    assert (found.correlation, found.trainings) == (0, None)
    assert in_words(found._asdict()).endswith("is noise")
    sure = Reliability.of(np.arange(12.0).reshape(4, 3), np.arange(9.0))
    assert sure.trainings == 1
    assert "would have" not in in_words(sure._asdict())
