"""The number of CPU devices changes how long a study takes, and nothing else."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jointnas_jax.files import read_json
from jointnas_jax.storage.study_reader import stored_trials

ROOT = Path(__file__).parent.parent.parent
# All that a study tells, but for how long it took.
OF_A_RUN = ("seconds", "compilations")


def run(workdir, cache, devices, *arguments):
    """Runs a study in a process of its own: JAX counts its devices when it starts."""
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "scripts" / "run_joint.py"), f"--workdir={workdir}"),
            *(f"--config={ROOT / 'tests' / 'support' / 'tiny.py'}", *arguments),
        ],
        env=os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "XDG_CACHE_HOME": str(cache)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("program", ["auto", "envelope", "exact"])
def test_1_2_4_and_8_devices_give_the_same_trials_and_result(tmp_path, program):
    cache, seen = tmp_path / "cache", {}
    for devices in (1, 2, 4, 8):
        workdir = tmp_path / str(devices)
        run(workdir, cache, devices, f"--config.train.program={program}")
        trials = [
            dataclasses.asdict(dataclasses.replace(trial, seconds=0.0))
            for trial in stored_trials(workdir)
        ]
        result = {k: v for k, v in read_json(workdir / "result.json").items() if k not in OF_A_RUN}
        seen[devices] = json.dumps([trials, result], indent=1).splitlines()
    assert len(seen[1]) > 500
    for devices in (2, 4, 8):
        assert seen[devices] == seen[1], f"{devices} devices"
