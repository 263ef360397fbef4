import functools

import jax
import numpy as np
import pytest

from jointnas_jax.config import TrainConfig
from jointnas_jax.data.augment import Augmentation, plan_epoch
from jointnas_jax.data.source import Split
from jointnas_jax.errors import DataError, StorageError
from jointnas_jax.space import Candidate, Recipe
from jointnas_jax.train import feed
from jointnas_jax.train.feed import Feed, StreamedEvalData, StreamedTrainData
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
    candidates = [Candidate(arch, Recipe(mixup=0.2, dropout=0.1))]
    keys = [jax.random.key(3)]
    from_disk = Feed(
        StreamedTrainData(source, members, stats),
        StreamedEvalData(source, np.flatnonzero(~members), stats),
    )
    streamed = make(arch).train(candidates, keys, from_disk, epochs=2)[0]
    resident = program.train(candidates, keys, Feed(data, evaluation), epochs=2)[0]
    assert streamed.accuracies == resident.accuracies
    # Programs of different lengths: XLA takes a loop of one step apart, and may round differently.
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, streamed.variables, resident.variables)


def test_parts_of_a_batch_make_up_the_whole(monkeypatch, images, data):
    """Of several processes, each of which streams one; the last batch has too few images."""
    monkeypatch.setattr(feed, "_EVAL_BATCH", 19)
    source, stats, members = Split(*images), jax.device_get(data.stats), np.arange(96) < 64
    plan = plan_epoch(
        members, np.float32(0), jax.random.key(0), augmentation=Augmentation(), batch_size=16
    )
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
    candidate = Candidate(arch, Recipe())
    keys = [jax.random.key(0), jax.random.key(1)]
    both = make(arch, devices=2).train(
        [candidate] * 2, keys, feed_of(Split(*images), stats), epochs=1
    )
    for key, training in zip(keys, both, strict=True):
        alone = program.train([candidate], [key], Feed(data, evaluation), epochs=1)[0]
        close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
        jax.tree.map(close, training.variables, alone.variables)


def make(arch, devices=1):
    used = jax.devices()[:devices]
    return TrainProgram(arch, CONFIG, augmentation=Augmentation(), devices=used, streamed=True)


def feed_of(split, stats):
    return Feed(
        StreamedTrainData(split, np.arange(96) < 64, stats),
        StreamedEvalData(split, np.arange(64, 96), stats),
    )


def test_a_lane_that_diverges_in_an_early_chunk_names_its_first_step(
    monkeypatch, arch, images, data
):
    monkeypatch.setattr(feed, "_CHUNK_BYTES", 8 * 8 * 16)
    stats = jax.device_get(data.stats)
    candidates, keys = [Candidate(arch, Recipe(lr=1e30))], [jax.random.key(0)]
    training = make(arch).train(candidates, keys, feed_of(Split(*images), stats), epochs=3)[0]
    assert training.variables is None
    assert 0 < training.failed_step < 4


def test_images_that_can_no_longer_be_read_are_no_candidates_fault(monkeypatch, arch, images, data):
    class Lost(Split):
        def read(self, indices):
            if np.size(indices) > 1:  # after the first look
                raise DataError("split `train` of `x`: an example in 0..9 cannot be decoded")
            return super().read(indices)

    stats = jax.device_get(data.stats)
    lost = feed_of(Lost(*images), stats)
    candidates, keys = [Candidate(arch, Recipe())], [jax.random.key(0)]
    with pytest.raises(StorageError, match="cannot be decoded; .* the same command goes on"):
        make(arch).train(candidates, keys, lost, epochs=1)
    with pytest.raises(StorageError, match="cannot be decoded"):
        list(lost.evaluation.batches)


def test_what_reads_ahead_keeps_the_order_and_passes_errors_on():
    assert list(feed.ahead(lambda i: i * i, range(7))) == [i * i for i in range(7)]
    with pytest.raises(ZeroDivisionError):
        list(feed.ahead(lambda i: 1 // i, [2, 1, 0, 3]))
