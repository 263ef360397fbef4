"""What a Gaussian process expects before anything is measured: a trend over its inputs.

F features: those of the knobs, then costs, then expectations of a user.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jointnas_jax.space.features import FeatureTable

# Effects, in standard deviations of the scores: of one standard deviation of the logarithms of the
# costs, and of the squared distances from where numbers are expected to be best.
_RISE, _PEAK = 0.3, 0.55
# Least deviation of squared distances that are not all the same.
_EQUAL = 1e-6
# How much targets rise with an expectation of a user before any is known.
_EXPECTED = 0.7


class Trend(NamedTuple):
    """What is expected of inputs before anything is measured, in standard deviations of targets.

    Attributes:
      slopes: `float32[F]`, how much it rises with each feature.
      peaks: `float32[F]`, how much it falls with the squared distance of a feature from its centre.
      offset: `float32[]`, added to it.
      centres: `float32[F]`, where it is highest.
    """

    slopes: np.ndarray | jax.Array
    peaks: np.ndarray | jax.Array
    offset: np.floating | jax.Array
    centres: np.ndarray | jax.Array

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """The trend at inputs `float32[..., F]`: `float32[...]`."""
        return self.offset + inputs @ self.slopes - jnp.square(inputs - self.centres) @ self.peaks

    def expecting(self, count: int) -> "Trend":
        """The trend over so many expectations, too, which are the last inputs.

        They have a mean of 0 and a deviation of 1.
        """
        flat = np.zeros(count, np.float32)
        return Trend(
            slopes=np.append(self.slopes, flat + np.float32(_EXPECTED)),
            peaks=np.append(self.peaks, flat),
            offset=self.offset,
            centres=np.append(self.centres, flat),
        )

    @classmethod
    def none(cls, width: int) -> "Trend":
        """No trend, for so many features."""
        flat = np.zeros(width, np.float32)
        return cls(flat, flat, np.float32(0.0), flat)

    @classmethod
    def usual(
        cls, table: FeatureTable, columns: np.ndarray, scales: np.ndarray, costs: int
    ) -> "Trend":
        """What is expected of networks and recipes, see `space/expected.py`; its mean is 0.

        Args:
          table: features of the space.
          columns: `int[A]`, those of them that are inputs.
          scales: `float32[A]`, factors from these features to the inputs; 1 for numbers, and for
            the one feature of a choice of two values.
          costs: number of standardised costs, which are the inputs behind them.
        """
        expected, flat = table.expected, np.zeros(costs)
        assert expected is not None
        steps = table.factors[columns]  # 0 for choices and constants
        centres = expected.centres[columns]
        means, spreads = np.zeros(len(columns)), np.zeros(len(columns))  # of squared distances
        for i in np.flatnonzero(steps > 0):
            numbers = np.arange(round(1 / steps[i]) + 1) * steps[i]
            squares = np.square(numbers - centres[i])
            means[i], spreads[i] = squares.mean(), squares.std()
        # Two numbers may be equally far from the centre.
        counts = spreads > _EQUAL
        shares = np.where(counts, expected.shares[columns], 0.0)
        shares *= _PEAK / max(float(np.linalg.norm(shares)), 1.0)
        heights = shares / np.where(counts, spreads, 1.0)
        offset = float((heights * means).sum())
        # A feature of a pair says all of it; those of a larger choice are 0 in the mean.
        alone = (steps > 0) | (scales == 1)
        slopes = np.where(alone & (steps == 0), 2.0, 1.0) * expected.rises[columns] / scales
        offset -= float(slopes[alone].sum()) / 2
        rising = np.full(costs, _RISE / max(costs, 1))
        return cls(
            slopes=np.append(slopes, rising).astype(np.float32),
            peaks=np.append(heights, flat).astype(np.float32),
            offset=np.float32(offset),
            centres=np.append(centres, flat).astype(np.float32),
        )
