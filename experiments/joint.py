"""Does joint search beat the search of architectures, or of recipes, alone?

python -m experiments.joint --workdir=runs/claim_joint --out=joint.json

Runs studies of all three modes with equally many trained candidates. --seeds: studies of each mode.
"""

import sys
from pathlib import Path
from typing import Any

from absl import flags
from rich.console import Console

from experiments.entry import SEEDS, run_claim
from jointnas_jax.config import Config

DEFAULT_CONFIG = Path(__file__).parent.parent / "configs" / "digits.py"

WORKDIR = flags.DEFINE_string("workdir", "runs/claim_joint", "Folder of the studies.")
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace studies there that have another config.")


def measure(config: Config, console: Console) -> dict[str, Any]:
    """Tries the claim; returns the report."""
    from experiments.modes import compare

    return compare(config, Path(WORKDIR.value), SEEDS.value, OVERWRITE.value, console)


if __name__ == "__main__":
    sys.exit(run_claim(sys.argv, __doc__, DEFAULT_CONFIG, measure, "modes"))
