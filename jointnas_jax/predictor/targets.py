"""Scores as regression targets: close to a normal distribution, and back.

Accuracies have a long tail of bad candidates, which would take most of a squared loss, and the
differences between good ones little. The Yeo-Johnson transform (Biometrika 87, 2000) of the
standardised scores shortens it. It is monotonic: ranks stay.

Penalties, such as -1e6 for candidates that do not work, are no tail: beside them all good scores
are equal. They are winsorised before anything else. Scores without such outliers stay as they are,
to the bit.
"""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

# Exponents tried; 1 changes nothing.
_EXPONENTS = np.linspace(-3.0, 5.0, 81).astype(np.float32)
# Standard deviation of a normal prior at 1: the likeliest exponent of five scores is nearly random.
_PRIOR = 1.0
# Differences below this share of the largest score are rounding.
_ROUNDING = 1e-12
# Squares of larger values have no 64 bits.
_LARGEST = 1e150
# Scores are outliers where the gap above them is so many times the range of all better ones: from a
# factor of 10 on penalties cost accuracy. A search that converges leaves a gap behind its best
# candidates, too, of up to 83 times their range in 3,300 states of searches. But the first trials
# behind it are spread, and penalties are nearly alike: the factor grows with the width of what is
# below the gap, in gaps, and is larger for few scores, up to one that no such search had.
_GAP, _WIDER, _ENOUGH = 10.0, 100.0, 500.0
# The chance, at most, that evenly spread scores have such a gap, for the first outliers and for
# more: where some are penalties others are likely to be.
_CHANCE, _CHANCE_OF_MORE = 1e-6, 1e-3
# Scores that differ by less than this share of the best are equal, but for the rounding of 32 bits.
_EQUAL = 1e-6
# Winsorised scores are below all others by this share of their range, where penalties work best.
_BELOW = 0.5


class Transform(flax.struct.PyTreeNode):
    """From standardised scores to targets and back."""

    mean: jax.Array | np.float64  # mean of the scores
    std: jax.Array | np.float64  # standard deviation of the scores, 1 where all are equal
    exponent: jax.Array  # float32[], exponent of Yeo-Johnson; 1 is the identity
    offset: jax.Array  # float32[], mean after it
    scale: jax.Array  # float32[], standard deviation after it

    @classmethod
    def fit(cls, z: jax.Array, real: jax.Array, straighten: bool) -> "Transform":
        """Fits it to standardised scores `float32[N]` where `real: bool[N]`; for use under `jit`.

        With `straighten` the exponent is the most likely one under a normal distribution, else 1.
        `mean` and `std` are 0 and 1: the host sets them, in 64 bits.
        """
        z = jnp.where(real, z, 0.0)

        def likelihood(exponent: jax.Array) -> jax.Array:
            _, spread = _moments(_forward(z, exponent), real)
            stretch = jnp.where(real, jnp.sign(z) * jnp.log1p(jnp.abs(z)), 0.0).sum()
            prior = jnp.square((exponent - 1) / _PRIOR) / 2
            return (exponent - 1) * stretch - real.sum() * jnp.log(spread) - prior

        candidates = jnp.asarray(_EXPONENTS)
        best = candidates[jnp.argmax(jax.vmap(likelihood)(candidates))]
        exponent = best if straighten else jnp.ones(())
        zero, one = jnp.zeros(()), jnp.ones(())
        offset, scale = _moments(_forward(z, exponent), real)
        return cls(mean=zero, std=one, exponent=exponent, offset=offset, scale=scale)

    def forward(self, z: jax.Array) -> jax.Array:
        """Standardised scores -> targets of mean 0 and standard deviation 1."""
        return (_forward(z, self.exponent) - self.offset) / self.scale

    def backward(self, targets: jax.Array) -> jax.Array:
        """Targets -> standardised scores."""
        return _backward(targets * self.scale + self.offset, self.exponent)


