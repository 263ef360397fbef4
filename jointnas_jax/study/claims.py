"""Who of several drivers does what: rows of the study's database that one alone can write.

A driver that is not heard of for too long is dead, and others take over what it claimed. No clock
of another machine matters: a driver lives as long as the number that it counts up changes.
"""

import contextlib
import secrets
import threading
import time
from collections.abc import Iterator

import sqlalchemy

from jointnas_jax.errors import StorageError
from jointnas_jax.study.store import TrialStore

_TABLES = sqlalchemy.MetaData()
_CLAIMS = sqlalchemy.Table(
    "jointnas_claims",
    _TABLES,
    sqlalchemy.Column("study", sqlalchemy.String(128), primary_key=True),
    sqlalchemy.Column("name", sqlalchemy.String(64), primary_key=True),
    sqlalchemy.Column("driver", sqlalchemy.String(16), nullable=False),
)
_DRIVERS = sqlalchemy.Table(
    "jointnas_drivers",
    _TABLES,
    sqlalchemy.Column("study", sqlalchemy.String(128), primary_key=True),
    sqlalchemy.Column("driver", sqlalchemy.String(16), primary_key=True),
    sqlalchemy.Column("beat", sqlalchemy.Integer, nullable=False),
)


class Claims:
    """The claims of one driver of a study."""

    def __init__(self, store: TrialStore, timeout: float):
        """Makes the tables if need be; claims nothing.

        Args:
          store: of the study.
          timeout: seconds after which a driver that is not heard of is dead.

        Raises:
          InputError: the database cannot be used.
        """
        self._store, self._study, self._timeout = store, store.name, timeout
        self.driver = secrets.token_hex(8)
        self._beats: dict[str, tuple[int, float]] = {}  # driver -> its number, when it was new
        self._left = threading.Event()
        self._thread: threading.Thread | None = None
        with store.naming_the_database(opening=True):
            try:
                _TABLES.create_all(store.engine)
            except sqlalchemy.exc.DBAPIError:  # another driver made them at the same moment
                _TABLES.create_all(store.engine)

    def join(self) -> None:
        """Lives from now on, until `leave`."""
        with self._changing() as connection:
            row = {"study": self._study, "driver": self.driver, "beat": 0}
            connection.execute(_DRIVERS.insert().values(row))
        self._listen()
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()

    def beat(self) -> None:
        """Counts up, and listens to the others."""
        mine = (_DRIVERS.c.study == self._study) & (_DRIVERS.c.driver == self.driver)
        with self._changing() as connection:
            connection.execute(_DRIVERS.update().where(mine).values(beat=_DRIVERS.c.beat + 1))
        self._listen()

    def others(self) -> list[str]:
        """Drivers that are not known to be dead."""
        self._listen()
        return [driver for driver in self._beats if driver != self.driver and self._lives(driver)]

    def take(self, name: str) -> bool:
        """Claims something; whether this driver has it now, and no other that lives."""
        if self._insert({"study": self._study, "name": name, "driver": self.driver}):
            return True
        mine = (_CLAIMS.c.study == self._study) & (_CLAIMS.c.name == name)
        with self._changing() as connection:
            holder = connection.execute(sqlalchemy.select(_CLAIMS.c.driver).where(mine)).scalar()
            if holder is None or holder == self.driver or self._lives(holder):
                return holder == self.driver
            # Of several that find it dead, one changes the row.
            update = _CLAIMS.update().where(mine, _CLAIMS.c.driver == holder)
            return connection.execute(update.values(driver=self.driver)).rowcount == 1

    def release(self) -> None:
        """Gives back all that this driver has."""
        mine = (_CLAIMS.c.study == self._study) & (_CLAIMS.c.driver == self.driver)
        with self._changing() as connection:
            connection.execute(_CLAIMS.delete().where(mine))

    def forget(self) -> None:
        """Removes all claims and drivers of the study."""
        with self._changing() as connection:
            for table in (_CLAIMS, _DRIVERS):
                connection.execute(table.delete().where(table.c.study == self._study))

    def leave(self) -> None:
        """Gives back everything, and lives no more."""
        self._left.set()
        if self._thread:
            self._thread.join()
        self.release()
        mine = (_DRIVERS.c.study == self._study) & (_DRIVERS.c.driver == self.driver)
        with self._changing() as connection:
            connection.execute(_DRIVERS.delete().where(mine))

    def _lives(self, driver: str) -> bool:
        """One that is not known is new: nobody vanishes before its claims do."""
        _, heard = self._beats.get(driver, (0, time.monotonic()))
        return time.monotonic() - heard < self._timeout

    def _listen(self) -> None:
        """Reads the numbers of all drivers."""
        query = sqlalchemy.select(_DRIVERS.c.driver, _DRIVERS.c.beat)
        with self._changing() as connection:
            rows = connection.execute(query.where(_DRIVERS.c.study == self._study)).all()
        now = time.monotonic()
        for driver, beat in rows:
            if self._beats.get(driver, (None, 0))[0] != beat:
                self._beats[driver] = (beat, now)

    def _live(self) -> None:
        while not self._left.wait(self._timeout / 8):
            # A server that is away is met by whoever reads trials.
            with contextlib.suppress(StorageError):
                self.beat()

    def _insert(self, row: dict[str, str]) -> bool:
        """Writes a claim, if there is none of the name."""
        with self._store.naming_the_database():
            try:
                with self._store.engine.begin() as connection:
                    connection.execute(_CLAIMS.insert().values(row))
            except sqlalchemy.exc.IntegrityError:
                return False
        return True

    @contextlib.contextmanager
    def _changing(self) -> Iterator[sqlalchemy.Connection]:
        """A transaction; raises `StorageError`."""
        with self._store.naming_the_database(), self._store.engine.begin() as connection:
            yield connection
