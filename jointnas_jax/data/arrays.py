"""Images in a NumPy file (`.npz`), written into the cache as a TFDS dataset.

Its arrays are called `x_train`, `y_train`, `x_test`, `y_test`, or `train_images`, `train_labels`
and so on; or they are `images` and `labels` alone, of which a fifth of each class is for the test.
Images are `[N, H, W]` or `[N, H, W, C]` with any number of channels. Those that are not of 8 bits
are scaled to them: of each channel the range of nearly all training pixels.
"""

import hashlib
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jointnas_jax.data.division import carve_test
from jointnas_jax.data.writing import class_name, is_written, plain_name, writing_dataset
from jointnas_jax.errors import DataError, one_line, shown
from jointnas_jax.runtime.cache import cache_dir
from jointnas_jax.runtime.output import tell

SUFFIX = ".npz"
# Names of the arrays of each split: images, labels.
_NAMES = {
    "train": (("x_train", "y_train"), ("train_images", "train_labels"), ("train_x", "train_y")),
    "val": (("x_val", "y_val"), ("val_images", "val_labels"), ("val_x", "val_y")),
    "test": (("x_test", "y_test"), ("test_images", "test_labels"), ("test_x", "test_y")),
}
_ALONE = (("images", "labels"), ("x", "y"), ("X", "y"), ("data", "labels"), ("data", "target"))
# Channels of an image file, at most.
_COLOURS = 4
# Quantiles of the training pixels that become 0 and 255.
_LOWEST, _HIGHEST = 0.001, 0.999
# Images that these are looked up in, spread over the split.
_LOOKED_AT = 2_000
_VERSION = "1.0.0"

Arrays = Mapping[str, tuple[np.ndarray, np.ndarray]]


def prepare_arrays(file: Path) -> Path:
    """Writes the images of a file into the cache, unless they are there.

    Returns:
      The folder of the dataset.

    Raises:
      DataError: the file cannot be read, has no images and labels under such names, or they do not
        fit together; the cache cannot be written.
    """
    home = cache_dir() / "tfds"
    try:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    except OSError as error:
        raise DataError(f"`{file}` cannot be read: {one_line(error)}") from error
    name = f"arrays_{plain_name(file.stem)}_{digest}"
    if not is_written(home / name / _VERSION):
        _write(file, home, name)
    return home / name / _VERSION


def write_arrays(file: Path, out: Path, *, name: str = "") -> Path:
    """Writes the images of a file as a dataset into another folder.

    Args:
      file: see above.
      out: folder that will hold the folder of the dataset.
      name: name of the dataset; "": that of the file.

    Returns:
      The folder of the dataset.

    Raises:
      DataError: as `prepare_arrays`; or there is such a dataset.
    """
    name = plain_name(name or file.stem)
    folder = out / name / _VERSION
    if is_written(folder):
        raise DataError(f"`{folder}` holds a dataset; give another --name, or remove it")
    _write(file, out, name)
    return folder


def _write(file: Path, home: Path, name: str) -> None:
    splits = _read(file)
    names = _class_names(file, splits)
    splits = _eight_bits(file, _divided(file, splits))
    with writing_dataset(f"the images of `{file}`", home, home / name / _VERSION):
        _builder(name, home, splits, names).download_and_prepare()


