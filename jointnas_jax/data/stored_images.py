"""Stored images of classes, written once as a TFDS dataset: files, or what is like them.

Where there is no `test`, images of `val` are the test images; without both, a fifth of each class
is. In the cache a dataset is written once for each state of the images: one that changed, is new or
lost makes another one.
"""

import collections
import concurrent.futures
import contextlib
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow_datasets as tfds

from jointnas_jax.data.division import carve_test
from jointnas_jax.data.image_file import describe_image
from jointnas_jax.data.writing import followed, is_written, plain_name, writing_dataset
from jointnas_jax.errors import DataError, StorageError, one_line, shown
from jointnas_jax.files import write_whole
from jointnas_jax.runtime.cache import cache_dir, cache_folder
from jointnas_jax.runtime.output import tell

# Images that a message names.
_NAMED = 3
# Images between two writes of what was read.
_STORED = 5_000
_VERSION = "1.0.0"


class StoredImage(Protocol):
    """The bytes of an image file, wherever they are."""

    @property
    def label(self) -> str:
        """Its class."""

    @property
    def place(self) -> str:
        """Where it is, as seen from the root of all; unlike that of any other."""

    def content(self) -> bytes:
        """Its bytes; raises `OSError` or `DataError`."""

    def state(self) -> list[int]:
        """Numbers that are others once it changed."""


class _Read(NamedTuple):
    """What an image is: its shape, uint8[H, W, C], and a digest; or why it cannot be read."""

    shape: tuple[int, int, int] = (0, 0, 0)
    digest: bytes = b""
    reason: str = ""


# Images by split: `train`, and where there are some `val` and `test`.
Splits = Mapping[str, Sequence[StoredImage]]


def prepare_images(root: Path, images: Splits) -> Path:
    """Writes images into the cache, unless they are there.

    Args:
      root: folder or file that holds them.
      images: the images.

    Returns:
      The folder of the dataset.

    Raises:
      DataError: there is none, or only one class; one cannot be decoded; a class has test images
        and none to train on; the cache cannot be written.
    """
    images, home = _checked(root, images), cache_dir() / "tfds"
    # What they are called, how long they are and when they changed stands for what they hold.
    states = [(s, one.place, one.label, *one.state()) for s, some in images.items() for one in some]
    index = home / "folders" / _digest(states)
    with contextlib.suppress(OSError, UnicodeDecodeError):
        folder = home / index.read_text(encoding="utf-8") / _VERSION
        if is_written(folder):
            return folder
    read = _read(root, images)
    _raise_unreadable(root, read)
    name = _name(root, images, read)
    folder = home / name / _VERSION
    _write(root, images, read, folder)
    with writing_dataset(f"the images of `{root}`", home, folder):
        index.parent.mkdir(exist_ok=True)
        write_whole(index, name.encode())
    return folder


def write_images(
    root: Path, images: Splits, out: Path, *, name: str = "", skip_unreadable: bool = False
) -> tuple[Path, dict[str, str]]:
    """Writes images as a dataset into another folder.

    Images that were read before, also by a run that was interrupted, are not decoded again.

    Args:
      root: see `prepare_images`.
      images: see there.
      out: folder that will hold the folder of the dataset.
      name: name of the dataset; "": that of `root`.
      skip_unreadable: leave out images that cannot be read, instead of raising.

    Returns:
      The folder of the dataset, and for each image that was left out the reason.

    Raises:
      DataError: as `prepare_images`; or there is such a dataset.
    """
    name = plain_name(name or root.resolve().stem)
    folder = out / name / _VERSION
    if is_written(folder):
        raise DataError(f"`{folder}` holds a dataset; give another --name, or remove it")
    images = _checked(root, images)
    read = _read(root, images)
    lost = {place: one.reason for place, one in read.items() if one.reason}
    if not skip_unreadable:
        _raise_unreadable(root, read)
    elif lost:
        left = {s: [one for one in some if one.place not in lost] for s, some in images.items()}
        images = _checked(root, left)
    _write(root, images, read, folder)
    return folder, lost


