"""Image files in folders or in a list, written into the cache as a TFDS dataset.

A folder for each class (`DIR/cat/1.jpg`), or these in `train`, `val` (`valid`, `validation`) and
`test`; or a CSV file with the columns `path`, `label` and, if wanted, `split`. Where there is no
`test`, images of `val` are the test images; without both, a fifth of each class is. The dataset is
written once for each state of the files: a changed, new or lost file makes another one.
"""

import collections
import concurrent.futures
import contextlib
import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from rich.progress import track

from jointnas_jax.data.division import carve_validation
from jointnas_jax.data.image_file import describe_image
from jointnas_jax.data.writing import is_written, plain_name, writing_dataset
from jointnas_jax.errors import DataError, StorageError, one_line, shown
from jointnas_jax.files import write_whole
from jointnas_jax.runtime.cache import cache_dir, cache_folder
from jointnas_jax.runtime.output import tell

_SPLITS = {"train": "train", "test": "test"} | dict.fromkeys(("val", "valid", "validation"), "val")
# Share of each class, where there are no test images.
_TEST_SHARE = 0.2
_SEED = 0
# Files that a message names.
_NAMED = 3
# Files between two writes of what was read.
_STORED = 5_000
# From so many files on, reading them takes long enough for a progress bar.
_MANY = 2_000
_VERSION = "1.0.0"
_LIST = ".csv"


class ImageFile(NamedTuple):
    """An image file of a class."""

    label: str
    path: Path


class _Read(NamedTuple):
    """What a file holds: its shape, uint8[H, W, C], and a digest; or why it cannot be read."""

    shape: tuple[int, int, int] = (0, 0, 0)
    digest: bytes = b""
    reason: str = ""


Files = Mapping[str, Sequence[ImageFile]]


def holds_images(root: Path) -> bool:
    """Whether it is a list, or a folder that holds folders with files, as classes or splits do."""
    if root.is_file():
        return root.suffix.lower() == _LIST
    return any(path.is_file() for folder in _folders(root) for path in folder.rglob("*"))


def prepare_folder(root: Path) -> Path:
    """Writes the images of a folder or list into the cache, unless they are there.

    Returns:
      The folder of the dataset.

    Raises:
      DataError: there is no image, or only one class; a file is no image; a class has test images
        and none to train on; the list lacks a column; the cache cannot be written.
    """
    files, home = _find(root), cache_dir() / "tfds"
    # What the files are called, how long they are and when they changed stands for what they hold.
    index = home / "folders" / _digest(_states(root, files))
    with contextlib.suppress(OSError, UnicodeDecodeError):
        folder = home / index.read_text(encoding="utf-8") / _VERSION
        if is_written(folder):
            return folder
    read = _read(root, [file for some in files.values() for file in some])
    _tell_of_copies(root, files, read)
    if "test" not in files:
        files = _divided(files["train"], read)
    name = _name(root, files, read)
    folder = home / name / _VERSION
    with writing_dataset(f"the images of `{root}`", home, folder):
        _builder(name, home, root, files, read).download_and_prepare()
        index.parent.mkdir(exist_ok=True)
        write_whole(index, name.encode())
    return folder


def write_folder(
    root: Path, out: Path, *, name: str = "", skip_unreadable: bool = False
) -> tuple[Path, dict[str, str]]:
    """Writes the images of a folder or list as a dataset into another folder.

    Files that were read before, also by a run that was interrupted, are not decoded again.

    Args:
      root: see above.
      out: folder that will hold the folder of the dataset.
      name: name of the dataset; "": that of `root`.
      skip_unreadable: leave out files that cannot be read, instead of raising.

    Returns:
      The folder of the dataset, and for each file that was left out the reason.

    Raises:
      DataError: as `prepare_folder`; or there is such a dataset.
    """
    name = plain_name(name or root.resolve().stem)
    folder = out / name / _VERSION
    if is_written(folder):
        raise DataError(f"`{folder}` holds a dataset; give another --name, or remove it")
    files = _find(root)
    read = _read(root, [file for some in files.values() for file in some], skip_unreadable)
    lost = {_place(root, path): one.reason for path, one in read.items() if one.reason}
    if lost:
        files = {s: [f for f in some if not read[f.path].reason] for s, some in files.items()}
        _check_classes(root, files)
    _tell_of_copies(root, files, read)
    if "test" not in files:
        files = _divided(files["train"], read)
    with writing_dataset(f"the images of `{root}`", out, folder):
        _builder(name, out, root, files, read).download_and_prepare()
    return folder, lost


