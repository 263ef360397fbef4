"""The examples run as the README says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# What each reaches at least, in percent; by chance it is 10.
EXAMPLES = {"joint_study": 20, "own_objective": 90, "optuna_study": 90}
# Both search for the same; one tells CI.
LONG = pytest.param("optuna_study", marks=pytest.mark.slow)


def test_every_example_is_tried():
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == set(EXAMPLES)


@pytest.mark.parametrize("name", ["joint_study", "own_objective", LONG])
def test_an_example_runs(name, tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / f"{name}.py")],
        cwd=tmp_path,
        env=dict(os.environ) | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *_, best, last = done.stdout.splitlines()
    assert re.match(r"(best:|found) \{", best)
    assert float(re.search(r"accuracy ([\d.]+)%", last)[1]) > EXAMPLES[name]
