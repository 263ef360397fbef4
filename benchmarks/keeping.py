"""What it costs a study that nothing of it is lost: time in store, checkpoints and digests."""

import contextlib
import functools
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from rich.console import Console

from jointnas_jax.config import Config
from jointnas_jax.storage.trial_store import TrialStore
from jointnas_jax.study import run, study_files, trial_runner
from jointnas_jax.train.checkpoints import Checkpoints

# All that a study calls to keep something, to read it back, or to check it.
_KEEPING = (
    *((TrialStore, name) for name in ("__init__", "create", "append", "load", "close")),
    *((Checkpoints, name) for name in ("restore", "save", "close")),
    *((trial_runner, name) for name in ("save_variables", "check_digest")),
    *((study_files, name) for name in ("new_store", "write_json", "write_digest", "start", "look")),
)


def measure(config: Config) -> dict[str, Any]:
    """Runs a study in a temporary workdir.

    Returns:
      `seconds` of the whole, those of `keeping`, by function, their `share`, and the number of
      `trials`. Persistence is counted whole, though a part of it runs beside training.
    """
    spent: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, _timed(spent):
        start = time.perf_counter()
        result = run.run_study(config, Path(folder) / "study", Console())
        seconds = time.perf_counter() - start
    kept = sum(spent.values())
    rounded = {name: round(value, 4) for name, value in spent.items()}
    return {
        "seconds": seconds,
        "keeping": rounded,
        "share": kept / seconds,
        "trials": result["trials"],
    }


@contextlib.contextmanager
def _timed(spent: dict[str, float]) -> Iterator[None]:
    """Adds up the time in `_KEEPING`, by name; what they call of each other counts once."""
    inside = threading.local()

    def timed(name: str, function: Callable) -> Callable:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if getattr(inside, "one", False):
                return function(*args, **kwargs)
            inside.one, start = True, time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                inside.one = False
                spent[name] = spent.get(name, 0.0) + time.perf_counter() - start

        return call

    with contextlib.ExitStack() as stack:
        for owner, name in _KEEPING:
            label = f"{owner.__name__.rpartition('.')[2]}.{name}"
            function = timed(label, getattr(owner, name))
            stack.enter_context(mock.patch.object(owner, name, function))
        yield
