"""Resampled accuracies vary as repeated measurements would."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jointnas_jax.strategy.paired import interval, resample


def drawn(seed, seeds, images, accuracy=0.8):
    return np.random.default_rng(seed).random((seeds, images)) < accuracy


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 4), st.integers(2, 60))
def test_they_are_around_what_was_measured_and_equal_for_equal_networks(seed, seeds, images):
    right = drawn(seed, seeds, images)
    found = resample([right, right, ~right])
    np.testing.assert_array_equal(found[:, 0], found[:, 1])
    np.testing.assert_allclose(found[:, 0] + found[:, 2], 1)
    assert abs(found[:, 0].mean() - right.mean()) < 5 * found[:, 0].std() / np.sqrt(2000) + 1e-9


def test_the_deviation_is_that_of_images_and_of_seeds():
    few = resample([drawn(0, 1, 100)])[:, 0]
    assert few.std() == pytest.approx(0.04, rel=0.2)  # sqrt(.8 * .2 / 100)
    # Trainings that differ in all images: three of them, of which two are drawn.
    seeds = np.repeat([[True], [True], [False]], 500, axis=1)
    whole = resample([seeds])[:, 0]
    assert whole.std() == pytest.approx(np.std([1, 1, 0], ddof=1) / np.sqrt(3), rel=0.05)


def test_classes_count_alike():
    labels = np.repeat([0, 1], [90, 10])
    right = (labels == 0)[None]
    assert resample([right], labels)[:, 0].tolist() == [0.5] * 2000
    assert resample([right])[:, 0].mean() == pytest.approx(0.9, abs=0.01)


def test_many_images_come_in_blocks():
    assert resample([drawn(0, 2, 30_000)]).shape == (2000, 1)


def test_an_interval_holds_95_percent():
    low, high = interval(np.arange(1000.0))
    assert (low, high) == (25, 974)
    assert interval(np.array([0.0, np.inf] * 50)) == (0.0, np.inf)
