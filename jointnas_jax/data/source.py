"""Image datasets through TFDS, without TensorFlow.

A dataset that fits in memory is decoded once into one `uint8` array, which lives on the device from
then on. Images of a larger one are decoded when they are needed.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import io
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from jointnas_jax.config import DataConfig
from jointnas_jax.data.classes import choose_classes, renumbered
from jointnas_jax.data.image_file import CHANNELS, decode_image, describe_image
from jointnas_jax.data.prepared import prepared_folder
from jointnas_jax.data.tfrecords import rewritten
from jointnas_jax.data.writing import followed
from jointnas_jax.errors import DataError, one_line
from jointnas_jax.runtime.cache import remembered
from jointnas_jax.runtime.output import tell

_READ_AT_ONCE = 256
# The feature with the name of the image's file, where files were written, see `stored_images.py`.
_FILE = "file"
# Version of `image_file.decode_image`, for what one has checked another may refuse, and of what the
# cache has about it.
_DECODER = 3
# Bytes of decoded images that the cache takes: with more, disks would fill.
_REMEMBERED = 1_000_000_000
# Labels in the cache.
_LABEL = np.dtype("<i4")
# From so many images on a check takes long enough for a line of output.
_MANY = 50_000


class Images(Protocol):
    """Decoded images of a split, wherever they are."""

    def __len__(self) -> int:
        """Number of images."""

    @property
    def labels(self) -> np.ndarray:
        """Classes of all images, `int32[N]`."""

    def read(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns `uint8[..., H, W, C]` and `int32[...]` for `indices: int[...]`."""


