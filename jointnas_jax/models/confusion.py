"""Which classes a trained network takes for which others."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jointnas_jax.data.source import Images
from jointnas_jax.models.model import Model

_BATCH = 256


def confusion(models: Sequence[Model], images: Images) -> np.ndarray:
    """Counts the answers of trainings of one network.

    Args:
      models: at least one; they differ in their weights alone.
      images: N images as stored in the dataset.

    Returns:
      `int64[L, L]`: images of each class (row) that were taken for each class (column), over all
      trainings. All rows sum up to `N * len(models)`.
    """
    model, count = models[0], len(models[0].labels)

    @jax.jit
    def answers(variables: Any, batch: jax.Array) -> jax.Array:
        logits: Any = model.module.apply(variables, model.preprocess(batch))
        return logits.argmax(-1)

    counts = np.zeros((count, count), np.int64)
    for start in range(0, len(images), _BATCH):
        # The last batch is filled up, for one compiled shape.
        rows = np.minimum(np.arange(start, start + _BATCH), len(images) - 1)
        pixels, labels = images.read(rows)
        real = min(_BATCH, len(images) - start)
        for one in models:
            answered = np.asarray(answers(one.variables, pixels))
            np.add.at(counts, (labels[:real], answered[:real]), 1)
    return counts
