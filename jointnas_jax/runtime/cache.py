"""The cache folder: what can be computed again, so nothing depends on it."""

import contextlib
import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

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
    """Returns the array that was computed before, or computes and keeps it.

    Args:
      name: of the folder in the cache.
      key: everything that the array depends on.
      compute: called where no sound file is kept.
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
    partial = file.with_suffix(f".{os.getpid()}")
    with contextlib.suppress(OSError):  # a full disk costs the time to compute it again
        partial.write_bytes(hashlib.sha256(buffer.getvalue()).digest() + buffer.getvalue())
        partial.replace(file)
    return array