def _write(root: Path, images: Splits, read: Mapping[str, _Read], folder: Path) -> None:
    """Writes the dataset, whose name is that of the folder."""
    _tell_of_copies(root, images, read)
    if "test" not in images:
        images = _divided(root, images["train"], read)
    name, home = folder.parent.name, folder.parent.parent
    with writing_dataset(f"the images of `{root}`", home, folder):
        _builder(name, home, images, read).download_and_prepare()


def _name(root: Path, images: Splits, read: Mapping[str, _Read]) -> str:
    """Name of the dataset: that of the root, and a digest of the images, wherever they are."""
    contents = [
        (split, one.place, one.label, read[one.place].digest)
        for split, some in images.items()
        for one in some
    ]
    return f"folder_{plain_name(root.resolve().stem)}_{_digest(sorted(contents))}"


def _digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:8]


def _checked(root: Path, images: Splits) -> Splits:
    """The images, those of `val` as test images where there are no others.

    Raises `DataError` if there are too few classes, or some that cannot be learnt.
    """
    if "val" in images and "test" not in images:
        images = {"test" if split == "val" else split: some for split, some in images.items()}
    names = {one.label for one in images["train"]}
    if len(names) < 2:
        raise DataError(
            f"`{root}` holds training images of {len(names)} class(es), and a classifier needs "
            "two: one folder for each, such as `cat/1.jpg`, or these in `train` and `test`"
        )
    for split, some in images.items():
        if not some:
            raise DataError(f"split `{split}` of `{root}` has no images; add some, or remove it")
        if more := sorted({one.label for one in some} - names):
            raise DataError(
                f"split `{split}` of `{root}` has images of class {shown(more[0])}, which `train` "
                "has not; its classes are "
                + ", ".join(shown(name) for name in sorted(names)[:_NAMED])
                + (", ..." if len(names) > _NAMED else "")
            )
    return images


def _read(root: Path, images: Splits) -> dict[str, _Read]:
    """Decodes every image once, as long as it does not change: place -> what it is."""
    every = [one for some in images.values() for one in some]
    known = _Known(root)
    left = [one for one in every if one not in known]
    # In threads: Pillow decodes beside them, and what Python does for an image takes less time than
    # TFDS takes to write it. `benchmarks/reading.py` compares them with processes.
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool, known.stored():
        results = followed("reading images", pool.map(_read_one, left), len(left))
        for one, result in zip(left, results, strict=True):
            known.add(one, result)
    return {one.place: known.get(one) for one in every}


def _raise_unreadable(root: Path, read: Mapping[str, _Read]) -> None:
    """Raises `DataError` if some images cannot be read."""
    if bad := [place for place, one in read.items() if one.reason]:
        first = ", ".join(f"`{place}` ({read[place].reason})" for place in bad[:_NAMED])
        raise DataError(
            f"{len(bad)} of {len(read)} images of `{root}` cannot be read: {first}"
            + (", ..." if len(bad) > _NAMED else "")
            + "; repair, remove or hide them (`.name`), or write the others with "
            "scripts/prepare_data.py --skip_unreadable"
        )


class _Known:
    """What was read of the images of a root, in the cache; by place and state."""

    def __init__(self, root: Path):
        home = cache_folder("tfds/folders")
        self._file = home and home / f"read_{_digest(str(root.resolve()))}.json"
        self._rows: dict[str, list[Any]] = {}
        self._new = 0
        with contextlib.suppress(OSError, ValueError):
            if self._file is not None:
                self._rows = dict(json.loads(self._file.read_text(encoding="utf-8")))

    def __contains__(self, image: StoredImage) -> bool:
        row = self._rows.get(image.place, [])
        # What could not be read may be readable now: the disk may be to blame.
        return len(row) == 4 and row[0] == image.state() and not row[3]

    def add(self, image: StoredImage, read: _Read) -> None:
        """Notes what was read; writes all of it now and then."""
        self._rows[image.place] = [image.state(), list(read.shape), read.digest.hex(), read.reason]
        self._new += 1
        if self._new % _STORED == 0:
            self._store()

    def get(self, image: StoredImage) -> _Read:
        """What was read of an image."""
        _, (height, width, channels), digest, reason = self._rows[image.place]
        return _Read((height, width, channels), bytes.fromhex(digest), reason)

    @contextlib.contextmanager
    def stored(self) -> Iterator[None]:
        """Writes what was read, whatever ends the reading."""
        try:
            yield
        finally:
            if self._new:
                self._store()

    def _store(self) -> None:
        # A full disk costs the time to read again; names need not be UTF-8.
        if self._file is not None:
            with contextlib.suppress(StorageError):
                write_whole(self._file, json.dumps(self._rows).encode())


