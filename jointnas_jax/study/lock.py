"""One run at a time in a workdir."""

import contextlib
import fcntl
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from jointnas_jax.errors import BusyError, WorkdirError

FILE = "lock"


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Owns a workdir, which is made if need be; the kernel frees it when the process ends.

    A new folder in which nothing was written is removed again.

    Raises:
      BusyError: another run owns it.
      WorkdirError: it cannot be used.
    """
    try:
        new = not workdir.exists()
        workdir.mkdir(parents=True, exist_ok=True)
        file = (workdir / FILE).open("a+", encoding="utf-8")
    except (OSError, ValueError) as error:  # a NUL in the path is a ValueError
        raise WorkdirError(f"workdir `{_shown(workdir)}` cannot be used: {error}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            owner = file.read(200).strip() or "another run"
            raise BusyError(
                f"workdir `{workdir}` is in use by {owner}; wait for it, or give another --workdir"
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        try:
            yield
        finally:
            if new and [path.name for path in workdir.iterdir()] == [FILE]:
                (workdir / FILE).unlink()
                workdir.rmdir()


def _shown(path: Path) -> str:
    return str(path).replace("\0", "\\0")[:100]