def _states(root: Path, files: Files) -> list[tuple[str, str, str, int, int]]:
    return [
        (split, _place(root, file.path), file.label, stat.st_size, stat.st_mtime_ns)
        for split, some in files.items()
        for file in some
        for stat in [file.path.stat()]
    ]


def _name(root: Path, files: Files, read: Mapping[Path, _Read]) -> str:
    """Name of the dataset: that of the folder, and a digest of the images, wherever they are."""
    images = [
        (split, _place(root, file.path), file.label, read[file.path].digest)
        for split, some in files.items()
        for file in some
    ]
    return f"folder_{plain_name(root.resolve().stem)}_{_digest(sorted(images))}"


def _place(root: Path, path: Path) -> str:
    """Where a file is, as seen from the folder or the list."""
    return os.path.relpath(path, root if root.is_dir() else root.parent)


def _digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:8]


def _folders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _find(root: Path) -> Files:
    """The image files of each split, by class and path: `train`, and where it is given `test`."""
    found = _listed(root) if root.is_file() else _in_folders(root)
    if "val" in found and "test" not in found:
        found["test"] = found.pop("val")
    _check_classes(root, found)
    return found


def _check_classes(root: Path, found: Files) -> None:
    """Raises `DataError` if there are too few classes, or some that cannot be learnt."""
    names = {file.label for file in found["train"]}
    if len(names) < 2:
        raise DataError(
            f"`{root}` holds images of {len(names)} class(es), and a classifier needs two: one "
            "folder for each, such as `cat/1.jpg`, or these in `train` and `test`"
        )
    for split, some in found.items():
        if more := sorted({file.label for file in some} - names):
            raise DataError(
                f"split `{split}` of `{root}` has images of class {shown(more[0])}, which `train` "
                "has not; its classes are "
                + ", ".join(shown(name) for name in sorted(names)[:_NAMED])
                + (", ..." if len(names) > _NAMED else "")
            )


def _in_folders(root: Path) -> dict[str, list[ImageFile]]:
    folders = _folders(root)
    splits = {_SPLITS[p.name.lower()]: p for p in folders if p.name.lower() in _SPLITS}
    # Without folders in it `train` is a class of trains.
    if "train" not in splits or not _folders(splits["train"]):
        return {"train": _classes(root, folders)}
    return {split: _classes(folder, _folders(folder)) for split, folder in splits.items()}


def _listed(file: Path) -> dict[str, list[ImageFile]]:
    """The files of a CSV list."""
    found: dict[str, list[ImageFile]] = {"train": []}
    try:
        with file.open(newline="", encoding="utf-8-sig") as text:
            rows = csv.DictReader(text)
            if missing := {"path", "label"} - set(rows.fieldnames or ()):
                raise DataError(
                    f"`{file}` must have the columns `path` and `label`, lacks "
                    f"`{min(missing)}`; its columns are {list(rows.fieldnames or ())}"
                )
            for number, row in enumerate(rows, start=2):
                split = _SPLITS.get((row.get("split") or "train").lower())
                path = file.parent / row["path"]
                if split is None or not row["label"] or not path.is_file():
                    raise DataError(
                        f"line {number} of `{file}` must name a file, a label and, if any, the "
                        f"split {', '.join(_SPLITS)}, got {shown(dict(row))}"
                    )
                found.setdefault(split, []).append(ImageFile(row["label"], path))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"`{file}` cannot be read: {one_line(error)}") from error
    return found


def _classes(root: Path, folders: Sequence[Path]) -> list[ImageFile]:
    """The files of class folders, at any depth, without hidden ones."""
    hidden = lambda path: any(part.startswith(".") for part in path.relative_to(root).parts)
    return [
        ImageFile(folder.name, path)
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not hidden(path)
    ]


def _read(
    root: Path, files: Sequence[ImageFile], skip_unreadable: bool = False
) -> dict[Path, _Read]:
    """Decodes every file once, as long as it does not change.

    Raises `DataError` if some cannot be, unless they are to be skipped.
    """
    paths = [file.path for file in files]
    known = _Known(root)
    left = [path for path in paths if path not in known]
    # Pillow decodes beside other threads.
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool, known.stored():
        results: Iterable[_Read] = pool.map(_read_one, left)
        if len(left) >= _MANY:
            results = track(results, "reading images", total=len(left), transient=True)
        for path, result in zip(left, results, strict=True):
            known.add(path, result)
    read = {path: known.get(path) for path in paths}
    if skip_unreadable:
        return read
    if bad := [path for path in paths if read[path].reason]:
        first = ", ".join(f"`{_place(root, p)}` ({read[p].reason})" for p in bad[:_NAMED])
        raise DataError(
            f"{len(bad)} of {len(paths)} files of `{root}` cannot be read: {first}"
            + (", ..." if len(bad) > _NAMED else "")
            + "; repair, remove or hide them (`.name`), or write the others with "
            "scripts/prepare_data.py --skip_unreadable"
        )
    return read


