"""Trainings that start from given weights, with rates of their own for the parts of a network."""

import dataclasses

import jax
import numpy as np
import pytest
from recipes import PLAIN

from jointnas_jax.config import TrainConfig
from jointnas_jax.data.augment import Augmentation
from jointnas_jax.nets.inherit import inherit
from jointnas_jax.nets.init import initial_variables
from jointnas_jax.space import Candidate, Head, Stage
from jointnas_jax.train.feed import Feed
from jointnas_jax.train.program import Initial, TrainProgram


@pytest.fixture(scope="module")
def trained(run):
    """Weights that know the three classes."""
    return run(dataclasses.replace(PLAIN, lr=0.1), epochs=12)


@pytest.fixture(scope="module")
def tuned(arch, trained, data, evaluation):
    """Fine-tunes them with some recipe."""
    program = TrainProgram(
        arch,
        TrainConfig(batch_size=16, fast_compile=True),
        augmentation=Augmentation(),
        devices=jax.devices()[:1],
        init=Initial(trained.variables, classes=True),
    )

    def train(epochs=1, **fields):
        candidate = Candidate(arch, dataclasses.replace(PLAIN, **fields))
        return program.train(
            [candidate], [jax.random.key(1)], Feed(data, evaluation), epochs=epochs
        )[0]

    return train


def changed(before, after):
    """Names of the parts whose weights changed."""
    return {
        name
        for name, part in before.variables["params"].items()
        if not jax.tree.all(jax.tree.map(np.array_equal, part, after.variables["params"][name]))
    }


def test_it_starts_where_the_other_training_ended(tuned, trained):
    assert tuned(lr=1e-6).accuracies[0] >= trained.accuracies[-1] - 0.1


def test_a_body_without_a_rate_stays_and_the_classifier_learns(tuned, trained):
    assert changed(trained, tuned(body_lr=0.0)) == {"classifier"}


def test_what_is_frozen_stays_from_the_images_on(tuned, trained):
    every = set(trained.variables["params"])
    assert changed(trained, tuned()) == every
    assert changed(trained, tuned(frozen=1.0)) <= {"classifier", "head_project"}
    half = changed(trained, tuned(frozen=0.5))
    assert {"stem", "stem_bn", "stage1_block0"}.isdisjoint(half)
    assert {"head_expand", "head_bn", "head_project", "classifier"} <= half


def test_a_slower_body_changes_less(tuned, trained):
    def distance(training):
        leaves = zip(
            jax.tree.leaves(trained.variables["params"]["stage1_block0"]),
            jax.tree.leaves(training.variables["params"]["stage1_block0"]),
            strict=True,
        )
        return sum(float(np.square(a - b).sum()) for a, b in leaves)

    assert distance(tuned(body_lr=0.01)) < 0.1 * distance(tuned(body_lr=1.0))


def test_the_same_network_inherits_everything_but_foreign_classes(arch, trained):
    initial = initial_variables(arch, jax.random.key(5))
    same = inherit(initial, trained.variables, classes=True)
    jax.tree.map(np.testing.assert_array_equal, same, trained.variables)
    other = inherit(initial, trained.variables, classes=False)
    np.testing.assert_array_equal(
        other["params"]["classifier"]["kernel"], initial["params"]["classifier"]["kernel"]
    )
    np.testing.assert_array_equal(other["params"]["stem"], trained.variables["params"]["stem"])


def test_other_widths_and_kernels_overlap(arch, trained):
    stages = (arch.stages[0], Stage(16, 3, 5, 5, 2, 2, se=True, activation="relu"))
    larger = dataclasses.replace(
        arch, stages=stages, head=Head(channels=24, expand=1), num_classes=5
    )
    initial = initial_variables(larger, jax.random.key(5))
    found = inherit(initial, trained.variables, classes=False)
    jax.tree.map(lambda a, b: np.testing.assert_equal(a.shape, b.shape), found, initial)
    ours = found["params"]["stage2_block0"]["depthwise"]["kernel"]
    theirs = trained.variables["params"]["stage2_block0"]["depthwise"]["kernel"]
    channels = theirs.shape[-1]
    np.testing.assert_array_equal(ours[1:4, 1:4, :channels], theirs)
    before = initial["params"]["stage2_block0"]["depthwise"]["kernel"]
    np.testing.assert_array_equal(ours[0], before[0])
    # A block that the other network has not.
    for a, b in zip(
        jax.tree.leaves(found["params"]["stage2_block2"]),
        jax.tree.leaves(initial["params"]["stage2_block2"]),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_grey_images_in_three_channels_look_the_same(arch, trained):
    colour = dataclasses.replace(arch, image_channels=3)
    found = inherit(initial_variables(colour, jax.random.key(5)), trained.variables, classes=True)
    stem, theirs = found["params"]["stem"], trained.variables["params"]["stem"]
    np.testing.assert_allclose(stem.sum(2), theirs[:, :, 0], rtol=1e-5, atol=1e-7)
