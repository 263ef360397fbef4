"""A study whose trainings are looked up, slowly: `python table_study.py` takes run_joint's flags.

JOINTNAS_TABLE_SECONDS is how long a training takes, `real`: as long as a real one;
JOINTNAS_TABLE_FAULT, code to run before, which may replace `train_fn`; JOINTNAS_TABLE_SCRIPT,
another script than run_joint.
"""

import functools
import hashlib
import os
import runpy
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent.parent


def look_up(assignment, jobs, stop):
    """Accuracies of two digits, so that many are equal."""
    from jointnas_jax.execution.job import TrainResult
    from jointnas_jax.train.paused import Paused

    results = []
    for job in jobs:
        digest = hashlib.sha256(repr((job.candidate, job.on_full_split)).encode()).digest()
        end = 0.5 + digest[0] % 32 / 100
        curve = [round(end * (1 - 0.5**epoch), 2) for epoch in range(1, job.epochs + 1)]
        variables = {"params": {"w": np.frombuffer(digest, np.uint8)}}
        paused = Paused(job.epochs, {"step": np.array(job.epochs)}) if job.pauses else None
        shown = curve[-1:] if job.on_full_split else curve[job.first_epoch :]
        results.append(TrainResult(tuple(shown), None, variables, paused=paused))
    return results


def look_up_slowly(assignment, jobs, stop):
    """The same after some time."""
    time.sleep(float(os.environ.get("JOINTNAS_TABLE_SECONDS", "0.05")) * len(jobs))
    return look_up(assignment, jobs, stop)


if __name__ == "__main__":
    train_fn = None if os.environ.get("JOINTNAS_TABLE_SECONDS") == "real" else look_up_slowly
    exec(os.environ.get("JOINTNAS_TABLE_FAULT", ""))
    name = os.environ.get("JOINTNAS_TABLE_SCRIPT", "run_joint")
    sys.argv[0] = str(ROOT / "scripts" / f"{name}.py")
    script = runpy.run_path(sys.argv[0])
    main = functools.partial(script["main"], train_fn=train_fn) if train_fn else script["main"]
    sys.exit(script["run_script"](sys.argv, script["__doc__"], main))
