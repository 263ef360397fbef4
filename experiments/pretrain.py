"""Does pretraining on FLOPs and params raise the predictor's rank correlation at few samples?

python -m experiments.pretrain --trials=runs/trials.jsonl --out=pretraining.json

Trains random candidates, or takes those that the file of trials holds, and compares the config's
predictor, and the paper's, with and without pretraining. --seeds: how often the candidates are
divided into disjoint sets to learn from.
"""

import sys
from pathlib import Path
from typing import Any

from absl import flags
from rich.console import Console

from experiments.entry import SEEDS, integers, run_claim
from jointnas_jax.config import Config

DEFAULT_CONFIG = Path(__file__).parent.parent / "configs" / "digits.py"

TRIALS = flags.DEFINE_string("trials", "runs/trials.jsonl", "File of trained random candidates.")
CANDIDATES = flags.DEFINE_integer("candidates", 100, "Random candidates to train.", 3)
TWICE = flags.DEFINE_integer("twice", 20, "How many of them to train twice, for the noise.", 0)
SIZES = flags.DEFINE_list("sizes", ["10", "20", "40"], "Candidates that a predictor learns from.")


def measure(config: Config, console: Console) -> dict[str, Any]:
    """Tries the claim; returns the report."""
    from experiments.pretraining import compare
    from experiments.random_trials import check_sizes, random_trials

    sizes = integers("sizes", SIZES.value)
    check_sizes("sizes", sizes, CANDIDATES.value)
    trials = random_trials(config, Path(TRIALS.value), CANDIDATES.value, TWICE.value, console)
    return compare(trials, sizes, SEEDS.value)


if __name__ == "__main__":
    sys.exit(run_claim(sys.argv, __doc__, DEFAULT_CONFIG, measure, "pretraining"))
