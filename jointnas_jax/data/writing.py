"""Datasets that are written into the cache."""

import contextlib
import io
import re
from collections.abc import Iterator
from pathlib import Path

from jointnas_jax.errors import DataError, StorageError, one_line


def plain_name(name: str) -> str:
    """A name such as TFDS allows for a dataset."""
    plain = re.sub("[^a-z0-9]+", "_", name.lower()).strip("_")
    return plain if plain[:1].isalpha() else f"images_{plain}".rstrip("_")


def is_written(folder: Path) -> bool:
    """Whether a whole dataset is in a folder: TFDS writes elsewhere, and renames it into place."""
    return (folder / "dataset_info.json").exists()


@contextlib.contextmanager
def writing_dataset(what: str, home: Path, folder: Path) -> Iterator[None]:
    """Quiet inside, where TFDS reports a download that there is none of.

    Raises `DataError` if `what` cannot be written, unless another process was first.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    except (OSError, StorageError) as error:
        if not is_written(folder):
            raise DataError(
                f"{what} cannot be written into `{home}` ({one_line(error)}); name a folder that "
                "can be, for the cache with the variable XDG_CACHE_HOME"
            ) from error
