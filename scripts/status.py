"""Shows where a running, interrupted or finished study is; from any terminal, at once.

python scripts/status.py --workdir=runs/digits
python scripts/status.py --workdir=runs/digits --json
"""

import json
import sys

from absl import flags

from jointnas_jax.command_line import define_path_or_url, parse_flags, run_script
from jointnas_jax.errors import ConfigError
from jointnas_jax.telemetry.console import plain_console
from jointnas_jax.telemetry.status import look_at, print_status

WORKDIR = define_path_or_url(
    "workdir", "", "Folder of a study, or of the training of a network, or its URL in a bucket."
)
JSON = flags.DEFINE_bool("json", False, "Print JSON instead of lines.")


def main(argv: list[str]) -> int:
    """Prints where a run is; returns the exit code."""
    parse_flags(argv, flags.FLAGS)
    if not WORKDIR.value:
        raise ConfigError("name the folder of a study, such as --workdir=runs/digits")
    status = look_at(WORKDIR.value)
    if JSON.value:
        print(json.dumps(status, indent=1))
    else:
        print_status(status, plain_console())
    return 0


if __name__ == "__main__":
    sys.exit(run_script(sys.argv, __doc__, main, answers=True))
