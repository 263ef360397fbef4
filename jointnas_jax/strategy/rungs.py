"""Rungs: shares of a training after which a candidate stops, or goes on if it promises enough.

What a candidate scored at a rung says something of its score at the end. How much is learnt from
those that reached the end, from a prior for the first ones; it counts as a measurement of the end
with more noise.

Shapes: T candidates, R rungs, the last of which is the end of the training.
"""

import numpy as np

# A line from the score at a rung to that at the end, both standardised, as it is expected before
# any candidate has both, and for how many candidates that counts: its slope, and its height.
_SLOPE, _SLOPE_COUNT, _HEIGHT_COUNT = 0.7, 3.0, 0.3
# What is expected of the variance around it, likewise.
_VARIANCE, _VARIANCE_COUNT = 0.5, 3.0
# The least deviation of scores to divide by, as a share of their size.
_ROUNDING = 1e-6


def at_the_end(measured: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores at the end of a training, measured ones or what those at rungs let expect.

    Args:
      measured: `float[T, R]`, scores at the rungs; nan where a candidate was not measured.

    Returns:
      Scores `float[T]`, nan for candidates without any; and variances around them, `float[T]`, 0
      where the end is measured.
    """
    scores, variances = measured[:, -1].copy(), np.zeros(len(measured))
    ended = np.isfinite(scores)
    last = _last_rungs(measured)
    usual = scores[ended] if ended.sum() > 1 else measured[last >= 0, last[last >= 0]]
    mean, deviation = _moments(usual)
    for rung in range(measured.shape[1] - 1):
        stopped = last == rung
        if not stopped.any():
            continue
        here = measured[:, rung]
        centre, unit = _moments(here[np.isfinite(here)])
        both = ended & np.isfinite(here)
        x, z = (here[both] - centre) / unit, (scores[both] - mean) / deviation
        slope, height, variance = _line(x, z)
        expected = height + slope * (here[stopped] - centre) / unit
        scores[stopped] = mean + deviation * expected
        variances[stopped] = variance * deviation**2
    return scores, variances


def _last_rungs(measured: np.ndarray) -> np.ndarray:
    """The last rung that each candidate was measured at, `int[T]`; -1: none."""
    seen = np.isfinite(measured)
    last = measured.shape[1] - 1 - seen[:, ::-1].argmax(1)
    return np.where(seen.any(1), last, -1)


def _line(x: np.ndarray, z: np.ndarray) -> tuple[float, float, float]:
    """Slope, height and the variance around a line through standardised scores."""
    inputs = np.stack([np.ones_like(x), x], 1)
    prior, counts = np.array([0.0, _SLOPE]), np.diag([_HEIGHT_COUNT, _SLOPE_COUNT])
    gram = inputs.T @ inputs + counts
    height, slope = prior + np.linalg.solve(gram, inputs.T @ (z - inputs @ prior))
    rest = np.square(z - height - slope * x).sum()
    variance = (_VARIANCE * _VARIANCE_COUNT + rest) / (_VARIANCE_COUNT + len(x))
    return float(slope), float(height), float(variance)


def _moments(scores: np.ndarray) -> tuple[float, float]:
    """Mean, and a deviation to divide by."""
    if not len(scores):
        return 0.0, 1.0
    mean, deviation = float(scores.mean()), float(scores.std())
    return mean, max(deviation, _ROUNDING * max(abs(mean), 1e-6))
