"""Writes digits of which each class has a quarter fewer training images than the one before.

python -m benchmarks.unbalanced_digits DIR

The test images are all of them. With it a score for unbalanced classes is tried:

python -m benchmarks.curves record --config.name=digits_unbalanced --config.data.dir=DIR \
    --config.data.name=digits_unbalanced --candidates=60 --tables=DIR
python -m benchmarks.curves score --tables=DIR --metric=balanced_accuracy
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from jointnas_jax.data.digits import Digits

_SHARE = 0.75


class DigitsUnbalanced(Digits, **{"skip_registration": True}):
    """Keeps 0.75^k of the training images of class k."""

    name = "digits_unbalanced"

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        splits = super()._split_generators(dl_manager)
        return splits | {"train": _thinned(splits["train"])}


def _thinned(examples: Iterator) -> Iterator:
    rng = np.random.default_rng(0)
    for key, example in examples:
        if rng.random() < _SHARE ** example["label"]:
            yield key, example


def write(folder: Path) -> Path:
    """Writes the dataset; returns its folder."""
    builder = DigitsUnbalanced(data_dir=folder, file_format="array_record")
    builder.download_and_prepare()
    return Path(builder.data_dir)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("error: name one folder to write to")
    print(write(Path(sys.argv[1]).expanduser()))
