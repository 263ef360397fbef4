"""Manifests in a bucket: which file of a workdir has which content, and how a workdir is read.

Below the URL of the workdir, in the folder of a run (see `lease.py`):

    objects/000000001    the content of a file
    manifests/000000002  which file has which object, with digests

The manifest with the highest number in the run with the highest number holds.
"""

import contextlib
import functools
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from jointnas_jax.errors import DamagedError, JointNASError, StorageError, WorkdirError, one_line
from jointnas_jax.files import json_bytes, parse_json, reading, writing
from jointnas_jax.rules import is_url
from jointnas_jax.runtime.bucket import Bucket, side_by_side
from jointnas_jax.storage.lease import RUNS, runs

SCHEMA = 1
OBJECTS, MANIFESTS = "objects", "manifests"
# Times that a manifest is removed, for a later one, before it is read.
_ATTEMPTS = 20


class File(NamedTuple):
    """A file of a workdir: SHA-256 of its content in hex, bytes, and when it changed."""

    sha256: str
    size: int
    mtime_ns: int


class Manifest(NamedTuple):
    """A manifest.

    Attributes:
      run: Name of the run that wrote it.
      digest: Its own SHA-256, in hex.
      files: Name in the workdir, such as `weights/a` -> file.
      objects: Name in the workdir -> name of the object in the run.
    """

    run: str
    digest: str
    files: Mapping[str, File]
    objects: Mapping[str, str]


def manifest_bytes(files: Mapping[str, File], objects: Mapping[str, str]) -> bytes:
    """The content of a manifest; arguments as its attributes."""
    rows = {name: {"object": objects[name]} | files[name]._asdict() for name in sorted(files)}
    return json_bytes({"files": rows}, digest=True, schema=SCHEMA)


def newest(bucket: Bucket) -> Manifest | None:
    """The manifest that holds; None where there is none.

    Raises:
      StorageError: The bucket cannot be read.
      DamagedError: The manifest is not what was written.
      WorkdirError: Another version wrote it.
    """
    for _ in range(_ATTEMPTS):
        for run in reversed(runs(bucket)):
            folder = f"{RUNS}/{run}/{MANIFESTS}"
            if names := bucket.names(folder):
                break
        else:
            return None
        content = bucket.read(f"{folder}/{names[-1]}")
        if content is not None:  # else a later one has replaced it
            return _parsed(f"{bucket.url}/{folder}/{names[-1]}", run, content)
    raise StorageError(f"`{bucket.url}` cannot be read: its manifests keep changing")


def download(
    bucket: Bucket, folder: Path, wanted: Callable[[str], bool] = lambda name: True
) -> Manifest | None:
    """Replaces a folder by the files of the manifest that holds, which it returns.

    Args:
      bucket: Objects below the URL of a workdir.
      folder: The folder, which is there afterwards in any case.
      wanted: Which files, by their names in the workdir.

    Raises:
      StorageError: The bucket cannot be read, or the folder not written.
      DamagedError: An object is not what was written.
      WorkdirError: Another version wrote the manifest.
    """
    fresh = folder.with_name(f".{folder.name}.new")
    before = None
    while True:
        manifest = newest(bucket)
        with writing(folder):
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir(parents=True)
        if manifest is None:
            break
        names = [name for name in manifest.files if wanted(name)]
        try:
            side_by_side(functools.partial(_fetch, bucket, fresh, manifest), names)
            break
        except FileNotFoundError as error:
            if manifest == before:
                raise DamagedError(f"`{bucket.url}` is damaged: {error} is missing") from error
            before = manifest  # a run that goes on may have replaced it meanwhile
    with writing(folder):
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)
    return manifest


@contextlib.contextmanager
def fetched(name: str | Path, wanted: Callable[[str], bool] = lambda name: True) -> Iterator[Path]:
    """The folder of a workdir; of a URL a copy of what it holds, which is removed at the end.

    Args:
      name: Path of the workdir, or its URL.
      wanted: See `download`.

    Raises:
      InputError: The bucket cannot be read, or it holds no workdir there.
      DamagedError: What it holds is not what was written.
    """
    url = str(name)
    if not is_url(url):
        yield Path(name)
        return
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / (PurePosixPath(url).name or RUNS)
        with as_input():
            manifest = download(Bucket(url), folder, wanted)
        if manifest is None:
            raise WorkdirError(f"`{url}` holds no workdir: there is no manifest in its `{RUNS}`")
        with naming(folder, url):
            yield folder


def at_top(name: str) -> bool:
    """Whether a file lies right in the workdir, as all but weights, states and the report does."""
    return "/" not in name


@contextlib.contextmanager
def as_input() -> Iterator[None]:
    """Where a bucket cannot be used before anything has happened, it is bad input."""
    try:
        yield
    except StorageError as error:
        raise WorkdirError(str(error)) from error


@contextlib.contextmanager
def naming(folder: Path, url: str) -> Iterator[None]:
    """Errors inside name the URL where they name its local folder."""
    try:
        yield
    except JointNASError as error:
        error.args = (str(error).replace(str(folder), url),)
        raise


def sha256(content: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(content).hexdigest()


def _parsed(where: str, run: str, content: bytes) -> Manifest:
    rows = parse_json(where, content, SCHEMA)
    with reading(where):
        rows = rows["files"]
        for name in rows:
            if "\0" in name or {"", ".", ".."} & set(name.split("/")):
                raise ValueError(f"a file must lie in the workdir, got {one_line(name)}")
        objects = {name: row.pop("object") for name, row in rows.items()}
        return Manifest(run, sha256(content), {n: File(**row) for n, row in rows.items()}, objects)


def _fetch(bucket: Bucket, folder: Path, manifest: Manifest, name: str) -> None:
    """Writes a file of a workdir; raises `FileNotFoundError` where its object is not there."""
    file, key = manifest.files[name], f"{RUNS}/{manifest.run}/{manifest.objects[name]}"
    content = bucket.read(key)
    if content is None:
        raise FileNotFoundError(f"`{key}`, the content of `{name}`,")
    if sha256(content) != file.sha256:
        raise DamagedError(f"`{bucket.url}/{key}` is damaged: it is not what was written")
    path = folder / name
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, ns=(file.mtime_ns, file.mtime_ns))
