"""Folders of prepared TFDS datasets, and of images that become one."""

import os
from pathlib import Path

import tensorflow_datasets as tfds

from jointnas_jax.data import digits
from jointnas_jax.data.arrays import SUFFIX, prepare_arrays
from jointnas_jax.data.copied import copied
from jointnas_jax.data.folders import find_files, holds_images
from jointnas_jax.data.hugging_face import find_rows, is_hugging_face
from jointnas_jax.data.stored_images import Splits, prepare_images
from jointnas_jax.errors import DataError, nearest
from jointnas_jax.rules import is_url, local_path

INFO_FILE = "dataset_info.json"


def prepared_folder(name: str, directory: str) -> Path:
    """Returns the folder with a dataset's `dataset_info.json`.

    Args:
      name: name of the dataset.
      directory: the folder, or the one that holds `name`; "" is TFDS's data folder, or for `digits`
        the cache, where they are written first. Or a folder or a list of images, see
        `data/folders.py`, a dataset of Hugging Face, see `data/hugging_face.py`, or a NumPy file,
        see `data/arrays.py`; these are written into the cache, too. Or the URL of any of them, see
        `data/copied.py`.

    Raises:
      DataError: there is no such dataset, it may not be read, or its images cannot be used.
    """
    try:
        return _folder(name, directory)
    except PermissionError as error:
        raise DataError(f"`{directory or name}` cannot be read: {error.strerror}") from error


def _folder(name: str, directory: str) -> Path:
    if not directory and name == digits.NAME:
        return digits.prepare_digits()
    if is_url(directory):
        root = copied(directory)
    else:
        root = Path(local_path(directory or str(tfds.core.constants.DATA_DIR), "data.dir"))
    if os.path.isfile(root) and root.suffix.lower() == SUFFIX:
        return prepare_arrays(root)
    if os.path.isfile(root) and holds_images(root) or is_hugging_face(root):
        return prepare_images(root, find_images(root))
    if not os.path.isdir(root):
        raise DataError(
            f"`data.dir` must be an existing folder, a list `.csv` or arrays `.npz`, got `{root}`"
        )
    for folder in (root, root / name):
        if (prepared := _newest_version(folder)) is not None:
            return prepared
    datasets = sorted({p.parent.parent.name for p in root.glob("*/*/" + INFO_FILE)})
    if directory and not datasets and holds_images(root):
        return prepare_images(root, find_images(root))
    if not datasets:
        raise DataError(
            f"`{root}` holds no dataset: a folder of images has a folder with files for each "
            f"class, a prepared one of TFDS a `{INFO_FILE}`"
        )
    raise DataError(f"no prepared TFDS dataset `{name}` in `{root}`{nearest(name, datasets)}")


def find_images(root: Path) -> Splits:
    """The images of a folder or list, or of a dataset of Hugging Face; raises `DataError`."""
    return find_rows(root) if is_hugging_face(root) else find_files(root)


def _newest_version(folder: Path) -> Path | None:
    """The folder itself if a dataset is prepared in it, else its newest prepared version."""
    if os.path.isfile(folder / INFO_FILE):
        return folder
    versions = [
        info.parent
        for info in folder.glob("*/" + INFO_FILE)
        if all(part.isdigit() for part in info.parent.name.split("."))
    ]
    return max(versions, key=lambda v: [int(part) for part in v.name.split(".")], default=None)
