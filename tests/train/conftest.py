import jax
import numpy as np
import pytest

from jointnas_jax.config import TrainConfig
from jointnas_jax.data.augment import Augmentation
from jointnas_jax.space import ArchSpec, Candidate, Head, Recipe, Stage, Stem
from jointnas_jax.train.feed import EvalData, Feed, TrainData
from jointnas_jax.train.parallel import replicate
from jointnas_jax.train.program import TrainProgram
from jointnas_jax.train.step import PixelStats


@pytest.fixture(scope="session")
def arch() -> ArchSpec:
    """Three blocks, two of them residual, one with SE."""
    stages = (Stage(8, 1, 3, 3, 1, 1), Stage(8, 2, 3, 3, 2, 2, se=True, activation="relu"))
    return ArchSpec(8, 1, 3, Stem(8, stride=2), stages, Head(channels=16, expand=1))


@pytest.fixture(scope="session")
def images() -> tuple[np.ndarray, np.ndarray]:
    """Three classes that differ by where they are bright, with noise: easy, but not at once."""
    rng = np.random.default_rng(0)
    labels = np.arange(96, dtype=np.int32) % 3
    images = rng.integers(0, 120, (96, 8, 8, 1))
    for i, label in enumerate(labels):
        images[i, 2 * label : 2 * label + 3] += 100
    return images.astype(np.uint8), labels


@pytest.fixture(scope="session")
def data(images) -> TrainData:
    pixels, labels = images
    stats = PixelStats(np.float32([pixels.mean()]), np.float32([pixels.std()]))
    members = np.arange(96) < 64
    data = TrainData(images=pixels, labels=labels, members=members, stats=stats)
    return replicate(data, jax.devices()[:1])


@pytest.fixture(scope="session")
def evaluation(images, data) -> EvalData:
    held_out = EvalData.of(
        images[0][64:], images[1][64:], jax.device_get(data.stats), batch_size=20
    )
    return replicate(held_out, jax.devices()[:1])


@pytest.fixture(scope="session")
def program(arch) -> TrainProgram:
    config = TrainConfig(batch_size=16, fast_compile=True)
    return TrainProgram(arch, config, augmentation=Augmentation(), devices=jax.devices()[:1])


@pytest.fixture(scope="session")
def run(arch, program, data, evaluation):
    """Trains a recipe for some epochs from the same start; returns the `Training`."""

    def train(recipe: Recipe, epochs: int = 2, seed: int = 0, **settings):
        candidates, keys = [Candidate(arch, recipe)], [jax.random.key(seed)]
        feed = Feed(data, evaluation)
        return program.train(candidates, keys, feed, epochs=epochs, **settings)[0]

    return train
