"""How far the score of one training can be trusted to rank candidates."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

# A correlation that is good enough to search by.
_ENOUGH = 0.9
# Deviations from fewer numbers say nothing.
_FEWEST = 3


class Reliability(NamedTuple):
    """Repeated trainings against different candidates.

    Attributes:
      noise: standard deviation of the score of a candidate that trains again with another seed. It
        counts initial weights, batches and augmentation, not the choice of validation images.
      deviation: standard deviation of scores over candidates, noise included.
      correlation: what the scores of two trainings of all candidates correlate with, expected: the
        intraclass correlation, 1 - noise^2 / deviation^2, at least 0.
      trainings: of each candidate, whose mean scores would correlate with 0.9 (Spearman-Brown);
        None where no number would do.

    All are None where too few candidates trained, or trained again.
    """

    noise: float | None
    deviation: float | None
    correlation: float | None
    trainings: int | None

    @classmethod
    def of(cls, repeated: Sequence[Sequence[float]], candidates: Sequence[float]) -> "Reliability":
        """Measures it.

        The noise is pooled over candidates, for a rank correlation of a few pairs would be chance.

        Args:
          repeated: `float[C, S]`, scores of C candidates with the same S seeds; what a seed does to
            all of them changes no rank, and does not count.
          candidates: the score of one training of each candidate; a few bad ones do not count.
        """
        scores = np.asarray(repeated, float)
        degrees = (len(scores) - 1) * (scores.shape[-1] - 1)
        if degrees < _FEWEST or len(candidates) < _FEWEST:
            return cls(None, None, None, None)
        rest = scores - scores.mean(0) - scores.mean(1, keepdims=True) + scores.mean()
        noise = math.sqrt(float(np.square(rest).sum()) / degrees)
        low, high = np.quantile(candidates, [0.1, 0.9])
        # The 10 % and 90 % quantiles of a normal distribution are 2.563 deviations apart.
        deviation = max(float(high - low) / 2.563, 1e-12)
        correlation = max(0.0, 1 - noise**2 / deviation**2)
        trainings = None
        if correlation > 0:
            odds = _ENOUGH / (1 - _ENOUGH) * (1 - correlation) / correlation
            trainings = max(1, math.ceil(odds - 1e-9))
        return cls(noise, deviation, correlation, trainings)


def in_words(reliability: Mapping[str, Any]) -> str:
    """A reliability in a line, given its fields."""
    if reliability["correlation"] is None:
        return "too few trainings were repeated to say how reliable a score is"
    line = (
        f"reliability of a score: two trainings of a candidate differ by "
        f"{100 * reliability['noise']:.2f} points, candidates by "
        f"{100 * reliability['deviation']:.2f} (standard deviations), so two trainings would rank "
        f"candidates alike with a correlation of {reliability['correlation']:.2f}"
    )
    needed = reliability["trainings"]
    if needed is None:
        return f"{line}: what the search saw is noise"
    return line + ("" if needed == 1 else f"; {needed} trainings each would have {_ENOUGH:g}")
