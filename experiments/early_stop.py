"""Does the early-stop rule keep the ranking of candidates at a fraction of the epochs?

python -m experiments.early_stop --trials=runs/trials.jsonl --out=early_stop.json

Trains random candidates, or takes those that the file of trials holds, lets the rule decide from m
of them, and asks the others. --seeds: how often the candidates are divided into disjoint sets of m.
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
FIRST = flags.DEFINE_list("first", ["6", "12", "24", "48"], "Candidates that the rule sees: m.")


def measure(config: Config, console: Console) -> dict[str, Any]:
    """Tries the claim; returns the report."""
    from experiments.random_trials import check_sizes, random_trials
    from experiments.stopping import compare

    firsts = integers("first", FIRST.value)
    check_sizes("first", firsts, CANDIDATES.value)
    trials = random_trials(config, Path(TRIALS.value), CANDIDATES.value, TWICE.value, console)
    return compare(trials, firsts, SEEDS.value)


if __name__ == "__main__":
    sys.exit(run_claim(sys.argv, __doc__, DEFAULT_CONFIG, measure, "stopping"))
