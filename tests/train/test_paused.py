"""A training that pauses and goes on is the training that never paused."""

import dataclasses

import jax
import numpy as np
import pytest
from envelopes import envelope_of_space
from hypothesis import given, settings
from hypothesis import strategies as st
from recipes import PLAIN, flat

from jointnas_jax.config import TrainConfig
from jointnas_jax.data.augment import Augmentation
from jointnas_jax.nets.init import initial_variables, zero_variables
from jointnas_jax.space import Candidate, JointSpace
from jointnas_jax.train.feed import Feed
from jointnas_jax.train.paused import to_arrays, to_state
from jointnas_jax.train.program import TrainProgram
from jointnas_jax.train.step import init_state

RECIPES = [
    dataclasses.replace(PLAIN, lr_end=0.3, warmup=0.4, mixup=0.3, weight_decay=1e-3),
    dataclasses.replace(PLAIN, optimizer="rmsprop", ema=True, dropout=0.3, stochastic_depth=0.2),
]
SPACE = dict(
    resolution=8,
    stem=dict(channels=[8, 16], stride=2),
    stages=(
        dict(kernel=[3], expand=[1, 2], channels=[8, 16], depth=(1, 2)),
        dict(
            kernel=[3, 5],
            expand=[1, 2],
            channels=[8, 16],
            depth=(1, 3),
            stride=2,
            activation="relu",
            se=[False, True],
        ),
    ),
    head=dict(channels=[16, 32], expand=1),
)


@pytest.fixture(scope="module")
def envelope(arch):
    """An envelope that holds the architecture of `conftest.py` and larger ones."""
    space = JointSpace.from_config(SPACE | {"recipe": {}}, image_channels=1, num_classes=3)
    envelope = envelope_of_space(space, arch)
    assert envelope.holds(arch)
    return envelope


@pytest.fixture(scope="module")
def larger(envelope):
    """The program of the envelope, two lanes wide."""
    config = TrainConfig(batch_size=16, fast_compile=True)
    return TrainProgram(
        envelope,
        config,
        augmentation=Augmentation(),
        devices=jax.devices()[:1],
        lanes_per_device=2,
    )


@pytest.mark.parametrize("recipe", RECIPES)
def test_it_ends_with_the_same_bits(run, recipe):
    whole = run(recipe, epochs=5)
    part = run(recipe, epochs=2, full_epochs=5, pauses=True)
    rest = run(recipe, epochs=5, resumed=[part.paused])
    assert part.metrics[:1] + rest.metrics == whole.metrics[:1] + whole.metrics[2:]
    np.testing.assert_array_equal(flat(rest), flat(whole))


def test_it_goes_on_in_an_envelope_and_out_of_it(arch, run, larger, data, evaluation):
    recipe, key, feed = RECIPES[1], jax.random.key(0), Feed(data, evaluation)
    whole = run(recipe, epochs=4)
    # Beside a lane with another recipe, from which nothing leaks.
    two = [Candidate(arch, recipe), Candidate(arch, RECIPES[0])]
    states = [run(r, epochs=1, full_epochs=4, pauses=True).paused for r in (recipe, RECIPES[0])]
    inside = larger.train(
        two, [key] * 2, feed, epochs=3, full_epochs=4, resumed=states, pauses=True
    )
    rest = run(recipe, epochs=4, resumed=[inside[0].paused])
    np.testing.assert_allclose(flat(rest), flat(whole), atol=2e-4)


def test_a_pause_is_judged_by_averaged_weights(run):
    """Averaging does what the decay of the rate does later."""
    averaged = run(RECIPES[0], epochs=3, weights=("trained", "averaged")).curves["averaged"]
    part = run(RECIPES[0], epochs=3, pauses=True)
    assert part.metrics[-1] == averaged[-1]
    assert part.metrics[:-1] == run(RECIPES[0], epochs=3).metrics[:-1]


def test_a_failure_cannot_go_on(run):
    recipe = dataclasses.replace(PLAIN, lr=1e18, sgd_lr_scale=1e18)
    assert run(recipe, epochs=2, full_epochs=4, pauses=True).paused is None


@settings(max_examples=10)
@given(st.integers(0, 2**31 - 1))
def test_a_state_comes_out_of_an_envelope_as_it_went_in(arch, envelope, seed):
    rng = np.random.default_rng(seed)
    state = init_state(initial_variables(arch, jax.random.key(seed)))
    state = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), state)
    padded, own = zero_variables(envelope), zero_variables(arch)
    back = to_arrays(to_state(to_arrays(state, own, own), padded, own), padded, own)
    back = to_state(back, own, own)
    jax.tree.map(np.testing.assert_array_equal, back, state)
