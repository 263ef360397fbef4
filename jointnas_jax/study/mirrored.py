"""A run in a workdir that may be the URL of a bucket."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from jointnas_jax.rules import is_url
from jointnas_jax.runtime.distributed import is_first
from jointnas_jax.runtime.interrupt import Interrupt
from jointnas_jax.storage.mirror import Mirror
from jointnas_jax.telemetry.progress import Listener, Progress, Snapshot


class _AfterBatches(Listener):
    """Mirrors what a batch stored before the next one trains."""

    def __init__(self, mirror: Mirror):
        self._mirror = mirror

    def milestone(self, now: Snapshot) -> None:
        """A batch has ended; raises `BusyError` if another run took over."""
        self._mirror.save_if_possible()


@contextlib.contextmanager
def mirrored(
    workdir: str | Path, progress: Progress, interrupt: Interrupt, *, overwrite: bool = False
) -> Iterator[Path]:
    """The local folder of a workdir; that of a URL is mirrored inside, by process 0 of a pod.

    Args:
      workdir: Path or URL.
      progress: Progress of the run, which is not shown yet.
      interrupt: Request to end the run: what is there is mirrored at once, and again at the end.
      overwrite: See `Mirror.held`.

    Raises:
      InputError: The bucket cannot be used; nothing has happened.
      BusyError: Another run owns the workdir, or took it over.
      DamagedError: What the bucket holds is not what was written.
      StorageError: The end of the run could not be mirrored.
    """
    if not is_url(str(workdir)):
        yield Path(workdir)
        return
    mirror = Mirror(str(workdir))
    if not is_first():
        yield mirror.folder
        return
    at_signal = interrupt.on_signal

    def end() -> None:
        mirror.hurry()
        at_signal()

    with mirror.held(overwrite=overwrite, interrupted=interrupt.check, on_loss=at_signal):
        progress.listen(_AfterBatches(mirror))
        progress.say(f"{mirror.url} is mirrored from {mirror.folder}")
        interrupt.on_signal = end
        yield mirror.folder
