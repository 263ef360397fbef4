"""Does the early-stop rule keep the ranking of candidates at a fraction of the epochs?

python -m experiments.early_stop --trials=runs/trials.jsonl --out=early_stop.json

The claim of section 3.3. Trains random candidates, or takes those that the file of trials holds.
The rule looks at m of them, trained to the end, and decides how long later ones train. The others
show how well that many epochs really rank: `kept`, the rank correlation of their accuracy then with
that at the end. The rule promises more than its threshold.
--seeds: how often the candidates are divided into disjoint sets of m.
"""

import dataclasses
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

from experiments.entry import on_random_trials, run_experiment
from experiments.verdict import check_sizes, disjoint_sets, judge, others, row
from jointnas_jax.config import SearchConfig

if TYPE_CHECKING:
    from experiments.random_trials import RandomTrials

CLAIM = "The early-stop rule keeps the ranking at a fraction of the epochs"
# The paper's, where the config leaves the rule out.
_THRESHOLD = 0.92


def compare(trials: "RandomTrials", firsts: Sequence[int], shuffles: int) -> dict[str, Any]:
    """Applies the rule to first rounds of m candidates, for each m of `firsts`.

    Returns:
      The report: `rows`; `by_epoch`, the correlations of all candidates; `rounds` by m, each with
      the `epochs` that the rule chose, what they `kept`, and the `regret`: how much worse, in the
      end, the candidate is that is best then. The verdict leaves out the rounds where the rule
      stopped nothing, which keep the ranking without any merit.
    """
    from jointnas_jax.strategy.early_stop import CORRELATIONS

    check_sizes("first", firsts, len(trials.vectors))
    search, curves = trials.problem.config.search, trials.curves
    if search.threshold >= 1:
        search = dataclasses.replace(search, threshold=_THRESHOLD)
    epochs = curves.shape[1]
    rows, rounds = [], {}
    for m in firsts:
        sets = disjoint_sets(len(curves), m, shuffles)
        outcomes = [[apply_rule(curves, chosen, search) for chosen in shuffle] for shuffle in sets]
        stops, kept, regret = np.moveaxis(np.array(outcomes), -1, 0)
        early = stops < epochs
        means = {
            "epochs": stops.mean(),
            "saved": 1 - stops.mean() / epochs,
            "stopped": early.mean(),
            "kept": kept[early].mean() if early.any() else np.nan,
            "regret": regret.mean(),
        }
        verdict = judge(np.where(early, kept - search.threshold, np.nan))
        rows.append(row(f"m = {m}", means, verdict) | {"m": m})
        each = {"epochs": stops.astype(int), "kept": kept, "regret": regret}
        rounds[str(m)] = {name: values.tolist() for name, values in each.items()}
    return {
        "claim": CLAIM,
        **trials.summary(),
        "threshold": search.threshold,
        "correlation": search.correlation,
        "shuffles": shuffles,
        "rows": rows,
        "by_epoch": {
            name: [correlate(curves[:, t], curves[:, -1]) for t in range(epochs)]
            for name, correlate in CORRELATIONS.items()
        },
        "rounds": rounds,
    }


def apply_rule(
    curves: np.ndarray, chosen: np.ndarray, search: SearchConfig
) -> tuple[int, float, float]:
    """Epochs that the rule takes from the chosen ones; what they keep and cost on the others."""
    from jointnas_jax.strategy.early_stop import CORRELATIONS, early_stop

    stop = early_stop(curves[chosen], search.threshold, search.correlation).epochs
    rest = curves[others(len(curves), chosen)]
    then, end = rest[:, stop - 1], rest[:, -1]
    # Constant accuracies rank nothing.
    kept = float(np.nan_to_num(CORRELATIONS[search.correlation](then, end)))
    return stop, kept, float(end.max() - end[then.argmax()])


if __name__ == "__main__":
    flags.DEFINE_list("first", ["6", "12", "24", "48"], "Candidates that the rule sees: m.")
    sys.exit(run_experiment(__doc__, on_random_trials(compare, "first"), "early_stop"))
