"""A small dataset in the form of TFDS's imagenet2012, from the images of another one.

For trying the ImageNet configs without ImageNet: colour JPEGs of many sizes and proportions, 1,000
classes, splits `train` and `validation`.
"""

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from jointnas_jax.data.source import Images
from jointnas_jax.errors import DataError, one_line

NAME, VERSION, CLASSES = "imagenet2012", "5.1.0", 1000
_SIDES = (320, 480)


def make_stand_in(
    folder: Path, train: Images, validation: Images, *, num_classes: int, seed: int = 0
) -> Path:
    """Writes the dataset into `folder/imagenet2012/5.1.0`; returns that folder.

    Args:
      folder: folder of TFDS datasets.
      train: images that become the training split.
      validation: images that become the validation split.
      num_classes: number of their classes; each is divided at random into 1,000 // `num_classes`.
      seed: seed of sizes and classes.

    Raises:
      DataError: the dataset exists, has too many classes, or cannot be written.
    """
    if os.path.exists(folder / NAME / VERSION):
        raise DataError(f"`{folder / NAME}` exists; give another folder")
    if num_classes > CLASSES:
        raise DataError(f"a stand-in has {CLASSES} classes, too few for {num_classes}")
    sources = {"train": train, "validation": validation}

    # In a dict, for mypy knows no such keyword of an untyped class.
    class Imagenet2012(tfds.core.GeneratorBasedBuilder, **{"skip_registration": True}):
        VERSION = tfds.core.Version(VERSION)

        def _info(self) -> tfds.core.DatasetInfo:
            features = {
                "image": tfds.features.Image(encoding_format="jpeg"),
                "label": tfds.features.ClassLabel(num_classes=CLASSES),
                "file_name": tfds.features.Text(),
            }
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                supervised_keys=("image", "label"),
            )

        def _split_generators(self, _: Any) -> dict[str, Any]:
            return {name: _examples(images, num_classes, seed) for name, images in sources.items()}

        def _generate_examples(self) -> None:
            raise NotImplementedError("each split has a generator")

    try:
        builder = Imagenet2012(data_dir=folder, file_format="array_record")
        builder.download_and_prepare()
    except OSError as error:
        raise DataError(f"`{folder}` cannot be written: {one_line(error)}") from error
    return Path(builder.data_path)


def _examples(images: Images, num_classes: int, seed: int) -> Iterator[tuple[int, dict[str, Any]]]:
    rng = np.random.default_rng(seed)
    parts = CLASSES // num_classes
    for index in range(len(images)):
        pixels, label = images.read(np.array([index]))
        image = Image.fromarray(pixels[0].squeeze()).convert("RGB")
        width, height = rng.integers(low=_SIDES[0], high=_SIDES[1], size=2).tolist()
        file = io.BytesIO()
        image.resize((width, height), Image.Resampling.BILINEAR).save(file, format="JPEG")
        yield (
            index,
            {
                "image": file.getvalue(),
                "label": int(label[0]) * parts + int(rng.integers(parts)),
                "file_name": f"{index}.JPEG",
            },
        )
