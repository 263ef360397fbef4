"""Time of a study: seconds per stage, programs compiled."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

_COMPILED = "/jax/core/compile/backend_compile_duration"


class StageTimer:
    """Measures a study while it runs.

    Attributes:
      seconds: Wall time of each stage, in order.
      compilations: XLA programs compiled or taken from the persistent cache, by stage.
      compile_seconds: Time of compiling, summed over threads.
    """

    def __init__(self, on_stage: Callable[[str], None] = lambda stage: None) -> None:
        """Starts at zero; calls `on_stage` with the name of each stage that begins."""
        self._on_stage = on_stage
        self.seconds: dict[str, float] = {}
        self.compilations: dict[str, int] = {}
        self.compile_seconds = 0.0
        self._stage = ""
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Counts the time inside for a stage; stages do not nest."""
        start, self._stage = time.perf_counter(), name
        self.compilations.setdefault(name, 0)
        self._on_stage(name)
        try:
            yield
        finally:
            elapsed = time.perf_counter() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + elapsed
            self._stage = ""

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Counts compilations inside."""

        def listener(event: str, duration_secs: float, **_: str | int) -> None:
            if event == _COMPILED and self._stage:
                with self._lock:  # workers compile side by side
                    self.compilations[self._stage] += 1
                    self.compile_seconds += duration_secs

        jax.monitoring.register_event_duration_secs_listener(listener)
        try:
            yield
        finally:
            jax.monitoring.unregister_event_duration_listener(listener)

    def report(self) -> dict[str, Any]:
        """The keys `seconds` and `compilations` of a result."""
        return {
            "seconds": {name: round(s, 2) for name, s in self.seconds.items()},
            "compilations": {
                "programs": sum(self.compilations.values()),
                "by_stage": self.compilations,
                "seconds": round(self.compile_seconds, 2),
            },
        }