def winsorised(scores: np.ndarray) -> np.ndarray:
    """Scores `float64[N]` with outliers at the bottom, however many, raised to just below the rest.

    Without outliers they come back as they are, and so does whatever is better than an outlier.
    """
    order = np.sort(scores)[::-1]
    # Half of each, so that no difference is infinite: what counts are ratios.
    below = order[0] / 2 - order / 2
    below[below <= _EQUAL * np.abs(order[0])] = 0.0
    end = _without_worst(below, _CHANCE)
    if end < len(order):
        while (count := _without_worst(below[:end], _CHANCE_OF_MORE)) < end:
            end = count
    if end == len(order):
        return scores
    return np.maximum(scores, order[0] - (1 + _BELOW) * (order[0] - order[end - 1]))


def _without_worst(below: np.ndarray, chance: float) -> int:
    """How many scores are left without the worst group of outliers.

    Args:
      below: `float64[N]`, how far each is below the best, ascending.
      chance: the chance that there are none, at most.
    """
    gaps = np.diff(below)
    better = below[:-1]  # how far the scores above each gap range
    different = np.cumsum(gaps > 0) - (gaps > 0) + 1
    # Of k evenly spread scores the next one is so far off with a probability of (1 + ratio)^(1-k).
    rare = chance ** (-1 / np.maximum(different - 1, 1)) - 1
    worse = np.arange(len(gaps), 0, -1)  # scores below each gap
    # Where there is no gap, or no range above it, nothing is so far off.
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        width = (below[-1] - below[1:]) / gaps + 1 / worse
        needed = np.maximum(np.minimum(_GAP + _WIDER * width, _ENOUGH), rare)
        found = np.flatnonzero((better > 0) & (gaps / better >= needed))
    return int(found[-1]) + 1 if len(found) else len(below)


def standardised(scores: np.ndarray) -> tuple[np.ndarray, np.float64, np.float64]:
    """Scores `float[N]` as `float32[N]` of mean 0 and deviation 1; their mean and deviation.

    On the host, in 64 bits: scores may be as small as 1e-8, or differ little beside their size.
    Outliers at the bottom count as just below the rest.
    """
    scores = winsorised(np.asarray(scores, np.float64))
    largest = np.abs(scores).max()
    unit = largest if largest > _LARGEST else np.float64(1.0)
    scores = scores / unit
    mean, std = scores.mean(), scores.std()
    if not std > _ROUNDING * np.abs(scores).max():
        return np.zeros(len(scores), np.float32), mean * unit, np.float64(1.0)
    return ((scores - mean) / std).astype(np.float32), mean * unit, std * unit


def _forward(z: jax.Array, exponent: jax.Array) -> jax.Array:
    up, down = jnp.log1p(jnp.maximum(z, 0.0)), jnp.log1p(jnp.maximum(-z, 0.0))
    return jnp.where(z >= 0, _power(up, exponent), -_power(down, 2 - exponent))


def _backward(y: jax.Array, exponent: jax.Array) -> jax.Array:
    up, down = jnp.maximum(y, 0.0), jnp.maximum(-y, 0.0)
    return jnp.where(y >= 0, _root(up, exponent), -_root(down, 2 - exponent))


def _power(log: jax.Array, exponent: jax.Array) -> jax.Array:
    """((1 + z)^e - 1) / e, given log(1 + z); its limit at e = 0."""
    safe = jnp.where(jnp.abs(exponent) < 1e-4, 1.0, exponent)
    return jnp.where(jnp.abs(exponent) < 1e-4, log, jnp.expm1(safe * log) / safe)


def _root(y: jax.Array, exponent: jax.Array) -> jax.Array:
    """The inverse of `_power`, finite: a negative exponent bounds `_power`."""
    safe = jnp.where(jnp.abs(exponent) < 1e-4, 1.0, exponent)
    log = jnp.log1p(jnp.maximum(safe * y, 1e-6 - 1)) / safe
    return jnp.expm1(jnp.where(jnp.abs(exponent) < 1e-4, y, log))


def _moments(values: jax.Array, real: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation where `real`; a deviation of 0 becomes 1."""
    count = jnp.maximum(real.sum(), 1)
    mean = jnp.where(real, values, 0.0).sum() / count
    variance = jnp.where(real, jnp.square(values - mean), 0.0).sum() / count
    std = jnp.sqrt(variance)
    return mean, jnp.where(std > 1e-6, std, 1.0)
