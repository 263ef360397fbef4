"""Runs of studies in processes of their own, and what they leave."""

import dataclasses
import json
import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import jax
import numpy as np
from absl import flags
from rich.console import Console
from table_study import look_up

from jointnas_jax.command_line import parse_config
from jointnas_jax.storage.study_reader import stored_trials
from jointnas_jax.storage.weights import load_variables
from jointnas_jax.study.run import run_study

ROOT = Path(__file__).parent.parent.parent
TINY = f"--config={ROOT / 'tests' / 'support' / 'tiny.py'}"
TABLE, REAL = ROOT / "tests" / "faults" / "table_study.py", ROOT / "scripts" / "run_joint.py"


def config(*arguments):
    return parse_config(["run", TINY, *arguments], "", flags.FlagValues())


def study(workdir, *arguments, console=None, train_fn=look_up):
    """Runs a study in this process, whose trainings are looked up."""
    console = console or Console(quiet=True)
    return run_study(config(*arguments), workdir, console, train_fn=train_fn)


def start(script, workdir, *flags, **environment):
    """Starts a study on two devices."""
    return subprocess.Popen(
        [sys.executable, str(script), f"--workdir={workdir}", *flags],
        env=dict(os.environ) | {"JAX_NUM_CPU_DEVICES": "2"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process, code=0):
    """Waits for a process; returns what it printed, on both streams."""
    out, err = process.communicate(timeout=280)
    assert process.returncode == code, (process.returncode, out[-500:], err[-1500:])
    return out, err


def run(script, workdir, *flags, code=0, **environment):
    return finish(start(script, workdir, *flags, **environment), code)


def stored(workdir):
    """Number of trials in a study's store, whether or not a run has it open."""
    file = workdir / "trials.db"
    if not file.exists():
        return 0
    try:
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=30)) as connection:
            return connection.execute("SELECT COUNT(*) FROM trials").fetchone()[0]
    except sqlite3.OperationalError:  # not made yet
        return 0


def wait_until(condition, process, seconds=200):
    """Waits for a condition; whether it came before the process ended."""
    end = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None:
            return False
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return True


def content(workdir, storage=""):
    """All that a finished study says, but for how long things took."""
    result = json.loads((workdir / "result.json").read_text())
    for measured in ("seconds", "compilations", "digest"):
        del result[measured]
    trials = [dataclasses.asdict(trial) for trial in stored_trials(workdir, storage)]
    for trial in trials:
        del trial["seconds"]
    # Orbax writes the time as well, so the arrays are compared.
    arrays = {
        str(file.relative_to(workdir)): [
            (jax.tree_util.keystr(path), np.asarray(leaf).tobytes())
            for path, leaf in jax.tree_util.tree_leaves_with_path(load_variables(file))
        ]
        for file in (p.with_suffix("") for p in workdir.rglob("*.sha256"))
    }
    report = {path.name for path in (workdir / "report").iterdir()}
    return result, trials, (workdir / "winner0.json").read_text(), arrays, report
