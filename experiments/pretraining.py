"""Claim: pretraining the embedding on FLOPs and params helps the predictor to rank (section 3.2).

The predictor learns from N random candidates and ranks all others, with Kendall's tau as the mark;
once as it is, once without pretraining, which is all that differs.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from experiments.random_trials import RandomTrials, check_sizes
from experiments.verdict import Row, disjoint_sets, judge, others
from jointnas_jax.config import PredictorConfig
from jointnas_jax.errors import ConfigError
from jointnas_jax.predictor.predictor import Predictor
from jointnas_jax.problem.problem import PRETRAIN_STREAM
from jointnas_jax.space.features import FeatureTable
from jointnas_jax.strategy.early_stop import kendall

CLAIM = "Pretraining raises the predictor's rank correlation at few samples"

# Name -> what differs from the config's predictor. The paper's is one network and nothing else.
PREDICTORS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "paper's": {"members": 1, "process": False, "targets": "raw"},
}


def compare(trials: RandomTrials, sizes: Sequence[int], shuffles: int) -> dict[str, Any]:
    """Compares predictors with and without pretraining.

    Args:
      trials: trained candidates.
      sizes: numbers N of candidates to learn from.
      shuffles: how often the candidates are divided into disjoint sets of N.

    Returns:
      The report: `rows`, and `taus` of every set by predictor, N, and `with` or `without`.
    """
    settings = trials.problem.config.predictor
    if not settings.pretrain_epochs:
        raise ConfigError("`config.predictor.pretrain_epochs` must be above 0 here, got 0")
    check_sizes("sizes", sizes, len(trials.vectors))
    rows, taus = [], {}
    for name, changes in PREDICTORS.items():
        own = dataclasses.replace(settings, **changes)
        pairs = {
            "with": measure(trials, own, sizes, shuffles),
            "without": measure(
                trials, dataclasses.replace(own, pretrain_epochs=0), sizes, shuffles
            ),
        }
        for size in sizes:
            found = {which: values[size] for which, values in pairs.items()}
            rows.append(
                Row(
                    f"{name}, N = {size}",
                    {which: values.mean() for which, values in found.items()},
                    judge(found["with"] - found["without"]),
                ).to_dict()
                | {"predictor": name, "N": size}
            )
        taus[name] = {
            str(size): {which: values[size].tolist() for which, values in pairs.items()}
            for size in sizes
        }
    return {"claim": CLAIM, **trials.facts(), "shuffles": shuffles, "rows": rows, "taus": taus}


def measure(
    trials: RandomTrials, settings: PredictorConfig, sizes: Sequence[int], shuffles: int
) -> dict[int, np.ndarray]:
    """Kendall's tau on the candidates that a set leaves, `float64[shuffles, sets]` for each N."""
    problem, scores = trials.problem, trials.curves[:, -1]
    features = FeatureTable.of(problem.space)
    predictor = Predictor(features, settings, max(sizes), problem.cost_features())
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
                state = predictor.fit(pretrained, trials.vectors[chosen], scores[chosen], key)
                rest = others(len(scores), chosen)
                # Of all, so that it compiles once.
                predicted = predictor.predict(state, trials.vectors)[0][rest]
                # A constant prediction ranks nothing.
                taus[size][shuffle, position] = np.nan_to_num(kendall(predicted, scores[rest]))
    return taus
