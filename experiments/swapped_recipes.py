"""Does it cost accuracy to swap the found recipes of networks?

python -m experiments.swapped_recipes --out=swap.json \
    --candidates=runs/a/winner0.json,runs/b/winner0.json

The candidates come from studies of the same space, for instance with different budgets. --seeds:
trainings of each network with each recipe.
"""

import sys
from pathlib import Path
from typing import Any

from absl import flags
from rich.console import Console

from experiments.entry import SEEDS, run_claim
from jointnas_jax.config import Config

DEFAULT_CONFIG = Path(__file__).parent.parent / "configs" / "digits.py"

CANDIDATES = flags.DEFINE_list("candidates", [], "Files of found candidates, two or more.")


def measure(config: Config, console: Console) -> dict[str, Any]:
    """Tries the claim; returns the report."""
    from experiments.swap import compare

    return compare(config, [Path(file) for file in CANDIDATES.value], SEEDS.value)


if __name__ == "__main__":
    sys.exit(run_claim(sys.argv, __doc__, DEFAULT_CONFIG, measure, "swap"))
