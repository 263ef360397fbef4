"""Who of several drivers does what: rows of the study's database that one alone can write.

A driver that is not heard of for too long is dead, and others take over what it claimed. No clock
of another machine matters: a driver lives as long as the number that it counts up changes.
"""

import contextlib
import math
import secrets
import threading
import time
from collections.abc import Iterator

import sqlalchemy

from jointnas_jax.errors import JointNASError
from jointnas_jax.study.store import TrialStore, made

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
        self._listened = time.monotonic()
        self._lock, self._left = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        with store.naming_the_database(opening=True):
            made(lambda: _TABLES.create_all(store.engine))

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
        update = _DRIVERS.update().where(mine).values(beat=_DRIVERS.c.beat + 1)
        with self._changing() as connection:
            if not connection.execute(update).rowcount:  # another one replaced the study
                row = {"study": self._study, "driver": self.driver, "beat": 0}
                connection.execute(_DRIVERS.insert().values(row))
        self._listen()

    def others(self) -> list[str]:
        """Drivers that count up while this one looks, which takes a while if there may be any."""
        before = self._read()
        if not before.keys() - {self.driver}:
            return []
        time.sleep(self._timeout / 2)
        return [d for d, beat in self._read().items() if d != self.driver and before.get(d) != beat]

    def take(self, name: str) -> bool:
        """Claims something; whether this driver has it now, and no other that lives."""
        if self._insert({"study": self._study, "name": name, "driver": self.driver}):
            return True
        self._listen()
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
        """Removes all claims of the study, and all drivers but this one."""
        others = (_DRIVERS.c.study == self._study) & (_DRIVERS.c.driver != self.driver)
        with self._changing() as connection:
            connection.execute(_CLAIMS.delete().where(_CLAIMS.c.study == self._study))
            connection.execute(_DRIVERS.delete().where(others))

    def leave(self) -> None:
        """Gives back everything, and lives no more."""
        if self._left.is_set():
            return
        self._left.set()
        if self._thread:
            self._thread.join()
        self.release()
        mine = (_DRIVERS.c.study == self._study) & (_DRIVERS.c.driver == self.driver)
        with self._changing() as connection:
            connection.execute(_DRIVERS.delete().where(mine))

    def _lives(self, driver: str) -> bool:
        """One that is not known has left."""
        _, heard = self._beats.get(driver, (0, -math.inf))
        return time.monotonic() - heard < self._timeout

    def _read(self) -> dict[str, int]:
        """The numbers of all drivers."""
        query = sqlalchemy.select(_DRIVERS.c.driver, _DRIVERS.c.beat)
        with self._changing() as connection:
            rows = connection.execute(query.where(_DRIVERS.c.study == self._study)).all()
        return {row.driver: row.beat for row in rows}

    def _listen(self) -> None:
        """Hears who has counted up."""
        with self._lock:
            beats, now = self._read(), time.monotonic()
            # While this driver stood still, or the server was away, nobody could be heard.
            deaf = now - self._listened > self._timeout / 2
            self._listened = now
            known = {d: (b, now) if deaf else (b, heard) for d, (b, heard) in self._beats.items()}
            self._beats = {
                d: known[d] if d in known and known[d][0] == beat else (beat, now)
                for d, beat in beats.items()
            }

    def _live(self) -> None:
        while not self._left.wait(self._timeout / 8):
            # A server that is away is met by whoever reads trials.
            with contextlib.suppress(JointNASError):
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
