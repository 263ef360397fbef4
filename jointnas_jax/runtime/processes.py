"""Functions that need a process of their own: JAX reads its settings once, when it starts."""

import ast
import importlib
import json
import os
import subprocess
import sys
from typing import Any

from jointnas_jax.errors import StudyError, one_line


def in_a_process(function: str, *arguments: Any, **environment: str) -> Any:
    """Calls a function in a new process; returns its result, which passes through JSON.

    Args:
      function: module and name, such as "benchmarks.scaling:steps_per_second".
      *arguments: plain values. JSON would turn ranges, which are tuples, into lists.
      **environment: variables added to those of this process.

    Raises:
      StudyError: the process failed; with the last line of its errors.
    """
    done = subprocess.run(
        [sys.executable, "-m", "jointnas_jax.runtime.processes", function],
        input=repr(arguments),
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.splitlines() or [""])[-1]
        raise StudyError(f"`{function}` failed: {one_line(last)}")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    module, _, name = sys.argv[1].partition(":")
    call = getattr(importlib.import_module(module), name)
    print(json.dumps(call(*ast.literal_eval(sys.stdin.read()))))
