"""A lease on a workdir in a bucket: one run at a time writes there.

`runs/NUMBER-TOKEN/lease` says who runs; the run writes it again every `BEAT` seconds, and removes
it at its end. A run that begins watches the leases that are there. One that changes within `SILENT`
seconds belongs to a run that lives; the others are stale, whatever clocks say. Then it writes a
lease under the next number and looks once more: where another run did the same, it steps back. A
run that sees a higher number has lost the workdir, and ends.
"""

import contextlib
import json
import os
import platform
import random
import re
import secrets
import time
from collections.abc import Callable, Sequence

from jointnas_jax.errors import BusyError, one_line
from jointnas_jax.files import UNREADABLE
from jointnas_jax.runtime.bucket import Bucket
from jointnas_jax.runtime.output import tell

# Seconds between two signs of life, and until a silent run counts as dead.
BEAT, SILENT = 15.0, 60.0
RUNS = "runs"
# Attempts to begin where others do.
_ATTEMPTS = 10


class Lease:
    """The lease of this process.

    Attributes:
      run: Name of its run, "" before it is taken.
    """

    def __init__(self, bucket: Bucket):
        """Takes nothing yet; the bucket is that of the workdir."""
        self.run = ""
        self._bucket = bucket

    def take(self, interrupted: Callable[[], None]) -> None:
        """Waits until it is sure that no other run lives, and begins a new one.

        Args:
          interrupted: Called while it waits; what it raises ends that.

        Raises:
          BusyError: Another run lives, or begins.
          StorageError: The bucket cannot be used.
        """
        for _ in range(_ATTEMPTS):
            earlier, stale = self._silent_runs(interrupted)
            number = 1 + max(map(number_of, earlier), default=0)
            self.run = f"{number:06}-{secrets.token_hex(4)}"
            self.beat()
            others = [run for run in runs(self._bucket) if run != self.run]
            if not any(number_of(run) >= number for run in others):
                for run in stale:
                    self._bucket.remove(_name(run))
                return
            self._bucket.remove(_name(self.run))
            interrupted()
            time.sleep(random.uniform(0, BEAT / 5))
        raise BusyError(f"workdir `{self._bucket.url}` is in use: several runs begin there at once")

    def beat(self) -> None:
        """Writes the lease, each time another one; raises `StorageError`."""
        by = f"process {os.getpid()} on {platform.node()}"
        content = {"by": by, "time": time.time(), "beat": secrets.token_hex(4)}
        self._bucket.write(_name(self.run), json.dumps(content).encode())

    def check(self) -> None:
        """Raises `BusyError` if another run has taken over, `StorageError`."""
        later = [run for run in runs(self._bucket) if number_of(run) > number_of(self.run)]
        if later:
            by = _holder(self._bucket.read(_name(later[-1])))
            raise BusyError(
                f"workdir `{self._bucket.url}` was taken over by {by}, since this run had given no "
                f"sign of life for {SILENT:.0f} s; what it mirrored before is there"
            )

    def release(self) -> None:
        """Removes the lease; raises `StorageError`."""
        self._bucket.remove(_name(self.run))

    def _silent_runs(self, interrupted: Callable[[], None]) -> tuple[list[str], list[str]]:
        """All runs, and those of them with a stale lease, once it is sure that none lives."""
        earlier = runs(self._bucket)
        leases = self._leases(earlier)
        if leases:
            tell(
                f"  `{self._bucket.url}` is in use or was left by {_holder(max(leases.items())[1])}"
                f": this takes up to {SILENT:.0f} s to see"
            )
        end = time.monotonic() + SILENT
        while leases and time.monotonic() < end:
            interrupted()
            time.sleep(BEAT / 5)
            now = self._leases(earlier)
            for run, content in now.items():
                if content != leases.get(run):
                    raise BusyError(
                        f"workdir `{self._bucket.url}` is in use by {_holder(content)}; wait for "
                        "it, or give another --workdir"
                    )
            leases = now
        return earlier, list(leases)

    def _leases(self, names: Sequence[str]) -> dict[str, bytes]:
        contents = {run: self._bucket.read(_name(run)) for run in names}
        return {run: content for run, content in contents.items() if content is not None}


def owner(url: str) -> str | None:
    """The process that mirrors a workdir into a URL, by its last sign of life; None: none does.

    For people: clocks of machines may differ. Raises `StorageError`.
    """
    bucket = Bucket(url)
    for run in reversed(runs(bucket)):
        if (content := bucket.read(_name(run))) is not None:
            with contextlib.suppress(*UNREADABLE):
                if time.time() - float(json.loads(content)["time"]) > SILENT:
                    return None
            return _holder(content)
    return None


def runs(bucket: Bucket) -> list[str]:
    """Names of all runs below the URL of a workdir, in the order of their numbers."""
    return [name for name in bucket.names(RUNS) if re.fullmatch(r"\d{6}-[0-9a-f]{8}", name)]


def number_of(run: str) -> int:
    """The number of a run."""
    return int(run.partition("-")[0])


def _name(run: str) -> str:
    return f"{RUNS}/{run}/lease"


def _holder(lease: bytes | None) -> str:
    """The process that wrote a lease."""
    try:
        return one_line(json.loads(lease or b"")["by"])
    except UNREADABLE:
        return "another run"
