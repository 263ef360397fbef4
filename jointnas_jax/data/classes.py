"""A random choice of a dataset's classes: the paper searches on 200 of ImageNet."""

import numpy as np

from jointnas_jax.errors import DataError


def choose_classes(num_classes: int, count: int, seed: int) -> tuple[int, ...]:
    """Draws `count` of the labels 0 to `num_classes - 1`, in order; raises `DataError`."""
    if not 2 <= count <= num_classes:
        raise DataError(
            f"`config.data.classes` must be 0 or from 2 to the {num_classes} classes of the "
            f"dataset, got {count}"
        )
    drawn = np.random.default_rng(seed).permutation(num_classes)[:count]
    return tuple(sorted(drawn.tolist()))


def renumbered(labels: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers stored labels `int64[N]` by their positions in ascending classes `int64[L]`.

    Returns:
      `int32[N]` in `range(L)`, and `int64[...]`, the positions in `labels` of other classes.
    """
    numbers = np.minimum(np.searchsorted(classes, labels), len(classes) - 1)
    return numbers.astype(np.int32), np.flatnonzero(classes[numbers] != labels)
