"""Does pretraining on FLOPs and params raise the predictor's rank correlation at few samples?

python -m experiments.pretraining --trials=runs/trials.jsonl --out=pretraining.json

The claim of section 3.2. Trains random candidates, or takes those that the file of trials holds.
The predictor learns from N of them and ranks all others, with Kendall's tau as the mark: the
config's predictor and the paper's, each with and without pretraining, which is all that differs.
--seeds: how often the candidates are divided into disjoint sets of N.
"""

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

from experiments.entry import on_random_trials, run_experiment
from experiments.verdict import check_sizes, disjoint_sets, judge, others, row
from jointnas_jax.config import PredictorConfig
from jointnas_jax.errors import ConfigError

if TYPE_CHECKING:
    from experiments.random_trials import RandomTrials

CLAIM = "Pretraining raises the predictor's rank correlation at few samples"

# Name -> what differs from the config's predictor. The paper's is one network and nothing else.
PREDICTORS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "paper's": {"members": 1, "process": False, "targets": "raw"},
}


def compare(
    trials: "RandomTrials",
    sizes: Sequence[int],
    shuffles: int,
    *,
    make: Callable[..., Any] | None = None,
) -> dict[str, Any]:
    """Compares predictors with and without pretraining.

    Args:
      trials: trained candidates.
      sizes: numbers N of candidates to learn from.
      shuffles: divisions of the candidates into disjoint sets of N.
      make: makes a predictor, with the arguments of `Predictor`, which None stands for.

    Returns:
      The report: `rows`, and `taus` of every set by predictor, N, and `with` or `without`.
    """
    settings = trials.problem.config.predictor
    if not settings.pretrain_epochs:
        raise ConfigError("`config.predictor.pretrain_epochs` must be above 0 here, got 0")
    check_sizes("sizes", sizes, len(trials.vectors))
    rows, taus = [], {}
    for name, changes in PREDICTORS.items():
        full = dataclasses.replace(settings, **changes)
        bare = dataclasses.replace(full, pretrain_epochs=0)
        pair = {
            which: rank_correlations(trials, predictor, sizes=sizes, shuffles=shuffles, make=make)
            for which, predictor in (("with", full), ("without", bare))
        }
        taus[name] = {
            str(size): {which: values[size].tolist() for which, values in pair.items()}
            for size in sizes
        }
        for size in sizes:
            means = {which: values[size].mean() for which, values in pair.items()}
            verdict = judge(pair["with"][size] - pair["without"][size])
            line = row(f"{name}, N = {size}", means, verdict)
            rows.append(line | {"predictor": name, "N": size})
    return {"claim": CLAIM, **trials.summary(), "shuffles": shuffles, "rows": rows, "taus": taus}


def rank_correlations(
    trials: "RandomTrials",
    settings: PredictorConfig,
    *,
    sizes: Sequence[int],
    shuffles: int,
    make: Callable[..., Any] | None,
) -> dict[int, np.ndarray]:
    """Kendall's tau on the candidates that a set leaves, `float64[shuffles, sets]` for each N."""
    import jax

    from jointnas_jax.predictor.predictor import Predictor
    from jointnas_jax.problem.problem import PRETRAIN_STREAM
    from jointnas_jax.space.features import FeatureTable
    from jointnas_jax.strategy.early_stop import kendall

    problem, scores = trials.problem, trials.curves[:, -1]
    features = FeatureTable.of(problem.space)
    costs_of = problem.cost_features()
    predictor = (make or Predictor)(features, settings, capacity=max(sizes), costs=costs_of)
    rng = np.random.default_rng((problem.config.seed, PRETRAIN_STREAM))
    sample = problem.space.sample(rng, settings.pretrain_samples)
    costs = problem.costs(sample)[:, :2]
    divided = {size: disjoint_sets(len(scores), size, shuffles) for size in sizes}
    taus = {size: np.zeros(sets.shape[:2]) for size, sets in divided.items()}
    for shuffle in range(shuffles):
        first, second = jax.random.split(jax.random.key(shuffle))
        pretrained = predictor.pretrain(sample, costs, first)
        for size, sets in divided.items():
            for position, chosen in enumerate(sets[shuffle]):
                key = jax.random.fold_in(jax.random.fold_in(second, size), position)
                state = predictor.fit(pretrained, trials.vectors[chosen], scores[chosen], key=key)
                rest = others(len(scores), chosen)
                # Of all, so that it compiles once.
                predicted = predictor.predict(state, trials.vectors)[0][rest]
                # A constant prediction ranks nothing.
                taus[size][shuffle, position] = np.nan_to_num(kendall(predicted, scores[rest]))
    return taus


if __name__ == "__main__":
    flags.DEFINE_list("sizes", ["10", "20", "40"], "Candidates that a predictor learns from: N.")
    sys.exit(run_experiment(__doc__, on_random_trials(compare, "sizes"), "pretraining"))