class _Known:
    """What was read of the files of a folder, in the cache; by path, size and time of change."""

    def __init__(self, root: Path):
        home = cache_folder("tfds/folders")
        self._file = home and home / f"read_{_digest(str(root.resolve()))}.json"
        self._rows: dict[str, list[Any]] = {}
        self._new = 0
        with contextlib.suppress(OSError, ValueError):
            if self._file is not None:
                self._rows = dict(json.loads(self._file.read_text(encoding="utf-8")))

    def __contains__(self, path: Path) -> bool:
        row = self._rows.get(os.fspath(path), [])
        # What could not be read may be readable now: the disk may be to blame.
        return len(row) == 5 and row[:2] == _state_of(path) and not row[4]

    def add(self, path: Path, read: _Read) -> None:
        """Notes what was read; writes all of it now and then."""
        row = [*_state_of(path), list(read.shape), read.digest.hex(), read.reason]
        self._rows[os.fspath(path)] = row
        self._new += 1
        if self._new % _STORED == 0:
            self._store()

    def get(self, path: Path) -> _Read:
        """What was read of a file."""
        _, _, (height, width, channels), digest, reason = self._rows[os.fspath(path)]
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


def _state_of(path: Path) -> list[int]:
    try:
        stat = path.stat()
    except OSError:
        return [-1, -1]
    return [stat.st_size, stat.st_mtime_ns]


def _read_one(path: Path) -> _Read:
    try:
        content = path.read_bytes()
        shape = describe_image(io.BytesIO(content), "it")
    except DataError as error:
        return _Read(reason=str(error).removeprefix("it cannot be read: "))
    except OSError as error:
        return _Read(reason=one_line(error.strerror or error))
    return _Read(shape, hashlib.sha256(content).digest())


def _tell_of_copies(root: Path, files: Files, read: Mapping[Path, _Read]) -> None:
    """Warns of test images that are training images, too: what they say is worth nothing."""
    seen = {read[file.path].digest: file.path for file in files["train"]}
    copies = [file.path for file in files.get("test", ()) if read[file.path].digest in seen]
    if copies:
        first = copies[0]
        same = seen[read[first].digest]
        tell(
            f"warning: {len(copies)} test image(s) of `{root}` are training images, too, such as "
            f"`{_place(root, first)}`, which is `{_place(root, same)}`"
        )


def _divided(files: Sequence[ImageFile], read: Mapping[Path, _Read]) -> Files:
    """Training and test images, a share of each class; files of the same content stay together."""
    groups: dict[bytes, list[ImageFile]] = collections.defaultdict(list)
    for file in files:
        groups[read[file.path].digest].append(file)
    names = sorted({file.label for file in files})
    together = list(groups.values())
    labels = np.array([names.index(group[0].label) for group in together])
    held = carve_validation(labels, _TEST_SHARE, _SEED)
    splits: dict[str, list[ImageFile]] = {"train": [], "test": []}
    for group, is_test in zip(together, held, strict=True):
        splits["test" if is_test else "train"] += group
    return splits


def _builder(
    name: str, home: Path, root: Path, files: Files, read: Mapping[Path, _Read]
) -> tfds.core.GeneratorBasedBuilder:
    """What writes a dataset, whose images are the files as they are."""
    shapes = {read[file.path].shape for some in files.values() for file in some}
    sizes = {shape[:2] for shape in shapes}
    height, width = sizes.pop() if len(sizes) == 1 else (None, None)
    shape = (height, width, max(channels for *_, channels in shapes))
    labels = sorted({file.label for file in files["train"]})

    # In a dict, for mypy knows no such keyword of an untyped class.
    class Folder(tfds.core.GeneratorBasedBuilder, **{"skip_registration": True}):
        """Writes the splits of `files`."""

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
            return {split: self._generate_examples(some) for split, some in files.items()}

        def _generate_examples(self, some: Sequence[ImageFile]) -> Iterator:
            for file in some:
                # Encoded bytes: TFDS needs TensorFlow to encode an array.
                image, path = file.path.read_bytes(), _place(root, file.path)
                yield path, {"image": image, "label": file.label, "file": path}

    Folder.name = name
    return Folder(data_dir=home, file_format="array_record")
