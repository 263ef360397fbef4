import dataclasses

import jax
import numpy as np
import pytest

from jointnas_jax.config import TrainConfig
from jointnas_jax.data.augment import Augmentation, plan_epoch
from jointnas_jax.data.source import Split
from jointnas_jax.errors import DataError, StorageError
from jointnas_jax.space import Candidate, Recipe
from jointnas_jax.train import feed
from jointnas_jax.train.feed import StreamedEvalData, StreamedTrainData
from jointnas_jax.train.program import TrainProgram

CONFIG = TrainConfig(batch_size=16, fast_compile=True)


@pytest.mark.parametrize("steps_at_once", [1, 3, 100])
def test_streamed_images_train_the_same_network(
    steps_at_once, monkeypatch, arch, images, data, evaluation, program
):
    monkeypatch.setattr(feed, "_CHUNK_BYTES", 8 * 8 * 16 * steps_at_once)
    monkeypatch.setattr(feed, "_EVAL_BATCH", 20)
    source, members = Split(*images), np.arange(96) < 64
    stats = jax.device_get(data.stats)
    streamed = TrainProgram(arch, CONFIG, Augmentation(), jax.devices()[:1], streamed=True)
    job = ([Candidate(arch, Recipe(mixup=0.2, dropout=0.1))], [jax.random.key(3)])
    own = streamed.train(
        *job,
        StreamedTrainData(source, members, stats),
        StreamedEvalData(source, np.flatnonzero(~members), stats),
        epochs=2,
    )[0]
    resident = program.train(*job, data, evaluation, epochs=2)[0]
    assert own.accuracies == resident.accuracies
    for a, b in zip(*map(jax.tree.leaves, (own.variables, resident.variables)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_parts_of_a_batch_make_up_the_whole(monkeypatch, images, data):
    """Of several processes, each of which streams one; the last batch has too few images."""
    monkeypatch.setattr(feed, "_EVAL_BATCH", 19)
    source, stats, members = Split(*images), jax.device_get(data.stats), np.arange(96) < 64
    plan = plan_epoch(members, np.float32(0), jax.random.key(0), Augmentation(), 16)
    plan = jax.tree.map(lambda drawn: np.asarray(drawn)[None], plan)
    train, held_out = [
        [read(part) for part in (feed.Part(0, 2, 4), feed.Part(1, 2, 4), feed.Part(0, 1, 4))]
        for read in (
            lambda part: list(StreamedTrainData(source, members, stats, part).chunks(plan)),
            lambda part: list(StreamedEvalData(source, np.arange(43), stats, part).batches),
        )
    ]
    for (first, second, whole), axis in ((train, 2), (held_out, 0)):
        for chunks in zip(first, second, whole, strict=True):
            for one, other, both in zip(*(chunk[:2] for chunk in chunks), strict=True):
                np.testing.assert_array_equal(np.concatenate([one, other], axis), both)
    assert [len(labels) for _, labels in held_out[2]] == [20, 20, 20]


def test_every_lane_gets_its_own_images(monkeypatch, arch, images, data, evaluation, program):
    monkeypatch.setattr(feed, "_CHUNK_BYTES", 8 * 8 * 16 * 2 * 2)
    stats = jax.device_get(data.stats)
    devices = jax.devices()[:2]
    streamed = TrainProgram(arch, CONFIG, Augmentation(), devices, streamed=True)
    source = StreamedTrainData(Split(*images), np.arange(96) < 64, stats)
    candidate = Candidate(arch, Recipe())
    keys = [jax.random.key(0), jax.random.key(1)]
    both = streamed.train([candidate] * 2, keys, source, evaluation_of(images, stats), 1)
    for key, training in zip(keys, both, strict=True):
        alone = program.train([candidate], [key], data, evaluation, 1)[0]
        for a, b in zip(*map(jax.tree.leaves, (training.variables, alone.variables)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def evaluation_of(images, stats):
    return StreamedEvalData(Split(*images), np.arange(64, 96), stats)


def test_a_lane_that_diverges_in_an_early_chunk_names_its_first_step(
    monkeypatch, arch, images, data
):
    monkeypatch.setattr(feed, "_CHUNK_BYTES", 8 * 8 * 16)
    stats = jax.device_get(data.stats)
    streamed = TrainProgram(arch, CONFIG, Augmentation(), jax.devices()[:1], streamed=True)
    source = StreamedTrainData(Split(*images), np.arange(96) < 64, stats)
    recipe = dataclasses.replace(Recipe(), lr=1e30)
    evaluation = evaluation_of(images, stats)
    training = streamed.train(
        [Candidate(arch, recipe)], [jax.random.key(0)], source, evaluation, 3
    )[0]
    assert training.variables is None
    assert 0 < training.failed_step < 4


def test_images_that_can_no_longer_be_read_are_no_candidates_fault(monkeypatch, arch, images, data):
    class Lost(Split):
        def read(self, indices):
            if np.size(indices) > 1:  # after the first look
                raise DataError("split `train` of `x`: an example in 0..9 cannot be decoded")
            return super().read(indices)

    stats = jax.device_get(data.stats)
    streamed = TrainProgram(arch, CONFIG, Augmentation(), jax.devices()[:1], streamed=True)
    source = StreamedTrainData(Lost(*images), np.arange(96) < 64, stats)
    job = ([Candidate(arch, Recipe())], [jax.random.key(0)])
    with pytest.raises(StorageError, match="cannot be decoded; .* the same command goes on"):
        streamed.train(*job, source, evaluation_of(images, stats), 1)
    with pytest.raises(StorageError, match="cannot be decoded"):
        list(StreamedEvalData(Lost(*images), np.arange(64, 96), stats).batches)


def test_what_reads_ahead_keeps_the_order_and_passes_errors_on():
    assert list(feed.ahead(lambda i: i * i, range(7))) == [i * i for i in range(7)]
    with pytest.raises(ZeroDivisionError):
        list(feed.ahead(lambda i: 1 // i, [2, 1, 0, 3]))
