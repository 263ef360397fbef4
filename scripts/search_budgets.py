"""Finds the best candidate for each of several budgets, by the predictor of a finished study.

Nothing trains.

python scripts/search_budgets.py --workdir=runs/digits --flops=150K,200K,300K
python scripts/search_budgets.py --workdir=runs/digits --flops=150K,200K --params=12K
python scripts/search_budgets.py --workdir=runs/digits --latency=90us   # see profile.py table
"""

import sys
from pathlib import Path

from absl import flags

from jointnas_jax.command_line import (
    check_out,
    define_path,
    define_path_or_url,
    parse_budgets,
    parse_flags,
    run_script,
)
from jointnas_jax.errors import ConfigError
from jointnas_jax.telemetry.console import plain_console

WORKDIR = define_path_or_url("workdir", "", "Folder of a finished study, or its URL in a bucket.")
FLOPS = flags.DEFINE_list("flops", [], "Limits of the FLOPs, such as 450M,550M.")
PARAMS = flags.DEFINE_list(
    "params",
    [],
    "Limits of the params; as many as of the FLOPs go in pairs, one goes with all.",
)
LATENCY = flags.DEFINE_list("latency", [], "Limits of the latency, such as 2.5ms, likewise.")
SEED = flags.DEFINE_integer("seed", 0, "Of everything random.", 0, 2**31 - 1)
OUT = define_path("out", "", "Folder for what is found; default the workdir, and of a URL none.")


def main(argv: list[str]) -> int:
    """Searches for all budgets; returns the exit code."""
    parse_flags(argv, flags.FLAGS)
    if not WORKDIR.value:
        raise ConfigError("name the folder of a finished study, such as --workdir=runs/digits")
    check_out(WORKDIR.value, OUT.value)
    budgets = parse_budgets(FLOPS.value, PARAMS.value, LATENCY.value)
    # Only now: the imports below take seconds, and an error should not.
    from jointnas_jax.models.model import of_models
    from jointnas_jax.runtime.jax_setup import prepare_jax
    from jointnas_jax.storage.manifest import fetched
    from jointnas_jax.study.budgets import print_budgets, search_budgets, write_budgets

    prepare_jax(devices=1)
    with fetched(WORKDIR.value, of_models) as folder:
        report = search_budgets(folder, budgets, SEED.value)
    console = plain_console()
    written = write_budgets(report, Path(OUT.value or WORKDIR.value))
    print_budgets(report, console)
    for path in written:
        console.print(f"  wrote {path}", highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(run_script(sys.argv, __doc__, main))
