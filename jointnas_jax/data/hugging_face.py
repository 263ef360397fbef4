"""Datasets that Hugging Face's `datasets` saved on disk (extra `huggingface`).

A `Dataset` is the training split; of a `DatasetDict` the splits `train`, `validation` and `test`
are read. Images are the feature `Image`, classes the feature `ClassLabel`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jointnas_jax.data.folders import SPLITS
from jointnas_jax.data.writing import class_name
from jointnas_jax.errors import DataError, needs_extra, one_line, shown
from jointnas_jax.runtime.output import tell

_OF_ALL, _OF_ONE = "dataset_dict.json", "state.json"
# Chosen where several features are classes, as in CIFAR-100.
_USUAL_LABEL = "label"


class Row(NamedTuple):
    """A row of a split; see `StoredImage`."""

    label: str
    place: str
    images: Any  # `datasets.Dataset` of the image alone, not decoded
    number: int
    version: list[int]  # of the files of all rows

    def content(self) -> bytes:
        """The bytes of the image; raises `OSError` or `DataError`."""
        (image,) = self.images[self.number].values()
        if image and image["bytes"] is not None:
            return image["bytes"]
        if image and image["path"]:
            return Path(image["path"]).read_bytes()
        raise DataError("it has no image")

    def state(self) -> list[int]:
        """See `version`."""
        return self.version


def is_hugging_face(root: Path) -> bool:
    """Whether a folder holds a dataset that `save_to_disk` wrote."""
    return (root / _OF_ALL).is_file() or (root / _OF_ONE).is_file()


def find_rows(root: Path) -> dict[str, Sequence[Row]]:
    """The rows of each split of a folder for which `is_hugging_face` holds.

    Raises:
      DataError: `datasets` is not installed or cannot read it; there is no split `train`; its
        features are no images of classes; a row has no class.
    """
    try:
        import datasets
    except ImportError as error:
        what = f"`{root}`, a dataset of Hugging Face,"
        raise DataError(needs_extra(what, "datasets", "huggingface")) from error
    try:
        stored = datasets.load_from_disk(str(root))
    except Exception as error:  # readers of metadata and of Arrow raise many kinds
        raise DataError(
            f"`{root}` cannot be read as a dataset of Hugging Face: {one_line(error)}"
        ) from error
    parts = {"train": stored} if isinstance(stored, datasets.Dataset) else dict(stored)
    splits = {SPLITS[name.lower()]: part for name, part in parts.items() if name.lower() in SPLITS}
    if "train" not in splits:
        raise DataError(f"`{root}` must have a split `train`, has {', '.join(sorted(parts))}")
    if left_out := [name for name in parts if name.lower() not in SPLITS]:
        tell(f"  splits of `{root}` that are left out: {', '.join(left_out)}")
    return {split: _rows(root, split, part) for split, part in splits.items()}


def _rows(root: Path, split: str, part: Any) -> list[Row]:
    image, label = _keys(root, split, part.features)
    names = [class_name(name) for name in part.features[label].names]
    numbers = part[label][:]
    for row, number in enumerate(numbers):
        if number is None or not 0 <= number < len(names):
            raise DataError(
                f"row {row} of split `{split}` of `{root}` must have a class of 0 to "
                f"{len(names) - 1} as `{label}`, has {shown(number)}; leave out the split, or "
                "rows like it"
            )
    stats = [Path(file["filename"]).stat() for file in part.cache_files]
    version = [sum(s.st_size for s in stats), max((s.st_mtime_ns for s in stats), default=0)]
    images = part.select_columns([image]).cast_column(image, _encoded(part.features[image]))
    return [
        Row(names[number], f"{split}/{row}", images, row, version)
        for row, number in enumerate(numbers)
    ]


def _encoded(feature: Any) -> Any:
    """The feature, whose images are bytes."""
    return type(feature)(mode=feature.mode, decode=False)


def _keys(root: Path, split: str, features: Any) -> tuple[str, str]:
    """Names of the image and the label feature; raises `DataError`."""
    import datasets

    of_type = lambda kind: [name for name, feature in features.items() if isinstance(feature, kind)]
    images, labels = of_type(datasets.Image), of_type(datasets.ClassLabel)
    if len(labels) > 1 and _USUAL_LABEL in labels:
        labels = [_USUAL_LABEL]
    if len(images) != 1 or len(labels) != 1:
        raise DataError(
            f"split `{split}` of `{root}` must have one feature `Image` and one `ClassLabel`, has "
            f"{shown(images)} and {shown(labels)}; `select_columns`, `cast_column` and "
            "`class_encode_column` of `datasets` change them"
        )
    return images[0], labels[0]
