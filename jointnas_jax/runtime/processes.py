"""Work that needs a process of its own: JAX reads its settings once, when it starts."""

import dataclasses
import json
import os
import subprocess
import sys
from typing import Any

from jointnas_jax.errors import StudyError, one_line


def in_a_process(module: str, argument: object, given: Any, **environment: str) -> Any:
    """Runs a module of this package, which prints what it found as JSON, on its last line.

    Args:
      module: its name in the package, such as `bench.scaling`.
      argument: its only one.
      given: a dataclass, which it reads from its input by `ast.literal_eval`.
      **environment: added to that of this process.

    Raises:
      StudyError: it failed; with its last words.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, str(argument)],
        input=repr(dataclasses.asdict(given)),  # JSON would turn ranges, which are tuples, to lists
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.splitlines() or [""])[-1]
        raise StudyError(f"`{module}` with {argument} failed: {one_line(last)}")
    return json.loads(done.stdout.splitlines()[-1])