@dataclasses.dataclass(frozen=True)
class Split:
    """Decoded images of one split."""

    images: np.ndarray  # uint8[N, H, W, C]
    labels: np.ndarray  # int32[N], in `range(num_classes)`

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Images`."""
        return self.images[indices], self.labels[indices]


class SplitOnDisk:
    """Images of a split that are decoded when they are read; see `Images`."""

    def __init__(self, dataset: "ImageDataset", split: str):
        self._dataset = dataset
        self._split = split
        self._source = dataset.open_split(split)
        self._rows = dataset.rows(split)
        self._pool = concurrent.futures.ThreadPoolExecutor()
        if not len(self):
            raise DataError(f"split `{split}` of `{dataset.name}` has no examples of the classes")

    def __len__(self) -> int:
        return len(self._source) if self._rows is None else len(self._rows)

    def read(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Decodes images; raises `DataError` as `ImageDataset.load` does."""
        images, labels = zip(*self._pool.map(self._decode, self._pieces(indices)), strict=True)
        images, labels = np.concatenate(images), np.concatenate(labels)
        return images.reshape(*indices.shape, *images.shape[1:]), labels.reshape(indices.shape)

    def decoded(self) -> np.ndarray:
        """All images, each followed by its label: `uint8[N, H * W * C + 4]`; raises as `read`."""
        pieces = self._pieces(np.arange(len(self)))
        every = np.empty((len(self), math.prod(self._dataset.image_shape) + _LABEL.itemsize), "u1")
        results = self._pool.map(self._decode, pieces)
        end = 0
        for images, labels in followed("decoding images", results, len(pieces), each=_READ_AT_ONCE):
            rows = every[end : (end := end + len(labels))]
            rows[:, : -_LABEL.itemsize] = images.reshape(len(labels), -1)
            rows[:, -_LABEL.itemsize :] = labels.astype(_LABEL)[:, None].view("u1")
        return every

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """Classes of all images, `int32[N]`, each of which is decoded once to check it.

        A core decodes 2,000 to 4,000 images a second (ImageNet: minutes), so the cache remembers
        the labels of checked files. Raises `DataError` as `ImageDataset.load` does.
        """
        key = self._dataset.identity(self._split, decoded=True)
        return remembered("checked", key, self._check_all)

    def _check_all(self) -> np.ndarray:
        if len(self) >= _MANY:
            tell(f"  checking {len(self):,} images of `{self._split}`, once")
        labels_of = lambda piece: self._decode(piece)[1]
        labels = np.concatenate([*self._pool.map(labels_of, self._pieces(np.arange(len(self))))])
        self._dataset.check_classes(np.unique(labels), self._split)
        return labels

    def _pieces(self, indices: np.ndarray) -> list[np.ndarray]:
        """The examples at `indices: int[...]`, in pieces to decode at once: `int[n]` each."""
        flat = np.ravel(indices)
        flat = flat if self._rows is None else self._rows[flat]
        return np.array_split(flat, -(-len(flat) // _READ_AT_ONCE))

    def _decode(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._dataset.decode(self._source, self._split, rows)


@dataclasses.dataclass(frozen=True)
class ImageDataset:
    """A prepared dataset on disk."""

    name: str  # with version, such as `fashion_mnist/3.0.1`
    image_shape: tuple[int, int, int]  # H, W, C of all images as loaded
    labels: tuple[str, ...]  # name of each class
    classes: tuple[int, ...]  # stored labels in use, numbered from 0 then; empty: all
    _builder: tfds.core.DatasetBuilder
    _keys: tuple[str, str]  # names of the image and the label feature
    _resize: bool
    _is_array: bool = False  # images are stored as arrays, not as the bytes of image files

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.labels)

    @property
    def split_names(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(self._builder.info.splits)

    def stored_sizes(self, split: str, count: int) -> np.ndarray:
        """Height and width of up to `count` images of a split as stored, `int64[n, 2]`.

        They are spread over the split; raises `DataError` as `load` does.
        """
        if self._is_array:
            return np.array([self._builder.info.features[self._keys[0]].shape[:2]])
        source = self.open_split(split)
        rows = np.unique(np.linspace(0, len(source) - 1, count).astype(int))
        examples = self._read(source, rows.tolist(), split)
        name = f"split `{split}` of `{self.name}`: example"
        shapes = [
            describe_image(io.BytesIO(example[self._keys[0]]), f"{name} {row}")
            for row, example in zip(rows, examples, strict=True)
        ]
        return np.array([shape[:2] for shape in shapes])

    def file_names(self, split: str) -> list[str] | None:
        """The file of each image of a split, in order; None where the dataset does not tell.

        Raises `DataError` as `load` does.
        """
        if _FILE not in self._builder.info.features:
            return None
        source, rows = self.open_split(split), self.rows(split)
        wanted = [*range(len(source))] if rows is None else rows.tolist()
        names = []
        for start in range(0, len(wanted), _READ_AT_ONCE):
            examples = self._read(source, wanted[start : start + _READ_AT_ONCE], split)
            names += [bytes(example[_FILE]).decode(errors="replace") for example in examples]
        return names

    def load(self, split: str) -> Split:
        """Decodes a split, such as `train[:90%]`; the cache remembers it, unless it is large.

        Raises:
          DataError: the split is missing or empty, an image cannot be decoded or has another
            shape, a label is out of range, or all labels are the same.
        """
        on_disk = SplitOnDisk(self, split)
        if self.decoded_bytes(split) > _REMEMBERED:
            rows = on_disk.decoded()
        else:
            key = self.identity(split, decoded=True)
            rows = remembered("decoded", key, on_disk.decoded)
        labels = rows[:, -_LABEL.itemsize :].copy().view(_LABEL)[:, 0].astype(np.int32)
        self.check_classes(np.unique(labels), split)
        return Split(rows[:, : -_LABEL.itemsize].reshape(-1, *self.image_shape), labels)

    def check_classes(self, classes: np.ndarray, split: str) -> None:
        """Raises `DataError` if the classes in a split, `int[...]`, are fewer than two."""
        if len(classes) < 2:
            raise DataError(
                f"split `{split}` of `{self.name}` has only images of class "
                f"{classes[0]}; a classifier needs two classes or more"
            )

    def decode(self, source: Any, split: str, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Decodes `int[N]` examples to `uint8[N, H, W, C]` and `int32[N]`; raises `DataError`."""
        image_key, label_key = self._keys
        images = np.empty((len(indices), *self.image_shape), np.uint8)
        labels = np.empty(len(indices), np.int64)
        examples = self._read(source, [int(i) for i in indices], split)
        for row, (index, example) in enumerate(zip(indices, examples, strict=True)):
            name = f"split `{split}` of `{self.name}`: example {index}"
            stored = example[image_key]
            if not self._is_array:
                stored = decode_image(io.BytesIO(stored), self.image_shape[-1], name)
            pixels = np.asarray(stored)
            images[row] = self._fit(pixels.reshape(*pixels.shape[:2], -1), name)
            labels[row] = example[label_key]
        numbers, bad = renumbered(labels, np.array(self.classes or range(self.num_classes)))
        if bad.size:
            rule = "of the chosen classes" if self.classes else f"0 to {self.num_classes - 1}"
            raise DataError(
                f"split `{split}` of `{self.name}`: labels must be {rule}, "
                f"example {indices[bad[0]]} has {labels[bad[0]]}"
            )
        return images, numbers

    def count(self, split: str) -> int:
        """Number of examples of a split; raises `DataError` if there is no such split."""
        rows = self.rows(split)
        return self._info(split).num_examples if rows is None else len(rows)

    def open_splits(self, data: DataConfig) -> tuple[Images, Images]:
        """Training and test images, decoded if they fit in `data.memory_gb`.

        The test split is used at the end only; it is opened now, so that a bad one is an error
        before anything trains.
        """
        if self.decoded_bytes(data.train_split, data.test_split) <= data.memory_gb * 1e9:
            return self.load(data.train_split), self.load(data.test_split)
        splits = SplitOnDisk(self, data.train_split), SplitOnDisk(self, data.test_split)
        for split in splits:
            assert len(split.labels) == len(split)  # reads, and checks, all of it
        return splits

    def decoded_bytes(self, *splits: str) -> int:
        """Size of the decoded images of splits."""
        return sum(self.count(split) for split in splits) * math.prod(self.image_shape)

    def __str__(self) -> str:
        return f"{self.name}, {'x'.join(map(str, self.image_shape))}, {self.num_classes} classes"

    def rows(self, split: str) -> np.ndarray | None:
        """The examples of a split that belong to `classes`, `int[N]`; None for all."""
        if not self.classes:
            return None
        labels = remembered("labels", self.identity(split), lambda: self._stored_labels(split))
        return np.flatnonzero(np.isin(labels, self.classes))

    def _stored_labels(self, split: str) -> np.ndarray:
        """Labels of a split as stored, `int64[N]`: all records are read, no image decoded."""
        label_key = self._keys[1]
        with self._naming(split):
            source = self._encoded(split)
            labels = (example[label_key] for example in source)
            return np.fromiter(labels, np.int64, len(source))

    def identity(self, split: str, decoded: bool = False) -> str:
        """Text that identifies the files of a split, and if `decoded` how images are read."""
        with self._naming(split):
            stats = [(str(p), os.stat(p)) for p in sorted(set(self._info(split).filepaths))]
        files = [(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats]
        reading = (_DECODER, self.image_shape, self._resize, self.num_classes, self.classes)
        return repr((self.name, self._keys, split, files, reading if decoded else ()))

    def check_disjoint(self, first: str, second: str) -> None:
        """Raises `DataError` if two split expressions share examples, or one cannot be read."""
        if shared := len(set(self._examples(first)) & set(self._examples(second))):
            raise DataError(
                f"splits `{first}` and `{second}` of `{self.name}` share {shared} "
                f"examples; test images must not be trained on"
            )

    def part(self, split: str, of: str) -> np.ndarray:
        """Which images of a split are those of another, `bool[N]`.

        Raises `DataError` if one of them is not in it, or nothing else is.
        """
        examples, wanted = self._examples(of), set(self._examples(split))
        inside = np.array([example in wanted for example in examples])
        if inside.sum() != len(wanted) or inside.all():
            raise DataError(
                f"split `{split}` of `{self.name}` must be a part of `{of}`, such as `val` of "
                f"`train+val`; {inside.sum()} of its {len(wanted)} examples are in it, beside "
                f"{(~inside).sum()} others"
            )
        rows = self.rows(of)
        return inside if rows is None else inside[rows]

    def _examples(self, split: str) -> list[tuple[str, int]]:
        """File and place of each example of a split, in order; raises as `count` does."""
        return [
            (f.filename, i)
            for f in self._info(split).file_instructions
            for i in range(f.skip, f.skip + (f.examples_in_shard if f.take == -1 else f.take))
        ]

    def open_split(self, split: str) -> Any:
        """Opens a split for random access; raises `DataError` if it is missing or empty."""
        if not self._info(split).num_examples:
            raise DataError(f"split `{split}` of `{self.name}` has no examples")
        with self._naming(split):
            return self._encoded(split)

    def _encoded(self, split: str) -> Any:
        """The examples of a split, whose images are the bytes of files, or arrays."""
        as_they_are = {self._keys[0]: tfds.decode.SkipDecoding()}
        return self._builder.as_data_source(split, decoders={} if self._is_array else as_they_are)

    def _info(self, split: str) -> Any:
        splits = self._builder.info.splits
        try:
            # TFDS reads the wrong examples where a slice ends before it starts.
            parts = tfds.core.ReadInstruction.from_spec(split).to_absolute(splits)
            backwards = any(p.to is not None and p.to < (p.from_ or 0) for p in parts)
            info = splits[split]
        except Exception as error:  # its parser raises many kinds
            names = ", ".join(f"`{s}`" for s in splits)
            raise DataError(
                f"split `{split}` of `{self.name}` cannot be read: its splits are "
                f"{names}, and slices of them such as `train[:90%]`"
            ) from error
        if backwards:
            raise DataError(
                f"split `{split}` of `{self.name}` has a slice that ends before it starts"
            )
        return info

    @contextlib.contextmanager
    def _naming(self, split: str) -> Iterator[None]:
        """Raises `DataError` where the files of a split cannot be read."""
        try:
            yield
        except DataError:
            raise
        except Exception as error:  # array_record raises many kinds
            raise DataError(
                f"split `{split}` of `{self.name}` cannot be read: {one_line(error)}"
            ) from error

    def _read(self, source: Any, indices: list[int], split: str) -> Any:
        try:
            return source.__getitems__(indices)
        except Exception as error:  # array_record raises many kinds
            raise DataError(
                f"split `{split}` of `{self.name}`: an example in "
                f"{indices[0]}..{indices[-1]} cannot be read ({one_line(error)})"
            ) from error

    def _fit(self, image: np.ndarray, name: str) -> np.ndarray:
        height, width, _ = self.image_shape
        if self._resize and image.shape[:2] != (height, width):
            # The largest part in the middle with the proportions of the shape.
            rows, columns = image.shape[:2]
            scale = min(rows / height, columns / width)
            top, left = (rows - scale * height) / 2, (columns - scale * width) / 2
            # Rounding may put the box a hair outside, where Pillow raises.
            top, left = max(top, 0.0), max(left, 0.0)
            box = (left, top, min(left + scale * width, columns), min(top + scale * height, rows))
            bilinear = Image.Resampling.BILINEAR
            planes = [
                Image.fromarray(image[..., c]).resize((width, height), bilinear, box)
                for c in range(image.shape[-1])
            ]
            image = np.stack([np.asarray(p) for p in planes], axis=-1)
        if image.shape != self.image_shape:
            raise DataError(f"{name} has shape {image.shape}, expected {self.image_shape}")
        return image


def open_dataset(data: Mapping[str, Any]) -> ImageDataset:
    """Opens the dataset that the `data` section of a config names; reads no image.

    `dir` may be a prepared folder itself, or the folder that holds `name`; an empty `dir` means
    TFDS's own data folder, or the cache for `digits`, which is written there first.

    Raises:
      DataError: nothing usable is there.
    """
    folder = prepared_folder(data["name"], data["dir"])
    try:
        builder = tfds.builder_from_directory(folder)
    except Exception as error:
        raise DataError(
            f"`{folder}` cannot be read as a TFDS dataset: {one_line(error)}"
        ) from error
    name, stored_as = f"{builder.info.name}/{builder.info.version}", builder.info.file_format.value
    if stored_as not in ("array_record", "tfrecord"):
        raise DataError(
            f"`{folder}` is stored as {stored_as}; prepare it as `array_record`, which can be read "
            "without TensorFlow"
        )
    image_key, label_key = _find_keys(builder, name)
    if stored_as == "tfrecord":
        builder = rewritten(builder, (image_key, label_key))
    features = builder.info.features
    shape: tuple[int, ...] = features[image_key].shape
    size = data["image_size"]
    if np.dtype(features[image_key].np_dtype) != np.uint8:
        raise DataError(f"images of `{name}` must be uint8, got {features[image_key].np_dtype}")
    if size:
        shape = (size, size, shape[-1])
    if None in shape:
        raise DataError(
            f"images of `{name}` differ in size ({shape}); give one size to load them "
            "at with `--config.data.image_size=`"
        )
    is_array = not isinstance(features[image_key], tfds.features.Image)
    if shape[-1] not in CHANNELS and not is_array:
        raise DataError(
            f"image files of `{name}` must have 1 to 4 channels, got {shape[-1]}; more need a "
            "feature `Tensor`, or a file `.npz`"
        )
    num_classes = features[label_key].num_classes
    if num_classes is None or num_classes < 2:
        raise DataError(f"`{name}` has {num_classes} class(es); a classifier needs two or more")
    labels, classes = tuple(features[label_key].names), tuple[int, ...]()
    if data.get("classes"):
        classes = choose_classes(num_classes, data["classes"], data["class_seed"])
        labels = tuple(labels[c] for c in classes)
    height, width, channels = shape
    return ImageDataset(
        name=name,
        image_shape=(height, width, channels),
        labels=labels,
        classes=classes,
        _builder=builder,
        _keys=(image_key, label_key),
        _resize=bool(size),
        _is_array=is_array,
    )


def _find_keys(builder: tfds.core.DatasetBuilder, name: str) -> tuple[str, str]:
    """Names of the image and the label feature."""
    features = builder.info.features
    supervised = builder.info.supervised_keys
    if supervised and len(supervised) == 2 and all(k in features for k in supervised):
        image_key, label_key = supervised
    else:
        images = [k for k, f in features.items() if isinstance(f, tfds.features.Image)]
        labels = [k for k, f in features.items() if isinstance(f, tfds.features.ClassLabel)]
        if len(images) != 1 or len(labels) != 1:
            raise DataError(
                f"`{name}` must have one Image and one ClassLabel feature, has "
                f"{images} and {labels}"
            )
        image_key, label_key = images[0], labels[0]
    if (
        not isinstance(features[label_key], tfds.features.ClassLabel)
        or len(features[image_key].shape) != 3
    ):
        raise DataError(
            f"`{name}` must map an image to a ClassLabel, its supervised keys are "
            f"`{image_key}` and `{label_key}`"
        )
    return image_key, label_key
