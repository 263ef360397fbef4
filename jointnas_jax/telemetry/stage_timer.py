"""Where the time of a study goes: seconds per stage, programs compiled."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import jax

_COMPILED = "/jax/core/compile/backend_compile_duration"


class StageTimer:
    """Measures a study while it runs.

    Attributes:
      seconds: wall time of each stage, in order.
      compilations: XLA programs compiled or taken from the persistent cache, by stage.
      compile_seconds: time in that, summed over threads.
    """

    def __init__(self, tell: Callable[[str], None] = lambda stage: None) -> None:
        """Begins at zero; `tell` is called with the name of each stage that begins."""
        self._tell = tell
        self.seconds: dict[str, float] = {}
        self.compilations: dict[str, int] = {}
        self.compile_seconds = 0.0
        self._stage = ""
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Counts what happens inside to a stage; stages do not nest."""
        start, self._stage = time.perf_counter(), name
        self.compilations.setdefault(name, 0)
        self._tell(name)
        try:
            yield
        finally:
            elapsed = time.perf_counter() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + elapsed
            self._stage = ""

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Counts compilations inside."""

        def listener(event: str, duration: float, **_: object) -> None:
            if event == _COMPILED and self._stage:
                with self._lock:  # workers compile side by side
                    self.compilations[self._stage] += 1
                    self.compile_seconds += duration

        jax.monitoring.register_event_duration_secs_listener(listener)
        try:
            yield
        finally:
            jax.monitoring.unregister_event_duration_listener(listener)
