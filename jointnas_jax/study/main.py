"""From a checked config to a finished study: prepares JAX and the workdir, runs, draws."""

import dataclasses
import json
import os
import stat
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import tensorflow_datasets as tfds
from absl import logging
from rich.console import Console

from jointnas_jax.config import Config
from jointnas_jax.data.cache import cache_dir
from jointnas_jax.files import write_json
from jointnas_jax.study import workdir as workdirs
from jointnas_jax.study.budgets import print_budgets, search_budgets, write_budgets
from jointnas_jax.study.final import train_candidate
from jointnas_jax.study.interrupt import Interrupt
from jointnas_jax.study.profiling import print_profile, profile_network, profile_space
from jointnas_jax.study.result import print_result
from jointnas_jax.study.run import dry_run, run_study
from jointnas_jax.study.trials import stored_trials

# Programs that compile faster than this are not worth a file.
_CACHED_FROM_SECONDS = 0.5


def run(config: Config, workdir: Path, dry: bool, overwrite: bool, interrupt: Interrupt) -> int:
    """Runs a study in a workdir, or prints its plan; returns the exit code."""
    prepare_jax(config.study.devices)
    interrupt.check()
    console = plain_console()
    if dry:
        dry_run(config, console)
        return 0
    result = run_study(config, workdir, console, overwrite, interrupt)
    # Only now: Matplotlib looks for its cache when it is imported, and says what it finds.
    from jointnas_jax.report.figures import FIGURES, draw_figures

    if not all((workdir / workdirs.FIGURES / name).exists() for name in FIGURES):
        trials = [
            dataclasses.asdict(trial) for trial in stored_trials(workdir, config.study.storage)
        ]
        for path in draw_figures(workdir, result, trials):
            console.print(f"  wrote {path}", highlight=False)
        console.print(f"  wrote {workdir / workdirs.RESULT}", highlight=False)
    else:
        print_result(result, console)
    return 0


def train(
    config: Config, name: str, workdir: Path, dry: bool, overwrite: bool, interrupt: Interrupt
) -> int:
    """Trains one candidate in a workdir, or prints the plan of it; returns the exit code."""
    prepare_jax(config.study.devices)
    interrupt.check()
    console = plain_console()
    if train_candidate(config, name, workdir, console, dry, overwrite, interrupt):
        console.print(f"  wrote {workdir / workdirs.RESULT}", highlight=False)
    return 0


def run_budgets(workdir: Path, budgets: Sequence[Mapping[str, int]], out: Path, seed: int) -> int:
    """Searches the study in a workdir for other budgets; returns the exit code."""
    prepare_jax(devices=1)
    console = plain_console()
    report = search_budgets(workdir, budgets, seed)
    print_budgets(report, console)
    for path in write_budgets(report, out):
        console.print(f"  wrote {path}", highlight=False)
    return 0


def run_profile(
    name: str, batch: int, repeats: int, lowering: str, dtype: str, as_json: bool
) -> int:
    """Measures how fast a network is on this device; returns the exit code."""
    prepare_jax(devices=1)
    report = profile_network(name, batch, repeats, lowering, dtype)
    if as_json:
        print(json.dumps(report, indent=1))
    else:
        print_profile(report, plain_console())
    return 0


def run_table(config: Config, out: str, as_json: bool, **wanted: Any) -> int:
    """Times the blocks of a space on this device, see `profile_space`; returns the exit code."""
    prepare_jax(devices=1)
    report = profile_space(config, plain_console(stderr=as_json), **wanted)
    if out:
        write_json(Path(out), report)
    if as_json:
        print(json.dumps(report, indent=1))
    return 0


def plain_console(stderr: bool = False) -> Console:
    """A console that prints names and errors as they are: `[/x]` and `:x:` are no commands."""
    return Console(markup=False, emoji=False, stderr=stderr)


def prepare_jax(devices: int) -> None:
    """Sets up devices and the persistent compilation cache, before JAX's backend starts.

    Quiets other libraries as well. On CPU there is one device per core: candidates train side by
    side on them.
    """
    os.umask(os.umask(0o022) | 0o022)  # nothing that is written may be changed by others
    logging.set_verbosity(logging.ERROR)
    tfds.disable_progress_bar()
    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        jax.config.update("jax_num_cpu_devices", devices or cores)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = cache_dir() / "compiled"
        if _is_private(cache):
            jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _CACHED_FROM_SECONDS)


def _is_private(cache: Path) -> bool:
    """Makes a folder only ours: whoever can write compiled programs can run code.

    Returns:
      Whether it is; if not, everything works without it, and compiles again.
    """
    try:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        if stat.S_IMODE(cache.stat().st_mode) & 0o077:
            cache.chmod(0o700)
        if cache.stat().st_uid == os.getuid():
            return True
        reason = "belongs to another user"
    except OSError as error:
        reason = f"cannot be used: {error}"
    print(f"warning: the compilation cache `{cache}` {reason}; it is not used", file=sys.stderr)
    return False