def _read_one(image: StoredImage) -> _Read:
    try:
        content = image.content()
        shape = describe_image(io.BytesIO(content), "it")
    except DataError as error:
        return _Read(reason=str(error).removeprefix("it cannot be read: "))
    except OSError as error:
        return _Read(reason=one_line(error.strerror or error))
    return _Read(shape, hashlib.sha256(content).digest())


def _tell_of_copies(root: Path, images: Splits, read: Mapping[str, _Read]) -> None:
    """Warns of images of other splits that are training images, too: what they say is nothing."""
    seen = {read[one.place].digest: one.place for one in images["train"]}
    for split in set(images) - {"train"}:
        copies = [one.place for one in images[split] if read[one.place].digest in seen]
        if copies:
            pairs = [f"`{place}`, which is `{seen[read[place].digest]}`" for place in copies]
            tell(
                f"warning: {len(copies)} {split} image(s) of `{root}` are training images, too: "
                + "; ".join(pairs[:_NAMED])
                + ("; ..." if len(pairs) > _NAMED else "")
            )


def _divided(root: Path, images: Sequence[StoredImage], read: Mapping[str, _Read]) -> Splits:
    """Training and test images, a share of each class; images of one content stay together."""
    groups: dict[bytes, list[StoredImage]] = collections.defaultdict(list)
    for one in images:
        groups[read[one.place].digest].append(one)
    names = sorted({one.label for one in images})
    together = list(groups.values())
    labels = np.array([names.index(group[0].label) for group in together])
    held = carve_test(labels, f"the images of `{root}`")
    splits: dict[str, list[StoredImage]] = {"train": [], "test": []}
    for group, is_test in zip(together, held, strict=True):
        splits["test" if is_test else "train"] += group
    return splits


def _builder(
    name: str, home: Path, images: Splits, read: Mapping[str, _Read]
) -> tfds.core.GeneratorBasedBuilder:
    """What writes a dataset, whose images are the stored bytes."""
    shapes = {read[one.place].shape for some in images.values() for one in some}
    sizes = {shape[:2] for shape in shapes}
    height, width = sizes.pop() if len(sizes) == 1 else (None, None)
    shape = (height, width, max(channels for *_, channels in shapes))
    labels = sorted({one.label for one in images["train"]})

    # In a dict, for mypy knows no such keyword of an untyped class.
    class Stored(tfds.core.GeneratorBasedBuilder, **{"skip_registration": True}):
        """Writes the splits of `images`."""

        VERSION = tfds.core.Version(_VERSION)

        def _info(self) -> tfds.core.DatasetInfo:
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(
                    {
                        "image": tfds.features.Image(shape=shape),
                        "label": tfds.features.ClassLabel(names=labels),
                        "file": tfds.features.Text(),
                    }
                ),
                supervised_keys=("image", "label"),
            )

        def _split_generators(
            self, dl_manager: tfds.download.DownloadManager
        ) -> dict[str, Iterator]:
            return {split: self._generate_examples(some) for split, some in images.items()}

        def _generate_examples(self, some: Sequence[StoredImage]) -> Iterator:
            for one in followed("writing images", some, len(some)):
                # Encoded bytes: TFDS needs TensorFlow to encode an array.
                place = one.place.encode("utf-8", "backslashreplace").decode()
                yield place, {"image": one.content(), "label": one.label, "file": place}

    Stored.name = name
    return Stored(data_dir=home, file_format="array_record")
