"""A random choice of a dataset's classes, as the paper searches on 200 of ImageNet's."""

import hashlib
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jointnas_jax.data.digits import cache_dir
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


def read_labels(builder: tfds.core.DatasetBuilder, split: str, image: str, label: str) -> Any:
    """Reads the labels of a split, `int32[N]`, without decoding its images.

    All records have to be read for it, so they are kept in the cache folder.

    Args:
      builder: of the dataset.
      split: expression.
      image: name of the image feature.
      label: name of the label feature.
    """
    info = builder.info.splits[split]
    name = f"{builder.data_path} {split} {info.num_examples}"
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    file = cache_dir() / "labels" / f"{builder.info.name}-{digest}.npy"
    if file.exists():
        return np.load(file)
    source = builder.as_data_source(split, decoders={image: tfds.decode.SkipDecoding()})
    labels = np.fromiter((example[label] for example in source), np.int32, len(source))
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".tmp.npy")
    np.save(partial, labels)
    partial.replace(file)
    return labels
