"""Finds the best candidate for each of several budgets, by the predictor of a finished study.

Nothing trains.

python scripts/search_budgets.py --workdir=runs/digits --flops=150K,200K,300K
python scripts/search_budgets.py --workdir=runs/digits --flops=150K,200K --params=12K
"""

import sys
from pathlib import Path

from absl import flags

from jointnas_jax.command_line import parse_budgets, parse_flags
from jointnas_jax.errors import ConfigError, JointNASError

WORKDIR = flags.DEFINE_string("workdir", "", "Folder of a finished study.")
FLOPS = flags.DEFINE_list("flops", [], "Limits of the FLOPs, such as 450M,550M.")
PARAMS = flags.DEFINE_list(
    "params", [], "Limits of the params; as many as of the FLOPs go in pairs, one goes with all."
)
SEED = flags.DEFINE_integer("seed", 0, "Of everything random.", 0, 2**31 - 1)
OUT = flags.DEFINE_string("out", "", "Folder for what is found; default the workdir.")


def main(argv: list[str]) -> int:
    """Searches for all budgets; returns the exit code."""
    if any(a in ("--help", "-h", "-help", "--helpfull") for a in argv[1:]):
        print(__doc__ + "\n" + flags.FLAGS.main_module_help())
        return 0
    try:
        parse_flags(argv, flags.FLAGS)
        if not WORKDIR.value:
            raise ConfigError("name the folder of a finished study, such as --workdir=runs/digits")
        budgets = parse_budgets(FLOPS.value, PARAMS.value)
        # Only now: the imports below take seconds, and an error should not.
        from jointnas_jax.study.main import run_budgets

        out = Path(OUT.value or WORKDIR.value)
        return run_budgets(Path(WORKDIR.value), budgets, out, SEED.value)
    except JointNASError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv))
