"""What a predictor is worth on candidates that it has not seen."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jointnas_jax.strategy.early_stop import kendall, spearman

_FOLDS = 5
# Half of the width of an interval that holds 90 % of a normal distribution, in deviations.
_NINETY = 1.645
# Of how many candidates that are predicted best the best one counts.
_TOP = 3


class ReportCard(NamedTuple):
    """Marks by cross-validation: each trial is predicted from the trials of the other folds.

    Attributes:
      trials: number of trials.
      kendall, spearman: rank correlations of predicted with measured scores; nan below 3 trials.
      coverage: share of measured scores in the predicted 90 % interval, noise included.
      regret: the best measured score minus the best of the three trials that are predicted best.
      noise: standard deviation of a score measured again, as estimated from all trials; nan without
        a Gaussian process.
    """

    trials: int
    kendall: float
    spearman: float
    coverage: float
    regret: float
    noise: float

    def verdict(self) -> str:
        """Says in words how far the predictor can be trusted."""
        n = self.trials
        if n < 3 or math.isnan(self.kendall):
            return "too few trials to judge the predictor"
        # Standard deviation of tau where there is no relation at all.
        chance = math.sqrt(2 * (2 * n + 5) / (9 * n * (n - 1)))
        if self.kendall < 2 * chance:
            return "do not trust the predictor yet: its ranking could be chance"
        if self.coverage < 0.7:
            return "the predictor ranks candidates, but it is too sure of its scores"
        if self.kendall < 0.6:
            return "the predictor ranks candidates roughly"
        return "the predictor ranks candidates well"


def cross_validate(
    scores: np.ndarray,
    predict: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    noise: float,
) -> ReportCard:
    """Predicts every trial from others.

    Args:
      scores: `float[N]`, measured.
      predict: from the trials at positions `int[n]`, predicts mean and spread of all trials,
        `float[N]` each, without noise.
      noise: see `ReportCard`.
    """
    count = len(scores)
    if count < 3:
        return ReportCard(
            trials=count,
            kendall=math.nan,
            spearman=math.nan,
            coverage=math.nan,
            regret=math.nan,
            noise=noise,
        )
    mean, spread = np.zeros(count), np.zeros(count)
    order = np.random.default_rng(count).permutation(count)
    for fold in np.array_split(order, min(_FOLDS, count)):
        means, spreads = predict(np.setdiff1d(order, fold))
        mean[fold], spread[fold] = means[fold], spreads[fold]
    width = _NINETY * np.hypot(spread, 0.0 if math.isnan(noise) else noise)
    top = np.argsort(-mean, kind="stable")[:_TOP]
    return ReportCard(
        trials=count,
        kendall=kendall(mean, scores),
        spearman=spearman(mean, scores),
        coverage=float((np.abs(mean - scores) <= width).mean()),
        regret=float(np.max(scores) - np.max(scores[top])),
        noise=noise,
    )
