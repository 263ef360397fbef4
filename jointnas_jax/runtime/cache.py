"""The cache folder: data that can be computed again, so nothing depends on it."""

import contextlib
import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jointnas_jax.errors import StorageError
from jointnas_jax.files import write_whole

_DIGEST_BYTES = hashlib.sha256().digest_size


def cache_dir() -> Path:
    """Folder for datasets and compiled programs: `$XDG_CACHE_HOME/jointnas_jax`."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "jointnas_jax"


def cache_folder(name: str) -> Path | None:
    """A folder in the cache, private and made if need be; None where nothing can be written."""
    folder = cache_dir() / name
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        usable = os.access(folder, os.W_OK | os.X_OK)
    except OSError:
        return None
    return folder if usable else None


def remembered(name: str, key: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """Returns an array from the cache, or computes and stores it.

    Args:
      name: Folder in the cache.
      key: Everything that the array depends on.
      compute: Function that returns the array, called where the cache has no sound file.
    """
    folder = cache_folder(name)
    if folder is None:
        return compute()
    file = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.bin"
    with contextlib.suppress(OSError):
        content = file.read_bytes()
        digest, content = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if hashlib.sha256(content).digest() == digest:
            return np.load(io.BytesIO(content))
    array, buffer = compute(), io.BytesIO()
    np.save(buffer, array)
    content = buffer.getvalue()
    with contextlib.suppress(StorageError):  # a full disk costs the time to compute it again
        write_whole(file, hashlib.sha256(content).digest() + content)
    return array
