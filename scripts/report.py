"""Writes the report of a study, finished or running: a page that explains what was found.

python scripts/report.py --workdir=runs/digits
"""

import dataclasses
import sys
from pathlib import Path

from absl import flags

from jointnas_jax.command_line import (
    check_out,
    define_path,
    define_path_or_url,
    parse_flags,
    run_script,
)
from jointnas_jax.errors import ConfigError
from jointnas_jax.rules import is_url

WORKDIR = define_path_or_url("workdir", "", "Folder of a study, or its URL in a bucket.")
OUT = define_path("out", "", "Folder for the report; default WORKDIR/report, and of a URL none.")
STORAGE = flags.DEFINE_string(
    "storage", "", "Database of the trials; default the one where the study began."
)


def main(argv: list[str]) -> int:
    """Writes one report; returns the exit code."""
    parse_flags(argv, flags.FLAGS)
    if not WORKDIR.value:
        raise ConfigError("name the folder of a study, such as --workdir=runs/digits")
    check_out(WORKDIR.value, OUT.value)
    # Only now: the imports below take seconds, and an error should not.
    from jointnas_jax.storage.manifest import at_top, fetched
    from jointnas_jax.storage.study_reader import read_record

    with fetched(WORKDIR.value, at_top) as folder:
        record = read_record(folder, STORAGE.value)
    if is_url(WORKDIR.value):
        record = dataclasses.replace(record, url=WORKDIR.value)
    from jointnas_jax.report.page import write_report

    for path in write_report(record, Path(OUT.value) if OUT.value else None):
        print(f"  wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(run_script(sys.argv, __doc__, main))
