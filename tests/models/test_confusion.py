"""Confusions count every answer once."""

import jax
import numpy as np
import pytest

from jointnas_jax.data.source import Split
from jointnas_jax.models.confusion import confusion
from jointnas_jax.models.model import Model
from jointnas_jax.nets.init import initial_variables
from jointnas_jax.space import ArchSpec, Head, Stage, Stem

ARCH = ArchSpec(8, 1, 3, Stem(8), (Stage(8, 1, expand_first=1),), Head(16, expand=1))


@pytest.mark.parametrize("count", [1, 256, 300])
def test_they_are_those_of_the_answers(count):
    rng = np.random.default_rng(0)
    models = [
        Model(
            arch=ARCH,
            variables=initial_variables(ARCH, jax.random.key(seed)),
            mean=(120.0,),
            std=(60.0,),
            image_size=(8, 8),
            crop=None,
            labels=("a", "b", "c"),
        )
        for seed in range(2)
    ]
    images = rng.integers(0, 256, (count, 8, 8, 1), np.uint8)
    labels = rng.integers(0, 3, count).astype(np.int32)
    expected = np.zeros((3, 3), int)
    for model in models:
        for label, answer in zip(labels, model.logits(images).argmax(-1), strict=True):
            expected[label, answer] += 1
    np.testing.assert_array_equal(confusion(models, Split(images, labels)), expected)
