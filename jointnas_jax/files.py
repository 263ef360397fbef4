"""Files and folders that are written whole, with a digest of their content."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jointnas_jax.errors import DamagedError, JointNASError, StorageError, WorkdirError, one_line

# Version of every file with a digest, unless it has one of its own.
SCHEMA = 1
# What a conversion raises where the content makes no sense.
UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
_SCHEMA, _DIGEST = "schema", "digest"
_NOT_FOR_ORBAX = re.compile(r"[\[\]\\\ud800-\udfff]|:$")
# Suffix of a file that is being written.
_UNFINISHED = ".unfinished"
# Folders that this process has open, by number; only Linux has it.
OPEN_FILES = Path("/proc/self/fd")
# Orbax numbers saves by the process, and a save looks its number up late: it finds that of another
# thread which began meanwhile, writes before its folder is made, and loses what it wrote.
_ORBAX = threading.Lock()


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file, whole or not at all; raises `StorageError`."""
    with (
        writing(path),
        tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", suffix=_UNFINISHED, delete=False
        ) as file,
    ):
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except OSError:
            os.unlink(file.name)
            raise


def remove_unfinished(folder: Path) -> None:
    """Removes what a killed `write_whole` left in a folder."""
    for path in folder.glob(f".*{_UNFINISHED}"):
        path.unlink(missing_ok=True)


def write_json(path: Path, data: Any, *, digest: bool = False, schema: int = SCHEMA) -> None:
    """Writes readable JSON, whole or not at all; refuses nan and inf.

    Args:
      path: The file.
      data: Its content.
      digest: Add the schema and a digest to `data`, a dict.
      schema: Version of the content.

    Raises:
      StorageError: The file cannot be written.
    """
    write_whole(path, json_bytes(data, digest=digest, schema=schema))


def json_bytes(data: Any, *, digest: bool = False, schema: int = SCHEMA) -> bytes:
    """The content of a file of `write_json`."""
    if digest:
        data = {_SCHEMA: schema} | data
        data = data | {_DIGEST: _digest_of(data)}
    return (json.dumps(data, indent=2, allow_nan=False) + "\n").encode()


def read_json(path: Path, schema: int = SCHEMA) -> Any:
    """Reads a file of `write_json` with a digest; returns it without the digest.

    Raises:
      DamagedError: The content is not what was written.
      WorkdirError: The file cannot be read, or another version wrote it.
    """
    with reading(path):
        content = path.read_bytes()
    return parse_json(path, content, schema)


def parse_json(path: str | Path, content: bytes, schema: int = SCHEMA) -> Any:
    """The same for a content that was read from a path or a URL."""
    with reading(path):
        data = json.loads(content.decode())
        stored, digest = data.get(_SCHEMA), data.pop(_DIGEST, None)
        sound = digest == _digest_of(data)
    # Versions before the first schema wrote no digest either.
    if not sound and (digest is not None or stored == schema):
        raise DamagedError(f"`{path}` is damaged: it is not what was written")
    if stored != schema:
        described = "without a schema" if stored is None else f"of schema {one_line(stored)}"
        raise WorkdirError(
            f"`{path}` is {described}, this version reads schema {schema}; give another --workdir, "
            "or replace what is there with --overwrite"
        )
    return data


@contextlib.contextmanager
def reading(
    path: str | Path, kind: type[JointNASError] | None = None, fix: str = ""
) -> Iterator[None]:
    """Turns what reading and converting a file raises into one line that names the file.

    Args:
      path: The file, a folder, or a URL.
      kind: Class of the error, whatever its cause.
      fix: End of the message where the content makes no sense.

    Raises:
      WorkdirError: The file cannot be read.
      DamagedError: Its content makes no sense.
    """
    try:
        yield
    except OSError as error:
        raise (kind or WorkdirError)(f"`{path}` cannot be read: {one_line(error)}") from error
    except UNREADABLE as error:
        what = "cannot be read" if kind else "is damaged"
        reason = f"`{path}` {what}: {one_line(repr(error))}{fix}"
        raise (kind or DamagedError)(reason) from error


def write_digest(folder: Path) -> None:
    """Writes the digest of a folder into a file beside it."""
    _digest_file(folder).write_text(_digest(folder), encoding="utf-8")


def check_digest(folder: Path) -> None:
    """Compares a folder with its digest.

    Raises:
      DamagedError: The folder is not what the digest was written for.
      StorageError: It cannot be read, and may be sound.
    """
    file = _digest_file(folder)
    if not folder.is_dir():
        raise DamagedError(f"`{folder}` is missing")
    if not file.is_file():
        raise DamagedError(f"`{folder}` was not written to its end: it has no `{file.name}`")
    with reading(folder, StorageError):
        sound = file.read_bytes() == _digest(folder).encode()
    if not sound:
        raise DamagedError(f"`{folder}` is damaged: it is not what was written")


def read_checked(path: Path, sha256: str) -> bytes:
    """Reads a file whose digest, in hex, was written elsewhere.

    Raises:
      DamagedError: The file is missing, or not what the digest was written for.
      StorageError: It cannot be read, and may be sound.
    """
    with reading(path, StorageError):
        if not path.exists():
            raise DamagedError(f"`{path}` is missing")
        content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DamagedError(f"`{path}` is damaged: it is not what was written")
    return content


@contextlib.contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Yields an empty folder to fill, which replaces `folder` when everything inside is written.

    If something fails, `folder` stays as it was. The next call for the same folder removes what a
    kill left beside it.

    Raises:
      StorageError: Something cannot be written.
    """
    fresh, former = (folder.with_name(f".{folder.name}.{s}{_UNFINISHED}") for s in ("new", "old"))
    try:
        with writing(folder):
            for path in (fresh, former):
                if path.exists():
                    shutil.rmtree(path)
            fresh.mkdir()
            yield fresh
            if folder.exists():
                folder.rename(former)
            fresh.rename(folder)
    finally:
        for path in (fresh, former) if folder.exists() else (fresh,):
            shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises `StorageError`, naming the path, where something inside cannot be written."""
    try:
        yield
    except StorageError:
        raise
    except Exception as error:  # Orbax wraps what the system says
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise StorageError(f"`{path}` cannot be written: {one_line(reason)}") from error


@contextlib.contextmanager
def saving(path: Path) -> Iterator[None]:
    """`writing` by Orbax: one thread at a time."""
    with _ORBAX, writing(path):
        yield


def check_arrays_folder(path: Path, open_files: Path = OPEN_FILES) -> None:
    """Raises `WorkdirError` if Orbax could not write below a path, before anything trains.

    Where folders have numbers it always can, see `runtime/arrays_on_disk.py`.
    """
    if open_files.exists():
        return
    bad = [part for part in path.absolute().parts if _NOT_FOR_ORBAX.search(part)]
    if bad:
        raise WorkdirError(
            f"`{path}` cannot hold weights on this system: folders may not have `[`, `]`, a "
            f"backslash or bytes that are no UTF-8 in their names, nor end with `:`, got "
            f"{bad[0]!a}; give another folder"
        )


def _digest_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.sha256")


def _digest(folder: Path) -> str:
    """SHA-256 of the names and contents of all files in a folder, in hex."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        content = hashlib.sha256(path.read_bytes()).digest()
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + content)
    return digest.hexdigest()


def _digest_of(data: dict[str, Any]) -> str:
    content = json.dumps(data, sort_keys=True, allow_nan=False)
    return hashlib.sha256(content.encode()).hexdigest()
