"""Claim: the early-stop rule keeps the ranking at a fraction of the epochs (section 3.3).

The rule looks at the first m candidates, trained to the end, and says how long later ones have to
train. Those others tell how well that many epochs really rank: `kept`, the rank correlation of
their accuracy then with that at the end. The rule promises more than its threshold.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.random_trials import RandomTrials, check_sizes
from experiments.verdict import Row, disjoint_sets, judge, others
from jointnas_jax.strategy.early_stop import CORRELATIONS, early_stop

CLAIM = "The early-stop rule keeps the ranking at a fraction of the epochs"


def compare(trials: RandomTrials, firsts: Sequence[int], shuffles: int) -> dict[str, Any]:
    """Applies the rule to many first rounds.

    Args:
      trials: trained candidates.
      firsts: numbers m of candidates in the first round.
      shuffles: how often the candidates are divided into disjoint first rounds.

    Returns:
      The report: `rows`; `by_epoch`, the correlations of all candidates; `rounds` by m, each with
      the `epochs` that the rule chose, what they `kept`, and the `regret`: how much worse, in the
      end, the candidate is that is best then. The verdict leaves out the rounds where the rule
      stopped nothing, which keep the ranking without any merit.
    """
    check_sizes("first", firsts, len(trials.vectors))
    search, curves = trials.problem.config.search, trials.curves
    epochs = curves.shape[1]
    rows, rounds = [], {}
    for m in firsts:
        row, rounds[str(m)] = _first_rounds(trials, m, shuffles)
        rows.append(row)
    by_epoch = {
        name: [correlate(curves[:, t], curves[:, -1]) for t in range(epochs)]
        for name, correlate in CORRELATIONS.items()
    }
    return {
        "claim": CLAIM,
        **trials.facts(),
        "threshold": search.threshold,
        "correlation": search.correlation,
        "shuffles": shuffles,
        "rows": rows,
        "by_epoch": by_epoch,
        "rounds": rounds,
    }


def _first_rounds(
    trials: RandomTrials, m: int, shuffles: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The row of m, and what the rule did in each first round of m candidates."""
    search, curves = trials.problem.config.search, trials.curves
    epochs = curves.shape[1]
    found = np.array(
        [
            [_one(curves, chosen, search.threshold, search.correlation) for chosen in row]
            for row in disjoint_sets(len(curves), m, shuffles)
        ]
    )
    stops, kept, regret = np.moveaxis(found, -1, 0)
    early = stops < epochs
    numbers = {
        "epochs": stops.mean(),
        "saved": 1 - stops.mean() / epochs,
        "stopped": early.mean(),
        "kept": kept[early].mean() if early.any() else np.nan,
        "regret": regret.mean(),
    }
    verdict = judge(np.where(early, kept - search.threshold, np.nan))
    row = Row(f"m = {m}", numbers, verdict).to_dict() | {"m": m}
    rounds = {"epochs": stops.astype(int), "kept": kept, "regret": regret}
    return row, {name: values.tolist() for name, values in rounds.items()}


def _one(
    curves: np.ndarray, chosen: np.ndarray, threshold: float, kind: str
) -> tuple[int, float, float]:
    """Epochs that the rule takes from the chosen ones; what they keep and cost on the others."""
    stop = early_stop(curves[chosen], threshold, kind).epochs
    rest = curves[others(len(curves), chosen)]
    then, end = rest[:, stop - 1], rest[:, -1]
    # Constant accuracies rank nothing.
    kept = float(np.nan_to_num(CORRELATIONS[kind](then, end)))
    return stop, kept, float(end.max() - end[then.argmax()])
