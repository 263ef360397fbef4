"""A random choice of a dataset's classes, as the paper searches on 200 of ImageNet's."""

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


def places_of(labels: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which of the classes each label is, and which labels are none of them.

    Args:
      labels: `int64[N]`, as stored.
      classes: `int64[L]`, ascending.

    Returns:
      `int32[N]` in `range(L)`, and `int64[...]`, the places in `labels` where they mean nothing.
    """
    places = np.minimum(np.searchsorted(classes, labels), len(classes) - 1)
    return places.astype(np.int32), np.flatnonzero(classes[places] != labels)
