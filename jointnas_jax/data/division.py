"""The training split, divided by class into images to train on and to validate on."""

from collections.abc import Sequence

import numpy as np

from jointnas_jax.errors import DataError, shown

# Classes that a message names.
_NAMED = 5
# Of each class.
_TEST_SHARE, _TEST_SEED = 0.2, 0


def validation_count(count: int, fraction: float, images: int = 0) -> int:
    """Number of `count` training images to validate on: `images`; 0: that fraction of them."""
    return min(max(images or round(fraction * count), 1), count - 1)


def carve_validation(
    labels: np.ndarray, fraction: float, seed: int | Sequence[int], *, images: int = 0
) -> np.ndarray:
    """Draws the training images to validate on, as many as `validation_count` says.

    Each class has its share of them, by largest remainders. A class of two images or more keeps one
    to train on, and has one to validate on where there are as many of these as classes. A class of
    one image is trained on. In time linear in the images; a function of the arguments alone.

    Args:
      labels: class of each image, `int[N]`, from 0.
      fraction: see `validation_count`.
      seed: seed of what is drawn.
      images: see `validation_count`.

    Returns:
      `bool[N]`.
    """
    rng = np.random.default_rng(seed)
    count = len(labels)
    order = rng.permutation(count)
    sizes = np.bincount(labels)
    shares = _shares(sizes, validation_count(count, fraction, images), rng)
    # Sorting 16 bits takes linear time.
    small = labels.astype(np.uint16) if len(sizes) <= 1 << 16 else labels
    by_class = order[np.argsort(small[order], kind="stable")]
    place = np.arange(count) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # within its class
    validation = np.zeros(count, bool)
    validation[by_class[place < np.repeat(shares, sizes)]] = True
    return validation


def carve_test(labels: np.ndarray, what: str) -> np.ndarray:
    """Draws a fifth of the images of each class as test images, where none are given.

    Args:
      labels: class of each image, `int[N]`, from 0.
      what: the images, for errors.

    Returns:
      `bool[N]`.

    Raises:
      DataError: there are none of two classes to test on, or a class has none to train on.
    """
    held = carve_validation(labels, _TEST_SHARE, _TEST_SEED)
    classes = len(set(labels.tolist()))
    if len(set(labels[held].tolist())) < 2 or len(set(labels[~held].tolist())) < classes:
        raise DataError(
            f"{what} are too few to set a fifth of each class aside for the test: {len(labels)} "
            f"different ones of {classes} class(es); add some, or give test images"
        )
    return held


def _shares(sizes: np.ndarray, wanted: int, rng: np.random.Generator) -> np.ndarray:
    """Images of each class to validate on, `int64[L]` with the sum `wanted`; see above."""
    exact = wanted * sizes / sizes.sum()
    high = np.where(sizes > 1, sizes - 1, 0)
    if high.sum() < wanted:  # nearly all images validate
        high = sizes
    enough = wanted >= np.count_nonzero(sizes)
    low = np.where((sizes > 1) & enough, 1, 0)
    shares = np.clip(np.floor(exact).astype(np.int64), low, high)
    # Classes of equal remainders come in the order of a draw.
    draw = rng.permutation(len(sizes))
    while missing := wanted - int(shares.sum()):
        step, limit = (1, high) if missing > 0 else (-1, low)
        remainders = np.where(shares != limit, step * (exact - shares), -np.inf)[draw]
        first = np.argsort(-remainders, kind="stable")[: abs(missing)]
        chosen = draw[first[np.isfinite(remainders[first])]]
        shares[chosen] += step
    return shares


def balanced_weights(labels: np.ndarray, classes: int) -> np.ndarray:
    """Weights by which each class counts alike, and all images 1 in the mean: `float32[classes]`.

    Args:
      labels: `int[N]`.
      classes: number of classes; one without an image has a weight of 1.
    """
    counts = np.bincount(labels, minlength=classes)
    there = counts > 0
    weights = np.ones(classes)
    weights[there] = len(labels) / (there.sum() * counts[there])
    return weights.astype(np.float32)


def check_division(
    train: np.ndarray, validation: np.ndarray, test: np.ndarray, names: Sequence[str]
) -> list[str]:
    """Checks which classes there are to train on, to validate on and to test on.

    Args:
      train: classes of the training split, `int[N]`.
      validation: which of its images are to validate on, `bool[N]`.
      test: classes of the test split, `int[M]`.
      names: names of all classes.

    Returns:
      A line about each of the three that has images and lacks classes, which may be trained all the
      same.

    Raises:
      DataError: images to validate on, or to train on, are of one class: nothing could be measured.
    """
    lines = []
    parts = {
        "validation": (train[validation], "how well they are told apart does not count"),
        "training": (train[~validation], "they cannot be learnt"),
        "test": (test, "the final accuracy says nothing about them"),
    }
    for part, (labels, so) in parts.items():
        if not len(labels):
            continue
        counts = np.bincount(labels, minlength=len(names))
        present, absent = np.flatnonzero(counts), np.flatnonzero(counts == 0)
        if len(present) == 1:
            raise DataError(
                f"all {len(labels)} {part} images are of class {shown(names[present[0]])}: nothing "
                "could be measured; choose other `config.data.val_images` (or `val_fraction`) or "
                "splits"
            )
        if len(absent):
            some = ", ".join(shown(names[c]) for c in absent[:_NAMED])
            more = f" and {len(absent) - _NAMED} more" if len(absent) > _NAMED else ""
            lines.append(f"no {part} image of class {some}{more}: {so}")
    return lines
