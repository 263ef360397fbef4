"""A workdir in a bucket: a run works in a local folder, which is mirrored there.

Each run writes into a folder of its own (see `lease.py`), in an order that makes it safe. No name
but that of the lease is written twice. A manifest is written after all contents that it names, and
holds from then on (see `manifest.py`). What an earlier one names is removed after that. So a kill
or a lost connection between any two writes leaves a manifest that holds, with all that it names,
and a write that arrives late changes nothing.

A run looks for a successor after each manifest, and a successor reads the manifests after it has
written its lease. So what counts as mirrored has been read.
"""

import contextlib
import itertools
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jointnas_jax.errors import (
    BusyError,
    DamagedError,
    JointNASError,
    StorageError,
    WorkdirError,
    one_line,
)
from jointnas_jax.files import read_json, write_json
from jointnas_jax.runtime.bucket import Bucket, side_by_side
from jointnas_jax.runtime.cache import cache_dir, cache_folder
from jointnas_jax.runtime.output import tell
from jointnas_jax.storage import lease, lock
from jointnas_jax.storage.lease import RUNS, Lease
from jointnas_jax.storage.manifest import (
    MANIFESTS,
    OBJECTS,
    File,
    as_input,
    download,
    manifest_bytes,
    naming,
    newest,
    sha256,
)
from jointnas_jax.storage.sqlite_file import SqliteFile
from jointnas_jax.storage.workdir import (
    CONFIG,
    PROCESSES,
    PROGRESS,
    TENSORBOARD,
    TRAINING,
    TRIALS,
)

# Seconds between two mirrors where no batch ends.
MIRROR = 60.0
# In the folder of a URL: the workdir, and the manifests that it may be the state of.
_WORKDIR, _FOLLOWS = "workdir", "follows.json"
# Attempts to find files that do not change meanwhile, and seconds between two.
_ATTEMPTS, _PAUSE = 20, 0.25
# Files that change at any time and that nothing depends on.
_RESTLESS = (PROGRESS, TENSORBOARD)
# Parts of names of files that are being written, and of SQLite's own beside a database.
_PARTIAL = (".unfinished", ".orbax-checkpoint-tmp", f"{TRIALS}-")

Call = Callable[[], None]
# Changes when a file does: inode, bytes and time of change; of a database also those of its log.
_Look = tuple[tuple[int, int, int], ...]


