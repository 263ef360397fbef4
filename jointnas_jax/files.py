"""Files and folders that are written whole, with a digest of their content."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jointnas_jax.errors import DamagedError, StorageError, WorkdirError, one_line

# Of all files of a workdir that have a digest.
SCHEMA = 1
_SCHEMA, _DIGEST = "schema", "digest"
# How a file ends that is being written.
_UNFINISHED = ".unfinished"
# Orbax numbers saves by the process, and a save looks its number up late: it finds that of another
# thread which began meanwhile, writes before its folder is made, and loses what it wrote.
_ORBAX = threading.Lock()


def write_json(path: Path, data: Any, *, digest: bool = False, schema: int = SCHEMA) -> None:
    """Writes readable JSON, whole or not at all; nan and inf are refused.

    Args:
      path: of the file.
      data: to write.
      digest: write the schema and a digest of `data`, a dict, with it.
      schema: version of the file's content.

    Raises:
      StorageError: it cannot be written.
    """
    if digest:
        data = {_SCHEMA: schema} | data
        data = data | {_DIGEST: _digest_of(data)}
    text = json.dumps(data, indent=2, allow_nan=False) + "\n"
    try:
        with tempfile.NamedTemporaryFile(
            "w",
            dir=path.parent,
            prefix=f".{path.name}.",
            suffix=_UNFINISHED,
            encoding="utf-8",
            delete=False,
        ) as file:
            try:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
                os.chmod(file.name, 0o644)
                os.replace(file.name, path)
            except OSError:
                os.unlink(file.name)
                raise
    except OSError as error:
        raise StorageError(f"`{path}` cannot be written: {error.strerror}") from error


def remove_unfinished(folder: Path) -> None:
    """Removes what `write_json` left in a folder where it was killed."""
    for path in folder.glob(f".*{_UNFINISHED}"):
        path.unlink(missing_ok=True)


def read_json(path: Path, schema: int = SCHEMA) -> Any:
    """Reads what `write_json` wrote with a digest, without it.

    Raises:
      DamagedError: it is not what was written.
      WorkdirError: it cannot be read, or another version wrote it.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        found, digest = data.get(_SCHEMA), data.pop(_DIGEST, None)
        sound = digest == _digest_of(data)
    except OSError as error:
        raise WorkdirError(f"`{path}` cannot be read: {error}") from error
    except (ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise DamagedError(f"`{path}` is damaged: {one_line(error)}") from error
    # Versions before the first schema wrote no digest either.
    if not sound and (digest is not None or found == schema):
        raise DamagedError(f"`{path}` is damaged: it is not what was written")
    if found != schema:
        described = "without a schema" if found is None else f"of schema {one_line(found)}"
        raise WorkdirError(
            f"`{path}` is {described}, this version reads schema {schema}; give another --workdir, "
            "or replace what is there with --overwrite"
        )
    return data


def write_digest(folder: Path) -> None:
    """Writes the digest of a folder into a file beside it."""
    _digest_file(folder).write_text(_digest(folder), encoding="utf-8")


def check_digest(folder: Path) -> None:
    """Compares a folder with its digest.

    Raises:
      DamagedError: it is not what the digest was written for.
      StorageError: it cannot be read, and may be sound.
    """
    file = _digest_file(folder)
    if not folder.is_dir():
        raise DamagedError(f"`{folder}` is missing")
    if not file.is_file():
        raise DamagedError(f"`{folder}` was not written to its end: it has no `{file.name}`")
    try:
        sound = file.read_bytes() == _digest(folder).encode()
    except OSError as error:
        raise StorageError(f"`{folder}` cannot be read: {error}") from error
    if not sound:
        raise DamagedError(f"`{folder}` is damaged: it is not what was written")


def read_checked(path: Path, sha256: str) -> bytes:
    """Reads a file whose digest was written elsewhere.

    Args:
      path: of the file.
      sha256: of its content, in hex.

    Raises:
      DamagedError: it is missing, or not what the digest was written for.
      StorageError: it cannot be read, and may be sound.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise DamagedError(f"`{path}` is missing") from error
    except OSError as error:
        raise StorageError(f"`{path}` cannot be read: {error}") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DamagedError(f"`{path}` is damaged: it is not what was written")
    return content


@contextlib.contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Gives an empty folder to fill, which takes the name and place of `folder` when all is there.

    If something fails, `folder` is what it was. What a kill leaves beside it, the next call for the
    same folder removes.

    Raises:
      StorageError: something cannot be written.
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
        raise StorageError(f"`{path}` cannot be written: {one_line(error)}") from error


@contextlib.contextmanager
def saving(path: Path) -> Iterator[None]:
    """`writing` by Orbax: one thread at a time."""
    with _ORBAX, writing(path):
        yield


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
