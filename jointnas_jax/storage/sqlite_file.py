"""Connections to an SQLite file, to write or only to read."""

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import quote_from_bytes

from jointnas_jax.errors import DamagedError, one_line

Connect = Callable[[], sqlite3.Connection]

# Seconds for which a writer waits for another one.
_PATIENCE = 60


class SqliteFile:
    """A database file whose pages are sound.

    Attributes:
      connect: makes a connection, for any thread.
    """

    connect: Connect

    def __init__(self, file: str, *, read_only: bool):
        """Opens the file.

        Args:
          file: path of the file.
          read_only: change nothing, neither the file nor what is beside it, so that any user can
            read it on any file system. Otherwise the file is made if need be, and its write-ahead
            log switched on, for concurrent readers.

        Raises:
          DamagedError: its pages are not sound.
          sqlite3.Error: it cannot be opened.
        """
        self._copy: tempfile.TemporaryDirectory | None = None
        self.connect = self._reader(file) if read_only else _connector(file)
        with closing(self.connect()) as connection:
            if not read_only:
                connection.execute("PRAGMA journal_mode=WAL")
            ((verdict,), *_) = connection.execute("PRAGMA integrity_check(1)").fetchall()
        if verdict != "ok":
            raise DamagedError(f"`{file}` is damaged: {one_line(verdict)}")

    def close(self) -> None:
        """Removes a copy of the file, where it could only be read so."""
        if self._copy:
            self._copy.cleanup()

    def _reader(self, file: str) -> Connect:
        log, index = (os.path.exists(file + end) for end in ("-wal", "-shm"))
        if not log:
            # Nothing writes, and SQLite need not make a log, which it could not in such a folder,
            # or which would belong to the reader and keep the writer out.
            return _connector(file, "immutable=1")
        connect = _connector(file, "mode=ro")
        if index and _works(connect):
            return connect
        # A log that a killed run left, in a folder that may not be written.
        self._copy = tempfile.TemporaryDirectory()
        copy = os.path.join(self._copy.name, "trials.db")
        for end in ("", "-wal"):
            shutil.copyfile(file + end, copy + end)
        return _connector(copy)


def _connector(file: str, mode: str = "") -> Connect:
    # As a URI of bytes: a name need not be UTF-8.
    path = quote_from_bytes(os.fsencode(Path(file).absolute()))
    uri = f"file:{path}?{mode}"
    return lambda: sqlite3.connect(uri, uri=True, timeout=_PATIENCE, check_same_thread=False)


def _works(connect: Connect) -> bool:
    try:
        with closing(connect()) as connection:
            connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchall()
    except sqlite3.OperationalError:
        return False
    return True
