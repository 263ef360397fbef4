"""Datasets in a bucket, copied into the cache once."""

import base64
import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jointnas_jax.errors import DataError, StorageError, one_line
from jointnas_jax.files import writing
from jointnas_jax.runtime.bucket import Bucket, side_by_side
from jointnas_jax.runtime.cache import cache_dir
from jointnas_jax.runtime.output import tell

# What stores say of an object that changes with its content.
_STATES = ("size", "etag", "ETag", "md5Hash", "generation", "mtime")
_PART = ".unfinished"


def copied(url: str) -> Path:
    """Copies a folder or a file of a bucket into the cache, unless it is there.

    The copy is one of a state of the objects: where one has changed, all are copied anew. A copy
    that was cut off goes on with the files that it lacks. Where the store says an MD5, as
    `gs://` does, the content of each file is checked.

    Returns:
      The copy, which is called as the folder or file in the bucket is.

    Raises:
      InputError: There is nothing, it cannot be read, or no package reads such URLs.
    """
    bucket = Bucket(url)
    try:
        entries = {n: e for n, e in bucket.everything().items() if not n.endswith("/")}
        if not entries:
            raise DataError(f"`data.dir`: there is nothing at `{url}`")
        states = [(n, *(str(e.get(key)) for key in _STATES)) for n, e in entries.items()]
        digest = hashlib.sha256(repr((url, states)).encode()).hexdigest()[:16]
        home = cache_dir() / "data" / digest
        root = home / url.rpartition("/")[2]
        with _alone(home):
            lacking = {n: e for n, e in entries.items() if not _is_there(root / n, e)}
            if lacking:
                size = sum(entry["size"] for entry in lacking.values())
                tell(f"  copying {len(lacking):,} files ({size / 1e6:,.1f} MB) of `{url}`, once")
            side_by_side(lambda n: _copy(bucket, n, entries[n], root / n if n else root), lacking)
    except StorageError as error:
        raise DataError(f"`data.dir`: {error}") from error
    return root


@contextlib.contextmanager
def _alone(home: Path) -> Iterator[None]:
    """One process copies, the others wait; the kernel ends that with the process."""
    with writing(home):
        home.mkdir(parents=True, exist_ok=True)
        file = (home / "lock").open("w")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is_there(file: Path, entry: Mapping[str, Any]) -> bool:
    """Whether a file is copied: it gets its name when it is whole."""
    return file.is_file() and file.stat().st_size == entry["size"]


def _copy(bucket: Bucket, name: str, entry: Mapping[str, Any], file: Path) -> None:
    if ".." in name.split("/"):
        raise DataError(f"`{bucket.url}/{one_line(name)}` would lie outside of its copy")
    part = file.with_name(file.name + _PART)
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    bucket.download(name, part)
    with writing(file):
        sound = part.stat().st_size == entry["size"]
        if md5 := entry.get("md5Hash"):  # of `gs://`; an ETag of S3 need not be one
            with part.open("rb") as content:
                digest = hashlib.file_digest(content, "md5").digest()
            sound = sound and base64.b64encode(digest).decode() == md5
        if not sound:
            part.unlink()
            raise StorageError(
                f"the copy of `{bucket.url}/{name}` is not what the store says it is"
            )
        os.replace(part, file)
