"""What it costs a study to lose nothing: time in the store, in checkpoints and in digests.

python -m benchmarks.persistence --out=r.json
python -m benchmarks.persistence --config.study.checkpoint_minutes=0   # after every epoch
"""

import functools
import importlib
import sys
import tempfile
import threading
import time
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any

from absl import flags
from rich.console import Console

from jointnas_jax.command_line import parse_config, run_measurement
from jointnas_jax.config import Config

DEFAULT_CONFIG = Path(__file__).parent.parent / "configs" / "digits.py"

# What writes, reads back or checks stored data, where a study looks it up.
TIMED = {
    "storage.trial_store:TrialStore": ("__init__", "create", "append", "load", "close"),
    "train.checkpoints:Checkpoints": ("restore", "save"),
    "study.trial_runner": ("save_variables", "check_digest"),
    "study.study_files": (
        "new_store",
        "write_json",
        "write_digest",
        "check_digest",
        "start",
        "look",
    ),
}

_inside = threading.local()


def measure(config: Config) -> dict[str, Any]:
    """Runs a study in a temporary workdir; its functions stay timed until the process ends.

    All seconds of persistence count, although a part of it runs beside training.
    """
    from jointnas_jax.study.run import run_study

    spent: dict[str, float] = {}
    for place, names in TIMED.items():
        where = owner(place)
        for name in names:
            label = f"{where.__name__.rpartition('.')[2]}.{name}"
            setattr(where, name, timed(getattr(where, name), label, spent))
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        result = run_study(config, Path(folder) / "study", Console())
        seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "persistence": {name: round(value, 4) for name, value in spent.items()},
        "share": sum(spent.values()) / seconds,
        "trials": result["trials"],
    }


def owner(place: str) -> Any:
    """The module, or the class in it, that has functions of `TIMED`."""
    module, _, name = place.partition(":")
    loaded = importlib.import_module(f"jointnas_jax.{module}")
    return getattr(loaded, name) if name else loaded


def timed(
    function: Callable[..., Any],
    name: str,
    spent: MutableMapping[str, float],
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> Callable[..., Any]:
    """The function, whose seconds are added to `spent`; timed functions inside count with it."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if getattr(_inside, "one", False):
            return function(*args, **kwargs)
        _inside.one = True
        start = clock()
        try:
            return function(*args, **kwargs)
        finally:
            _inside.one = False
            spent[name] = spent.get(name, 0.0) + clock() - start

    return call


def main(argv: list[str]) -> dict[str, Any]:
    """Runs a study and prints the share of persistence; returns the report."""
    config = parse_config(argv, str(DEFAULT_CONFIG), flags.FLAGS)
    # Only now: this import takes seconds, and a config error should not.
    from jointnas_jax.runtime.jax_setup import prepare_jax

    prepare_jax(config.study.devices)
    report = measure(config)
    print(
        f"{report['share'] * report['seconds']:.2f} of {report['seconds']:.1f} seconds "
        f"({report['share']:.1%}) to store {report['trials']} trials: {report['persistence']}"
    )
    return report


if __name__ == "__main__":
    sys.exit(run_measurement(__doc__, main))
