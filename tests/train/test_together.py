"""Devices that share the batches of one candidate, its state on disk, its teacher, its dtype."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recipes import flat

from jointnas_jax.config import TrainConfig
from jointnas_jax.data.augment import Augmentation
from jointnas_jax.data.source import Split
from jointnas_jax.nets.init import initial_variables
from jointnas_jax.nets.network import Network
from jointnas_jax.space import Candidate, Recipe
from jointnas_jax.train.checkpoints import Checkpoints
from jointnas_jax.train.feed import Feed, StreamedEvalData, StreamedTrainData
from jointnas_jax.train.parallel import replicate
from jointnas_jax.train.program import TrainProgram
from jointnas_jax.train.step import Teacher

CONFIG = TrainConfig(batch_size=16, fast_compile=True)
RECIPE = Recipe(lr=0.02, mixup=0.2, dropout=0.1, stochastic_depth=0.2)


def make(arch, config=CONFIG, devices=1, **settings):
    used = jax.devices()[:devices]
    return TrainProgram(arch, config, augmentation=Augmentation(), devices=used, **settings)


@pytest.fixture
def feed(data, evaluation):
    return Feed(data, evaluation)


@pytest.fixture(scope="module", params=[2, 4])
def shared(request, arch, data, evaluation):
    """A program of several devices, and the data on them."""
    images = jax.device_get(Feed(data, evaluation))
    program = make(arch, devices=request.param, together=True)
    return program, replicate(images, jax.devices()[: request.param])


def train(program, arch, feed, *, epochs=2, recipe=RECIPE, **settings):
    candidates, keys = [Candidate(arch, recipe)], [jax.random.key(3)]
    return program.train(candidates, keys, feed, epochs=epochs, **settings)[0]


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop"])
def test_many_devices_train_the_network_of_one(shared, program, arch, feed, optimizer):
    recipe = dataclasses.replace(RECIPE, optimizer=optimizer, lr=0.005)
    several, their_feed = shared
    many = train(several, arch, their_feed, recipe=recipe)
    one = train(program, arch, feed, recipe=recipe)
    # BN statistics, too, are those of the whole batch.
    np.testing.assert_allclose(flat(many), flat(one), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(many.accuracies, one.accuracies, atol=0.07)


def test_images_that_are_streamed_are_shared_out(arch, images, data, program, feed):
    stats, members = jax.device_get(data.stats), np.arange(96) < 64
    streamed = Feed(
        StreamedTrainData(Split(*images), members, stats),
        StreamedEvalData(Split(*images), np.flatnonzero(~members), stats),
    )
    many = train(make(arch, devices=2, streamed=True, together=True), arch, streamed)
    one = train(program, arch, feed)
    np.testing.assert_allclose(flat(many), flat(one), rtol=1e-3, atol=1e-4)


def test_a_diverging_training_fails_at_a_step(shared, arch):
    program, feed = shared
    recipe = dataclasses.replace(RECIPE, lr=1e30)
    assert train(program, arch, feed, recipe=recipe).failed_step > 0


class _Stop(Exception):
    pass


def test_an_interrupted_training_goes_on_to_the_same_bits(tmp_path, program, arch, feed):
    def interrupt(epoch, loss):
        assert np.isfinite(loss)
        if epoch == 3:
            raise _Stop

    whole = train(program, arch, feed, epochs=4)
    with pytest.raises(_Stop):
        _with_state(tmp_path, program, arch, feed, progress=interrupt)
    epochs = []
    count = lambda epoch, loss: epochs.append(epoch)
    resumed = _with_state(tmp_path, program, arch, feed, progress=count)
    assert epochs == [3, 4]
    assert resumed.accuracies == whole.accuracies
    np.testing.assert_array_equal(flat(resumed), flat(whole))


def _with_state(folder, program, arch, feed, *, progress):
    state = Checkpoints(folder, seconds=0)
    return train(program, arch, feed, epochs=4, checkpoints=state, progress=progress)


def test_a_network_learns_the_answers_of_its_teacher(arch, data, feed):
    """Without labels in the loss; the teacher calls every class by the next one's name."""
    variables = initial_variables(arch, jax.random.key(0))
    bias = variables["params"]["classifier"]["bias"]
    bias += np.float32([0.0, 20.0, 0.0])
    teacher = Teacher(variables, jax.device_get(data.stats), Network(arch), share=1.0)
    program = make(arch, teacher=teacher)
    # On the device for good, so that no call sends it there.
    assert all(leaf.devices() == {jax.devices()[0]} for leaf in jax.tree.leaves(program._teacher))
    taught = train(program, arch, feed, epochs=3, recipe=Recipe(lr=0.02, ema=False))
    stats = jax.device_get(data.stats)
    images = (jax.device_get(data.images)[:30] - stats.mean) / stats.std
    logits = Network(arch).apply(taught.variables, jnp.float32(images))
    assert (logits.argmax(-1) == 1).mean() > 0.9


def test_share_0_of_a_teacher_is_no_teacher(program, arch, data, feed):
    variables = initial_variables(arch, jax.random.key(0))
    teacher = Teacher(variables, jax.device_get(data.stats), Network(arch), share=0.0)
    a, b = (train(p, arch, feed, epochs=1) for p in (make(arch, teacher=teacher), program))
    np.testing.assert_allclose(flat(a), flat(b), rtol=1e-3, atol=1e-5)


def test_bfloat16_trains_about_the_same_network(program, arch, feed):
    half = make(arch, dataclasses.replace(CONFIG, dtype="bfloat16"))
    recipe = Recipe(lr=0.01, ema=False)
    a, b = (train(p, arch, feed, epochs=6, recipe=recipe) for p in (half, program))
    assert a.accuracies[-1] > 0.6
    scale = np.abs(flat(b)).max()
    difference = np.abs(flat(a) - flat(b)).max()
    assert 0 < difference < 0.2 * scale
    assert flat(a).dtype == np.float32
