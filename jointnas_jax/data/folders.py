"""Image files in folders or in a list.

A folder for each class (`DIR/cat/1.jpg`), or these in `train`, `val` (`valid`, `validation`) and
`test`; or a CSV file with the columns `path`, `label` and, if wanted, `split`.
"""

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from jointnas_jax.data.writing import class_name
from jointnas_jax.errors import DataError, one_line, shown
from jointnas_jax.runtime.output import tell

# What people call a split -> what it is called here.
SPLITS = (
    dict.fromkeys(("train", "training"), "train")
    | dict.fromkeys(("val", "valid", "validation"), "val")
    | dict.fromkeys(("test", "testing"), "test")
)
_LIST = ".csv"


class ImageFile(NamedTuple):
    """An image file of a class; see `StoredImage`."""

    label: str
    place: str
    path: Path

    def content(self) -> bytes:
        """The bytes of the file; raises `OSError`."""
        return self.path.read_bytes()

    def state(self) -> list[int]:
        """Bytes, and nanoseconds of the last change."""
        try:
            stat = self.path.stat()
        except OSError:
            return [-1, -1]
        return [stat.st_size, stat.st_mtime_ns]


def holds_images(root: Path) -> bool:
    """Whether it is a list, or a folder that holds folders with files, as classes or splits do."""
    if root.is_file():
        return root.suffix.lower() == _LIST
    return any(files for folder in _folders(root) for *_, files in os.walk(folder))


def find_files(root: Path) -> dict[str, Sequence[ImageFile]]:
    """The image files of each split of a folder or a list, by class and path.

    Raises:
      DataError: a folder cannot be read, or the list cannot or lacks a column.
    """
    try:
        return _listed(root) if root.is_file() else _in_folders(root)
    except OSError as error:
        raise DataError(
            f"`{error.filename or root}` cannot be read: {error.strerror or one_line(error)}"
        ) from error


def _folders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _in_folders(root: Path) -> dict[str, Sequence[ImageFile]]:
    folders = _folders(root)
    splits: dict[str, Path] = {}
    for folder in folders:
        split = SPLITS.get(folder.name.lower(), "")
        if split in splits:
            raise DataError(
                f"`{root}` must have one folder for split `{split}`, has `{splits[split].name}` "
                f"and `{folder.name}`"
            )
        if split:
            splits[split] = folder
    if len(folders) == 1 and not splits and _folders(folders[0]):
        raise DataError(
            f"`{root}` must hold a folder for each class, holds `{folders[0].name}` alone, which "
            f"has folders; did you mean `{folders[0]}`?"
        )
    # Without folders in it `train` is a class of trains, unless all are called as splits are.
    if len(splits) < len(folders) and not ("train" in splits and _folders(splits["train"])):
        return {"train": _classes(root, folders)}
    if left_out := [folder.name for folder in folders if folder not in splits.values()]:
        tell(f"  folders of `{root}` beside its splits are left out: {', '.join(left_out[:9])}")
    found = {split: _classes(root, _folders(folder)) for split, folder in splits.items()}
    return {"train": [], **found}


def _classes(root: Path, folders: Sequence[Path]) -> list[ImageFile]:
    """The files of class folders, at any depth, without hidden ones."""
    found = {folder: sorted(_files(folder)) for folder in folders}
    if any(found.values()) and (empty := [folder.name for folder in folders if not found[folder]]):
        tell(f"  folders of `{root}` without files are left out: {', '.join(empty[:9])}")
    return [
        ImageFile(class_name(folder.name), str(path.relative_to(root)), path)
        for folder, paths in found.items()
        for path in paths
    ]


def _files(folder: Path) -> Iterator[Path]:
    """The files in a folder; raises `OSError` where one in it cannot be listed."""

    def refuse(error: OSError) -> NoReturn:
        raise error

    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(place, name) for name in names if not name.startswith("."))


def _listed(file: Path) -> dict[str, Sequence[ImageFile]]:
    """The files of a CSV list."""
    found: dict[str, list[ImageFile]] = {"train": []}
    lines: dict[str, int] = {}
    try:
        with file.open(newline="", encoding="utf-8-sig") as text:
            rows = csv.DictReader(text)
            if missing := {"path", "label"} - set(rows.fieldnames or ()):
                raise DataError(
                    f"`{file}` must have the columns `path` and `label`, lacks "
                    f"`{min(missing)}`; its columns are {list(rows.fieldnames or ())}"
                )
            for number, row in enumerate(rows, start=2):
                split = SPLITS.get((row.get("split") or "train").lower())
                path = file.parent / (row["path"] or "")
                label = class_name(row["label"] or "")
                if split is None or not label or not path.is_file():
                    raise DataError(
                        f"line {number} of `{file}` must name a file, a label and, if any, the "
                        f"split {', '.join(SPLITS)}, got {shown(dict(row))}"
                    )
                if (first := lines.setdefault(row["path"], number)) != number:
                    raise DataError(
                        f"lines {first} and {number} of `{file}` name one file, "
                        f"{shown(row['path'])}; it must stand in one of them"
                    )
                found.setdefault(split, []).append(ImageFile(label, row["path"], path))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"`{file}` cannot be read: {one_line(error)}") from error
    return dict(found)
