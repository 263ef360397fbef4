"""SIGTERM and Ctrl-C: the run saves its trainings and ends; a second signal ends it at once."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

from jointnas_jax.errors import InterruptedStudyError, JointNASError
from jointnas_jax.runtime.output import tell

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Seconds after a signal when the run ends, saved or not: schedulers kill soon after.
GRACE = 15.0


class Interrupt:
    """Request to end the run.

    Attributes:
      worker: Thread that trains in the background, if any.
      command: Command that continues the run, "" before anything is saved.
      on_signal: Called at the first signal.
      synced: Whether several processes have agreed to end, see `distributed.SyncPoint`.
    """

    def __init__(self) -> None:
        self._asked = threading.Event()
        self.worker: threading.Thread | None = None
        self.command = ""
        self.on_signal: Callable[[], None] = self.ask
        self.synced: Callable[[], bool] = lambda: False

    def asked(self) -> bool:
        """Whether the run shall end."""
        return self._asked.is_set() or self.synced()

    def ask(self) -> None:
        """Acts as a signal: the run saves its trainings, and ends after `GRACE` in any case."""
        self._asked.set()
        tell("interrupted: saving what trains")
        timer = threading.Timer(GRACE, self._exit)
        timer.daemon = True
        timer.start()

    def check(self) -> None:
        """Raises `InterruptedStudyError` if a signal came."""
        if self.asked():
            raise InterruptedStudyError

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Listens to signals inside; from the main thread of a process only.

        The main thread may be deep in compiled code, where Python's handlers wait. A thread reads
        at once what a signal writes to the pipe.
        """
        read, write = os.pipe()
        os.set_blocking(write, False)
        handlers = {number: signal.signal(number, _do_nothing) for number in _SIGNALS}
        before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        threading.Thread(target=self._wait, args=(read,), daemon=True).start()
        try:
            yield
        finally:
            # After a signal the process is ending: an earlier handler would see it once more.
            if not self.asked():
                signal.set_wakeup_fd(before)
                for number, handler in handlers.items():
                    signal.signal(number, handler)
                os.close(write)

    def _wait(self, read: int) -> None:
        """Waits for the first signal, then for the second one, which ends the run at once."""
        came = 0
        while received := os.read(read, 1):
            if received[0] not in _SIGNALS:
                continue
            came += 1
            if came > 1:
                self._exit()
            self.on_signal()

    def _exit(self) -> None:
        tell(self.farewell())
        os._exit(InterruptedStudyError.exit_code)

    def farewell(self) -> str:
        """Last message to the user: how to continue."""
        if self.command:
            return f"interrupted; to go on from what is saved:\n  {self.command}"
        return str(InterruptedStudyError())


def _do_nothing(*_: object) -> None:
    """Python must have a handler, or the signal ends the process."""


def run_interruptible(work: Callable[[Interrupt], int]) -> int:
    """Runs a script's work, from the main thread; returns its exit code."""
    interrupt = Interrupt()
    try:
        with interrupt.listening():
            return work(interrupt)
    except JointNASError as error:
        interrupted = isinstance(error, InterruptedStudyError)
        if not interrupted and not (interrupt.worker and interrupt.worker.is_alive()):
            raise
        message = interrupt.farewell() if interrupted else f"error: {error}"
        tell(message)
        # Threads may be deep in compiled code, and Python would wait for them. After a signal they
        # have saved their state; after an error their trainings are of no use.
        sys.stdout.flush()
        os._exit(error.exit_code)
