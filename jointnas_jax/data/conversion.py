"""Images of any kind, written once as a dataset that people keep; see `scripts/prepare_data.py`."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import tensorflow_datasets as tfds

from jointnas_jax.data.arrays import SUFFIX, write_arrays
from jointnas_jax.data.folders import holds_images
from jointnas_jax.data.hugging_face import is_hugging_face
from jointnas_jax.data.prepared import INFO_FILE, find_images
from jointnas_jax.data.stored_images import write_images
from jointnas_jax.errors import DataError, one_line


class Written(NamedTuple):
    """A dataset that was written.

    Attributes:
      folder: its folder, with the version.
      images: images by split.
      classes: number of classes.
      unreadable: file that was left out -> reason.
    """

    folder: Path
    images: Mapping[str, int]
    classes: int
    unreadable: Mapping[str, str]


def write_dataset(
    images: str, out: Path, *, name: str = "", skip_unreadable: bool = False
) -> Written:
    """Writes images as a dataset of array_record.

    Args:
      images: path of a folder of images, a list, arrays or a dataset of Hugging Face, or the name
        of one of TFDS's datasets.
      out: folder that will hold the folder of the dataset.
      name: its name; "": that of the images.
      skip_unreadable: leave out files that cannot be read.

    Raises:
      DataError: there are no such images, they cannot be used, or the dataset is there.
    """
    root, lost = Path(images), dict[str, str]()
    if root.is_file() and root.suffix.lower() == SUFFIX:
        folder = write_arrays(root, out, name=name)
    elif root.exists():
        if not is_hugging_face(root):
            _check_folder(root)
        folder, lost = write_images(
            root, find_images(root), out, name=name, skip_unreadable=skip_unreadable
        )
    else:
        folder = _downloaded(images, out)
    info = tfds.builder_from_directory(folder).info
    counts = {split: part.num_examples for split, part in info.splits.items()}
    labels = [f for f in info.features.values() if isinstance(f, tfds.features.ClassLabel)]
    return Written(folder, counts, labels[0].num_classes if labels else 0, lost)


def _check_folder(root: Path) -> None:
    """Raises `DataError` unless it holds images to be written."""
    if root.is_dir() and (list(root.glob(INFO_FILE)) or list(root.glob(f"*/{INFO_FILE}"))):
        raise DataError(f"`{root}` is a prepared dataset: --config.data.dir takes it as it is")
    if not holds_images(root):
        raise DataError(
            f"`{root}` holds no images: a folder for each class, a list `.csv` or `.npz` does"
        )


def _downloaded(name: str, out: Path) -> Path:
    """One of TFDS's datasets, prepared; raises `DataError`."""
    if name not in tfds.list_builders(with_community_datasets=False):
        raise DataError(f"`{name}` is neither a path nor the name of a dataset of TFDS")
    try:
        builder = tfds.builder(name, data_dir=out, file_format="array_record")
        builder.download_and_prepare()
    except Exception as error:  # downloads and readers raise many kinds
        raise DataError(f"dataset `{name}` cannot be prepared: {one_line(error)}") from error
    return Path(builder.data_dir)
