"""Accuracies of several networks on the same images, compared by a bootstrap.

R = resamples, S = seeds of a network, N = images, M = networks.
"""

from collections.abc import Sequence

import numpy as np

_RESAMPLES = 2000
# Numbers of a block of resamples in memory.
_BLOCK = 20_000_000
# Share of the resamples inside an interval.
_INSIDE = 0.95


def interval(resampled: np.ndarray) -> tuple[float, float]:
    """Between what a number would lie in 95 % of repetitions, of `float[R]`.

    Without interpolation: of the resamples some may be infinite.
    """
    edges = (1 - _INSIDE) / 2, (1 + _INSIDE) / 2
    low, high = np.quantile(resampled, edges, method="nearest")
    return float(low), float(high)


def resample(
    right: Sequence[np.ndarray], strata: np.ndarray | None = None, *, seed: int = 0
) -> np.ndarray:
    """Accuracies of networks as they would be with other seeds and other images.

    The draws of images are the same for all networks, and those of seeds for all with as many: so
    differences between networks are in pairs. Of S seeds S - 1 are drawn, which makes the variance
    of their mean right; one seed says nothing of it.

    Args:
      right: `bool[S, N]` of each network, in which images each of its trainings was right.
      strata: `int[N]`, classes that count alike, however many images they have; None: all images
        count alike.
      seed: seed of the draws.

    Returns:
      `float64[R, M]`.
    """
    rng = np.random.default_rng(seed)
    count = right[0].shape[1]
    rows = max(1, min(_RESAMPLES, _BLOCK // count))
    by_seed = [r.T.astype(np.float64) for r in right]
    classes = np.zeros(count, np.int64) if strata is None else strata
    members = [np.flatnonzero(classes == c) for c in np.unique(classes)]
    blocks = []
    for start in range(0, _RESAMPLES, rows):
        size = min(rows, _RESAMPLES - start)
        draws = {s: rng.integers(0, s, (size, max(1, s - 1))) for s in {len(r) for r in right}}
        means = np.zeros((size, len(right)))
        for positions in members:
            n = len(positions)
            images = rng.multinomial(n, np.full(n, 1 / n), size).astype(np.float64)
            for m, each in enumerate(by_seed):
                # Whole numbers until the end, so that equal ones are equal.
                hits = np.take_along_axis(images @ each[positions], draws[each.shape[1]], 1)
                means[:, m] += hits.sum(1) / (n * hits.shape[1] * len(members))
        blocks.append(means)
    return np.concatenate(blocks)
