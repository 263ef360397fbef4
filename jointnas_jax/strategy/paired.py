"""Accuracies of several networks on the same images, compared by a bootstrap.

R = resamples, S = seeds of a network, N = images, M = networks.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_RESAMPLES = 2000
# Numbers of a block of resamples in memory.
_BLOCK = 20_000_000
# Share of the resamples inside an interval.
_INSIDE = 0.95


class Interval(NamedTuple):
    """What was measured, and between what it would lie in 95 % of repetitions.

    Attributes:
      value: measured.
      low, high: percentiles of the resamples; not finite where these are.
    """

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, resampled: np.ndarray) -> "Interval":
        """The interval of `float[R]`, of which some may be infinite."""
        edges = (1 - _INSIDE) / 2, (1 + _INSIDE) / 2
        # No interpolation: between a finite number and an infinite one is none.
        low, high = np.quantile(resampled, edges, method="nearest")
        return cls(float(value), float(low), float(high))


def resample(
    right: Sequence[np.ndarray], weights: np.ndarray | None = None, *, seed: int = 0
) -> np.ndarray:
    """Accuracies of networks as they would be with other seeds and other images.

    The draws of images are the same for all networks, and those of seeds for all with as many: so
    differences between networks are in pairs.

    Args:
      right: `bool[S, N]` of each network, in which images each of its trainings was right.
      weights: `float[N]` of the images; None: they count alike.
      seed: seed of the draws.

    Returns:
      `float64[R, M]`.
    """
    rng = np.random.default_rng(seed)
    count = right[0].shape[1]
    rows = max(1, min(_RESAMPLES, _BLOCK // count))
    by_seed = [r.T.astype(np.float64) for r in right]
    blocks = []
    for start in range(0, _RESAMPLES, rows):
        size = min(rows, _RESAMPLES - start)
        images = rng.multinomial(count, np.full(count, 1 / count), size).astype(np.float64)
        images *= 1.0 if weights is None else weights
        images /= images.sum(1, keepdims=True)
        draws = {s: rng.integers(0, s, (size, s)) for s in sorted({len(r) for r in right})}
        drawn = [
            np.take_along_axis(images @ each, draws[each.shape[1]], 1).mean(1) for each in by_seed
        ]
        blocks.append(np.stack(drawn, 1))
    return np.concatenate(blocks)
