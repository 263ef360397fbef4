"""The early-stop rule: how long training must last for the ranking to be right (paper section 3.3).

Also the rank correlations, of which the paper does not say which one it uses.
"""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

# SciPy imports its parts at first use: `scipy.stats` takes as long as JAX.
import scipy


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rho of two samples; nan where one is constant or shorter than 2."""
    return _correlation(scipy.stats.spearmanr, a, b)


def kendall(a: np.ndarray, b: np.ndarray) -> float:
    """Kendall's tau-b of two samples; nan where one is constant or shorter than 2."""
    return _correlation(scipy.stats.kendalltau, a, b)


CORRELATIONS = {"spearman": spearman, "kendall": kendall}


class EarlyStop(NamedTuple):
    """What the rule decided.

    Attributes:
      epochs: epochs that later candidates train.
      correlations: per epoch of the first round, with the final accuracy.
    """

    epochs: int
    correlations: tuple[float, ...]


def early_stop(accuracies: np.ndarray, threshold: float, kind: str) -> EarlyStop:
    """Finds the smallest number of epochs after which candidates rank as they do at the end.

    Args:
      accuracies: `float[m, T]`, of the first round's candidates after each of T epochs.
      threshold: the rank correlation with the last column to exceed, in [0, 1].
      kind: key of `CORRELATIONS`.

    Returns:
      The first epoch above the threshold, T if there is none before: fewer than three candidates
        rank nothing.
    """
    epochs = accuracies.shape[1]
    final = accuracies[:, -1]
    correlations = tuple(
        CORRELATIONS[kind](accuracies[:, t], final) if len(final) > 2 else float("nan")
        for t in range(epochs)
    )
    chosen = next((t for t, c in enumerate(correlations, start=1) if c > threshold), epochs)
    return EarlyStop(chosen, correlations)


def _correlation(
    function: Callable[..., tuple[float, float]], a: np.ndarray, b: np.ndarray
) -> float:
    if len(a) < 2:
        return float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", scipy.stats.ConstantInputWarning)
        return float(function(a, b)[0])