def _read(file: Path) -> Arrays:
    """Images `[N, H, W, C]` and labels `[N]` of each split that the file has."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            there = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise DataError(f"`{file}` cannot be read: {one_line(error)}") from error
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for split, pairs in _NAMES.items():
        both = [pair for pair in pairs if pair[0] in there and pair[1] in there]
        if both:
            found[split] = _checked(file, there, both[0])
    if "train" not in found:
        both = [pair for pair in _ALONE if pair[0] in there and pair[1] in there]
        if not both:
            raise DataError(
                f"`{file}` must have the arrays `x_train` and `y_train`, or `images` and "
                f"`labels`; it has {', '.join(f'`{name}`' for name in there) or 'none'}"
            )
        found = {"train": _checked(file, there, both[0])}
    shapes = {split: images.shape[1:] for split, (images, _) in found.items()}
    if len(set(shapes.values())) > 1:
        raise DataError(f"images of all splits in `{file}` must have one shape, got {shapes}")
    return found


def _checked(
    file: Path, arrays: Mapping[str, np.ndarray], pair: tuple[str, str]
) -> tuple[np.ndarray, np.ndarray]:
    """Two arrays as images and labels; raises `DataError`."""
    images, labels = (arrays[name] for name in pair)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if images.ndim == 3:
        images = images[..., None]
    numbers = images.dtype.kind in "uif" and labels.dtype.kind in "uiUS"
    if images.ndim != 4 or labels.shape != images.shape[:1] or not images.size or not numbers:
        raise DataError(
            f"`{pair[0]}` and `{pair[1]}` in `{file}` must be images [N, H, W] or [N, H, W, C] and "
            f"a whole number or name for each, got {images.dtype}{list(images.shape)} and "
            f"{labels.dtype}{list(labels.shape)}"
        )
    if images.shape[1] <= _COLOURS < min(images.shape[2:]):
        raise DataError(
            f"`{pair[0]}` in `{file}` must be images [N, H, W, C], got {list(images.shape)}, whose "
            "channels seem to come first; `np.moveaxis(images, 1, -1)` puts them last"
        )
    if images.dtype.kind == "f" and not np.isfinite(images).all():
        raise DataError(f"`{pair[0]}` in `{file}` has pixels that are not finite")
    return images, labels


def _divided(file: Path, splits: Arrays) -> Arrays:
    """The splits, with test images: those of `val`, or a share of each class."""
    if "test" in splits:
        return splits
    if "val" in splits:
        return {"train": splits["train"], "test": splits["val"]}
    images, labels = splits["train"]
    numbers = np.unique(labels, return_inverse=True)[1]
    held = carve_test(numbers, f"the images of `{file}`")
    return {"train": (images[~held], labels[~held]), "test": (images[held], labels[held])}


def _class_names(file: Path, splits: Arrays) -> list[str]:
    """Names of the classes, in the order of the labels; raises `DataError`."""
    values = np.unique(splits["train"][1])
    if len(values) < 2:
        raise DataError(f"`{file}` has images of {len(values)} class, and a classifier needs two")
    for split, (_, labels) in splits.items():
        if (more := np.setdiff1d(labels, values)).size:
            raise DataError(
                f"split `{split}` of `{file}` has label {shown(more[0].item())}, which the "
                "training images have not"
            )
    return [class_name(str(value)) for value in values.tolist()]


def _eight_bits(file: Path, splits: Arrays) -> Arrays:
    """The splits with `uint8` images."""
    images = splits["train"][0]
    if images.dtype == np.uint8:
        return splits
    chosen = images[:: max(1, len(images) // _LOOKED_AT)].astype(np.float64)
    low, high = np.quantile(chosen, (_LOWEST, _HIGHEST), axis=(0, 1, 2))
    tell(
        f"  pixels of `{file.name}` are {images.dtype}: each channel is scaled to 8 bits, "
        f"{low.min():g} to {high.max():g} in all"
    )
    unit = 255 / np.maximum(high - low, 1e-12)

    def scaled(images: np.ndarray) -> np.ndarray:
        # Piece by piece, for 64 bits of all would fill the memory.
        pieces = [(images[i : i + 1000] - low) * unit for i in range(0, len(images), 1000)]
        return np.concatenate([np.clip(np.round(p), 0, 255).astype(np.uint8) for p in pieces])

    return {split: (scaled(some), labels) for split, (some, labels) in splits.items()}


def _builder(
    name: str, home: Path, splits: Arrays, names: list[str]
) -> tfds.core.GeneratorBasedBuilder:
    """What writes the dataset."""
    shape = splits["train"][0].shape[1:]

    # In a dict, for mypy knows no such keyword of an untyped class.
    class FromArrays(tfds.core.GeneratorBasedBuilder, **{"skip_registration": True}):
        """Writes `splits`."""

        VERSION = tfds.core.Version(_VERSION)

        def _info(self) -> tfds.core.DatasetInfo:
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(
                    {
                        # No image file has any number of channels.
                        "image": tfds.features.Tensor(shape=shape, dtype=np.uint8),
                        "label": tfds.features.ClassLabel(names=names),
                    }
                ),
                supervised_keys=("image", "label"),
            )

        def _split_generators(
            self, dl_manager: tfds.download.DownloadManager
        ) -> dict[str, Iterator]:
            return {split: self._generate_examples(*some) for split, some in splits.items()}

        def _generate_examples(self, images: np.ndarray, labels: np.ndarray) -> Iterator[Any]:
            for i, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
                yield i, {"image": image, "label": class_name(str(label))}

    FromArrays.name = name
    return FromArrays(data_dir=home, file_format="array_record")
