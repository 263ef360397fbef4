"""A class counts in the loss by its weight."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recipes import PLAIN, flat

from jointnas_jax.config import TrainConfig
from jointnas_jax.data.augment import Augmentation
from jointnas_jax.data.division import balanced_weights
from jointnas_jax.space import Candidate
from jointnas_jax.train.feed import Feed
from jointnas_jax.train.program import TrainProgram


@pytest.fixture
def trained(arch, data, evaluation):
    """A training of two epochs with given weights."""

    def train(weights, epochs=2):
        program = TrainProgram(
            arch,
            TrainConfig(batch_size=16, fast_compile=True),
            augmentation=Augmentation(),
            devices=jax.devices()[:1],
            class_weights=weights,
        )
        candidates, keys = [Candidate(arch, PLAIN)], [jax.random.key(0)]
        return program.train(candidates, keys, Feed(data, evaluation), epochs=epochs)[0]

    return train


def test_weights_of_one_change_nothing(trained, run):
    np.testing.assert_array_equal(flat(trained(np.ones(3, np.float32))), flat(run(PLAIN)))


def test_a_class_without_weight_is_not_learnt(trained):
    answers = trained(np.float32([1.5, 1.5, 0.0]), epochs=6).answers[0]
    assert (answers == 2).sum() == 0
    assert set(answers.tolist()) == {0, 1}


@given(st.lists(st.integers(0, 50), min_size=2, max_size=9).filter(any))
def test_balanced_classes_have_the_same_sum_of_weights(sizes):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    weights = balanced_weights(labels, len(sizes))
    sums = [w * n for w, n in zip(weights, sizes, strict=True) if n]
    np.testing.assert_allclose(sums, len(labels) / len(sums), rtol=1e-5)
    assert (weights[np.array(sizes) == 0] == 1).all()
