"""Datasets that are written into the cache."""

import contextlib
import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import tensorflow_datasets as tfds
from rich.console import Console
from rich.progress import track

from jointnas_jax.errors import DataError, StorageError, one_line

_Item = TypeVar("_Item")
# From so many images on they take long enough for a progress bar.
_MANY = 2_000


def followed(what: str, items: Iterable[_Item], count: int, each: int = 1) -> Iterable[_Item]:
    """So many items, of `each` images, with a progress bar on a terminal where these are many."""
    console = Console(stderr=True)
    if count * each < _MANY or not console.is_terminal:
        return items
    return track(items, what, total=count, console=console, transient=True)


def plain_name(name: str) -> str:
    """A name such as TFDS allows for a dataset."""
    plain = re.sub("[^a-z0-9]+", "_", name.lower()).strip("_")
    return plain if plain[:1].isalpha() else f"images_{plain}".rstrip("_")


def class_name(text: str) -> str:
    """A name as TFDS keeps it: a line of UTF-8, without spaces around it."""
    return " ".join(text.encode("utf-8", "backslashreplace").decode().split())


def is_written(folder: Path) -> bool:
    """Whether a whole dataset is in a folder: TFDS writes elsewhere, and renames it into place."""
    return (folder / "dataset_info.json").exists()


@contextlib.contextmanager
def writing_dataset(what: str, home: Path, folder: Path) -> Iterator[None]:
    """Quiet inside, where TFDS reports a download that there is none of; see `followed`.

    Raises `DataError` if `what` cannot be written, unless another process was first.
    """
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    except (OSError, StorageError) as error:
        if not is_written(folder):
            raise DataError(
                f"{what} cannot be written into `{home}` ({one_line(error)}); name a folder that "
                "can be, for the cache with the variable XDG_CACHE_HOME"
            ) from error
