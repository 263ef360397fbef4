"""scikit-learn's handwritten digits as a TFDS dataset: real images without a download."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from jointnas_jax.data.writing import writing_dataset
from jointnas_jax.runtime.cache import cache_dir

NAME, VERSION = "digits", "1.0.0"
TEST_IMAGES = 360  # of 1,797, drawn once with the seed below
_SPLIT_SEED = 0


# In a dict, for mypy knows no such keyword of an untyped class.
class Digits(tfds.core.GeneratorBasedBuilder, **{"skip_registration": True}):
    """Writes 1,437 training and 360 test images, 8x8 grey, ten classes."""

    VERSION = tfds.core.Version(VERSION)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Handwritten digits of scikit-learn (UCI optdigits), random split.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        from sklearn.datasets import load_digits  # half a second, and only needed to write

        digits = load_digits()
        # Stored as 0 to 16.
        images = np.round(digits.images * (255 / 16)).astype(np.uint8)
        order = np.random.default_rng(_SPLIT_SEED).permutation(len(images))
        test, train = order[:TEST_IMAGES], order[TEST_IMAGES:]
        return {
            "train": self._generate_examples(images[train], digits.target[train]),
            "test": self._generate_examples(images[test], digits.target[test]),
        }

    def _generate_examples(self, images: np.ndarray, labels: np.ndarray) -> Iterator:
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            # Encoded bytes: TFDS needs TensorFlow to encode an array.
            png = io.BytesIO()
            Image.fromarray(image).save(png, format="PNG")
            yield i, {"image": png.getvalue(), "label": int(label)}


def prepare_digits() -> Path:
    """Writes the dataset into the cache, unless it is there; returns its folder.

    Raises `DataError` if it cannot be written.
    """
    root = cache_dir() / "tfds"
    folder = root / NAME / VERSION
    with writing_dataset(f"`{NAME}`", root, folder):
        Digits(data_dir=root, file_format="array_record").download_and_prepare()
    return folder
