"""Scripts and modules, called as a user calls them."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
TINY = f"--config={ROOT / 'tests' / 'support' / 'tiny.py'}"


def script(name, *arguments, cwd=ROOT, without=""):
    """Runs a script, without a variable of the environment that the tests set."""
    return _run(str(ROOT / "scripts" / f"{name}.py"), *arguments, cwd=cwd, without=without)


def module(name, *arguments, cwd=ROOT, without=""):
    """Runs `python -m NAME` likewise."""
    return _run("-m", name, *arguments, cwd=cwd, without=without)


def _run(*command, cwd, without):
    variables = {k: v for k, v in os.environ.items() if k != without}
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env=variables | {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def assert_one_line_and_exit_2(done, message):
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
