"""One run at a time in a workdir."""

import contextlib
import fcntl
import os
import platform
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from jointnas_jax.errors import BusyError, WorkdirError, one_line
from jointnas_jax.files import check_arrays_folder, reading, remove_unfinished, writing
from jointnas_jax.runtime.output import tell

FILE = "lock"
# Seconds for which `owner` holds the lock at most.
_LOOK = 0.05


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Owns a workdir, which is made if need be; the kernel frees it when the process ends.

    A new folder that stays empty is removed again.

    Raises:
      BusyError: Another run owns the workdir.
      WorkdirError: It cannot be used.
      StorageError: It cannot be written.
    """
    check_arrays_folder(workdir)
    try:
        new = not workdir.exists()
        workdir.mkdir(parents=True, exist_ok=True)
        file = (workdir / FILE).open("a+", encoding="utf-8", errors="replace")
    except (OSError, ValueError) as error:  # a NUL in the path is a ValueError
        raise WorkdirError(f"workdir `{_shown(workdir)}` cannot be used: {error}") from error
    with file:
        try:
            _take(file)
        except BlockingIOError as error:
            file.seek(0)
            owner = one_line(file.read(200)) or "another run"
            raise BusyError(
                f"workdir `{workdir}` is in use by {owner}; wait for it, or give another --workdir"
            ) from error
        except OSError as error:  # a file system without locks
            raise WorkdirError(f"workdir `{workdir}` cannot be locked: {error}") from error
        with writing(workdir / FILE):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}\n")
            file.flush()
            remove_unfinished(workdir)
        if not new and workdir.stat().st_mode & stat.S_IWOTH:
            tell(
                f"warning: everybody may write to workdir `{_shown(workdir)}`, and change what the "
                "study reads there; chmod o-w it"
            )
        try:
            yield
        finally:
            if new and [path.name for path in workdir.iterdir()] == [FILE]:
                (workdir / FILE).unlink()
                workdir.rmdir()


def owner(workdir: Path) -> str | None:
    """The process that owns a workdir, None if there is none; raises `WorkdirError`."""
    with reading(workdir, WorkdirError):
        if not (workdir / FILE).exists():
            return None
        with (workdir / FILE).open(encoding="utf-8", errors="replace") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return one_line(file.read(200)) or "another run"
    return None


def _take(file: IO[str]) -> None:
    """Locks a file; raises `BlockingIOError` if another run has."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        time.sleep(_LOOK)  # `owner` may just have looked
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _shown(path: Path) -> str:
    return str(path).replace("\0", "\\0")[:100]
