"""From scores to the accuracy that people read."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jointnas_jax.strategy.accuracy_scale import AccuracyScale

FRACTIONS = st.integers(0, 1000).map(lambda n: n / 1000)


@given(st.lists(st.tuples(FRACTIONS, FRACTIONS), max_size=12), FRACTIONS, FRACTIONS)
def test_it_never_falls_and_stays_a_fraction(pairs, one, other):
    scale = AccuracyScale.fit([s for s, _ in pairs], [a for _, a in pairs])
    low, high = scale.accuracy(min(one, other)), scale.accuracy(max(one, other))
    assert 0 <= low <= high <= 1
    assert scale.deviation(0.1) >= 0


def test_a_fifth_of_odd_trainings_does_not_bend_it():
    rng = np.random.default_rng(0)
    scores = rng.uniform(0.8, 0.95, 40)
    accuracies = 2 * scores - 1 + rng.normal(0, 0.005, 40)
    accuracies[:8] -= 0.3
    scale = AccuracyScale.fit(scores, accuracies)
    assert scale.accuracy(0.9) == pytest.approx(0.8, abs=0.01)
    assert scale.spread == pytest.approx(0.005, abs=0.004)


def test_accuracy_itself_stays_what_it_is():
    assert AccuracyScale.fit([0.1, 0.5, 0.7], [0.1, 0.5, 0.7]) == (1.0, 0.0, 0.0)
    assert AccuracyScale.fit([0.5], [0.9]).accuracy(0.5) == 0.5