class Mirror:
    """The workdir of a URL.

    Attributes:
      url: The URL.
      folder: Local folder of the workdir.
    """

    def __init__(self, url: str, bucket: Bucket | None = None, home: Path | None = None):
        """Reaches for nothing yet.

        Args:
          url: The URL.
          bucket: Objects below it; None: those of the URL.
          home: Folder for the local workdir; None: one in the cache.

        Raises:
          InputError: The package that reads such URLs is not installed.
        """
        self.url = url
        self._home = home or cache_dir() / "buckets" / sha256(url.encode())[:16]
        self.folder = self._home / _WORKDIR
        self._bucket = bucket or Bucket(url)
        self._lease = Lease(self._bucket)
        self._lost: BusyError | None = None
        self._failing = False
        self._closing, self._hurried = threading.Event(), threading.Event()
        self._saving = threading.Lock()
        self._looks: dict[
            str, tuple[_Look, File]
        ] = {}  # what is known of files that did not change
        self._mirrored: Mapping[str, File] | None = None  # of the manifest that holds
        self._follows: list[str] = []  # digests of manifests
        self._numbers = itertools.count(1)
        self._objects: dict[str, str] = {}  # of this run: digest -> name
        self._manifests: list[str] = []  # of this run, as far as they may be there
        self._committed = False  # whether one of them holds

    @contextlib.contextmanager
    def held(
        self,
        *,
        overwrite: bool = False,
        interrupted: Call = lambda: None,
        on_loss: Call = lambda: None,
    ) -> Iterator[None]:
        """Owns the workdir inside, once; the local folder begins as what is in the bucket.

        Args:
          overwrite: The workdir is to be replaced, so that it may be damaged.
          interrupted: Called while this run waits for others; what it raises ends that.
          on_loss: Called from a thread where another run took over, to end this one soon.

        Raises:
          BusyError: Another run owns the workdir, or took it over.
          WorkdirError: The bucket cannot be used; nothing has happened.
          DamagedError: What the bucket holds is not what was written.
          StorageError: The end of what happened inside could not be mirrored.
        """
        assert not self._lease.run, "names of objects are those of one run"
        with self._locked():
            with as_input():
                self._lease.take(interrupted)
            threads = [self._started(lambda: self._live(on_loss))]
            try:
                with as_input():
                    self._restore(overwrite)
            except BaseException:
                self._stop(threads)
                self._release()
                raise
            threads.append(self._started(self._follow_up))
            try:
                with naming(self.folder, self.url):
                    yield
            except BaseException as error:
                self._end(threads, error)
                raise
            self._end(threads)

    def save(self) -> bool:
        """Mirrors the workdir as it is at one moment, if it holds a study or a training.

        Returns:
          Whether it did: not if files changed meanwhile.

        Raises:
          BusyError: Another run took the workdir over.
          StorageError: The bucket or a file cannot be reached.
          DamagedError: The database of the trials is damaged.
        """
        with self._saving:
            if self._lost:
                raise self._lost
            looks = _look_at(self.folder)
            if not _begun(looks):
                return True
            try:
                files = {name: self._described(name, look) for name, look in looks.items()}
                if files == self._mirrored:
                    return True
                self._upload(files)
            except FileNotFoundError:  # removed meanwhile
                return False
            unsure = any(file.sha256 not in self._objects for file in files.values())
            if unsure or _lasting(_look_at(self.folder)) != _lasting(looks):
                return False
            self._commit(files)
            return True

    def save_if_possible(self) -> None:
        """Mirrors the workdir; where the bucket cannot be reached it warns, and the run goes on.

        Raises `BusyError` if another run took the workdir over.
        """
        try:
            saved = self._save_in_time()
        except BusyError:
            raise
        except JointNASError as error:
            self._warn(error)
            return
        if saved and self._failing:
            tell(f"  `{self.url}` is mirrored again")
        self._failing = self._failing and not saved

    def hurry(self) -> None:
        """Mirrors soon, in a thread."""
        self._hurried.set()

    def _save_in_time(self) -> bool:
        for attempt in range(_ATTEMPTS):
            time.sleep(_PAUSE * (attempt > 0))
            if self.save():
                return True
        return False

    def _described(self, name: str, look: _Look) -> File:
        """A file; one that looks as it did is not read again."""
        known = self._looks.get(name)
        if known is None or known[0] != look:
            content = self._content(name)
            _, _, mtime_ns = look[0]
            known = self._looks[name] = look, File(sha256(content), len(content), mtime_ns)
        return known[1]

    def _content(self, name: str) -> bytes:
        """The content of a file; raises `FileNotFoundError`, `StorageError`."""
        path = self.folder / name
        try:
            return _serialised(path) if name == TRIALS else path.read_bytes()
        except FileNotFoundError:
            raise
        except (OSError, sqlite3.Error) as error:
            raise StorageError(f"`{path}` cannot be read: {one_line(error)}") from error

    def _upload(self, files: Mapping[str, File]) -> None:
        """Writes contents that this run has not written, but for those that changed meanwhile."""
        lacking = {f.sha256: name for name, f in files.items() if f.sha256 not in self._objects}

        def upload(digest: str) -> None:
            content = self._content(lacking[digest])
            if sha256(content) == digest:
                name = f"{OBJECTS}/{next(self._numbers):09}"
                self._bucket.write(f"{self._place}/{name}", content)
                self._objects[digest] = name

        side_by_side(upload, lacking)

    def _commit(self, files: Mapping[str, File]) -> None:
        """Writes the manifest, and removes what it replaces if this run still has the lease."""
        objects = {name: self._objects[file.sha256] for name, file in files.items()}
        content = manifest_bytes(files, objects)
        self._follow([*self._follows, sha256(content)])
        self._manifests.append(f"{MANIFESTS}/{next(self._numbers):09}")
        self._bucket.write(f"{self._place}/{self._manifests[-1]}", content)
        self._check()
        self._mirrored = files
        self._follow(self._follows[-1:])
        first, self._committed = not self._committed, True
        named = set(objects.values())
        unused = {digest: name for digest, name in self._objects.items() if name not in named}
        for digest in unused:  # a name is not used again
            del self._objects[digest]
        removed = [*unused.values(), *self._manifests[:-1]]
        del self._manifests[:-1]
        with contextlib.suppress(StorageError):  # the next run removes what stays
            side_by_side(lambda name: self._bucket.remove(f"{self._place}/{name}"), removed)
            for run in lease.runs(self._bucket) if first else ():
                if lease.number_of(run) < lease.number_of(self._lease.run):
                    self._bucket.remove_folder(f"{RUNS}/{run}")

    def _restore(self, overwrite: bool) -> None:
        """Makes the local folder that of the manifest that holds, unless it goes on from there.

        A run on this machine that was killed may have done more than it mirrored.
        """
        file = self._home / _FOLLOWS
        with contextlib.suppress(JointNASError):
            self._follows = read_json(file)["manifests"] if file.exists() else []
        try:
            manifest = newest(self._bucket)
            goes_on = (manifest.digest if manifest else "") in self._follows
            if not goes_on or (manifest and not _begun(_look_at(self.folder))):
                file.unlink(missing_ok=True)
                manifest = download(self._bucket, self.folder)
        except (DamagedError, WorkdirError):
            if not overwrite:
                raise
            manifest = None
        self.folder.mkdir(parents=True, exist_ok=True)
        self._mirrored = manifest.files if manifest else None
        self._follow([manifest.digest if manifest else ""])

    def _follow(self, digests: list[str]) -> None:
        """Notes, before a manifest is written, that the local folder may be its state."""
        self._follows = digests
        write_json(self._home / _FOLLOWS, {"manifests": digests}, digest=True)

    def _live(self, on_loss: Call) -> None:
        """Gives signs of life until the end, or until another run has taken over."""
        while not self._closing.wait(lease.BEAT):
            try:
                self._check()
                self._lease.beat()
            except BusyError:
                on_loss()
                return
            except StorageError as error:
                self._warn(error)

    def _check(self) -> None:
        """Raises `BusyError` if another run has taken over."""
        try:
            self._lease.check()
        except BusyError as error:
            self._lost = error
            raise

    def _follow_up(self) -> None:
        """Mirrors now and then, and when it is to hurry."""
        while not self._closing.is_set():
            self._hurried.wait(MIRROR)
            self._hurried.clear()
            if not self._closing.is_set():
                with contextlib.suppress(BusyError):  # `_live` sees it, too
                    self.save_if_possible()

    def _end(self, threads: Sequence[threading.Thread], error: BaseException | None = None) -> None:
        """Mirrors the rest, after an error too, and frees the workdir."""
        self._stop(threads)
        try:
            if not self._save_in_time():
                raise StorageError(f"`{self.folder}` cannot be mirrored: its files keep changing")
        except BusyError as lost:
            raise lost from error
        except JointNASError as failure:
            lacking = (
                f"{failure}; what `{self.url}` lacks is in `{self._home}`, and the same command on "
                "this machine mirrors it"
            )
            if error is None:
                raise StorageError(lacking) from failure
            tell(f"warning: {lacking}")
        finally:
            self._release()

    def _started(self, work: Call) -> threading.Thread:
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        return thread

    def _stop(self, threads: Sequence[threading.Thread]) -> None:
        self._closing.set()
        self._hurried.set()
        for thread in threads:
            thread.join(lease.BEAT)

    def _release(self) -> None:
        """Removes the lease, and all of a run that mirrored nothing; a failure costs a wait."""
        with contextlib.suppress(StorageError):
            self._lease.release()
            if not self._committed and not self._manifests:
                self._bucket.remove_folder(self._place)

    def _warn(self, error: JointNASError) -> None:
        if not self._failing:
            tell(f"warning: {error}; the run goes on in `{self.folder}`, and tries again")
        self._failing = True

    @property
    def _place(self) -> str:
        """The folder of this run in the bucket."""
        return f"{RUNS}/{self._lease.run}"

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Owns the local folder among the processes of this machine."""
        if cache_folder("buckets") is None:
            raise WorkdirError(
                f"a workdir in a bucket needs a folder on this machine, and `{cache_dir()}` cannot "
                "be written; name another one with the variable XDG_CACHE_HOME"
            )
        with contextlib.ExitStack() as stack:
            with naming(self._home, self.url):
                stack.enter_context(lock.locked(self._home))
            yield


def _look_at(folder: Path) -> dict[str, _Look]:
    """The files of a workdir that are mirrored: name -> look."""
    looks = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        skipped = name == lock.FILE or name.startswith(f"{PROCESSES}/")
        if skipped or any(part in name for part in _PARTIAL):
            continue
        with contextlib.suppress(FileNotFoundError):
            if path.is_file():
                parts = [path, path.with_name(f"{TRIALS}-wal")] if name == TRIALS else [path]
                stats = [part.stat() for part in parts if part.exists()]
                looks[name] = tuple((s.st_ino, s.st_size, s.st_mtime_ns) for s in stats)
    return looks


def _begun(looks: Mapping[str, Any]) -> bool:
    """Whether a workdir holds a study or a training."""
    return CONFIG in looks or TRAINING in looks


def _lasting(looks: Mapping[str, _Look]) -> dict[str, _Look]:
    return {name: look for name, look in looks.items() if not name.startswith(_RESTLESS)}


def _serialised(database: Path) -> bytes:
    """The content of an SQLite file in use, as of one moment."""
    if not database.exists():
        raise FileNotFoundError(database)
    source = SqliteFile(str(database), read_only=True)
    try:
        with contextlib.closing(source.connect()) as connection:
            connection.execute("BEGIN")
            connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchall()
            return connection.serialize()
    finally:
        source.close()
