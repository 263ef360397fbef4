"""Work that needs a process of its own: JAX reads its settings once, when it starts."""

import dataclasses
import json
import os
import subprocess
import sys
from typing import Any

from jointnas_jax.errors import StudyError, one_line


def in_a_process(module: str, argument: object, data: Any, **environment: str) -> Any:
    """Runs a module, and returns the JSON of its last line.

    Args:
      module: Dotted name of the module, such as `benchmarks.scaling`.
      argument: Its only argument.
      data: A dataclass, which it reads from its input by `ast.literal_eval`.
      **environment: Additions to the environment of this process.

    Raises:
      StudyError: The module failed; with its last line.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, str(argument)],
        input=repr(dataclasses.asdict(data)),  # JSON would turn ranges, which are tuples, to lists
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.splitlines() or [""])[-1]
        raise StudyError(f"`{module}` with {argument} failed: {one_line(last)}")
    return json.loads(done.stdout.splitlines()[-1])
