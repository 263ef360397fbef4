"""The accuracy that a score stands for, in which people read predictions."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy

# Fewer pairs have no slope that means anything.
_FEWEST = 3


class AccuracyScale(NamedTuple):
    """A line that never falls, cut at 0 and 1.

    Attributes:
      slope, offset: of the line.
      spread: standard deviation of accuracies around it.
    """

    slope: float = 1.0
    offset: float = 0.0
    spread: float = 0.0

    @classmethod
    def fit(cls, scores: Sequence[float], accuracies: Sequence[float]) -> "AccuracyScale":
        """Fits pairs of score and accuracy of the same trainings, by the Theil-Sen estimator.

        A fifth of odd ones does not bend it. With fewer than three distinct scores it is the
        identity.
        """
        x, y = np.asarray(scores, float), np.asarray(accuracies, float)
        if len(np.unique(x)) < _FEWEST or np.array_equal(x, y):
            return cls()
        slope = max(0.0, float(scipy.stats.theilslopes(y, x)[0]))
        offset = float(np.median(y - slope * x))
        # From the median deviation, for the same reason.
        spread = 1.4826 * float(np.median(np.abs(y - slope * x - offset)))
        return cls(slope, offset, spread)

    def accuracy(self, score: float) -> float:
        """The accuracy, in [0, 1], that goes with a score."""
        return min(max(self.offset + self.slope * score, 0.0), 1.0)

    def deviation(self, deviation: float) -> float:
        """Standard deviation of the accuracy, given that of the score."""
        return math.hypot(self.slope * deviation, self.spread)


def accuracy_scale(trials: Iterable[Any]) -> AccuracyScale:
    """The scale of the trials, `storage.trial_store.Trial`, of a search that did not fail."""
    searched = [t for t in trials if t.stage in ("coarse", "random") and t.score is not None]
    return AccuracyScale.fit([t.score for t in searched], [t.accuracies[-1] for t in searched])
