"""Scores as regression targets: close to a normal distribution, and back.

Accuracies have a long tail of bad candidates, which would take most of a squared loss, and the
differences between good ones little. The Yeo-Johnson transform (Biometrika 87, 2000) of the
standardised scores shortens it. It is monotonic: ranks stay.
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


def standardised(scores: np.ndarray) -> tuple[np.ndarray, np.float64, np.float64]:
    """Scores `float[N]` as `float32[N]` of mean 0 and deviation 1; their mean and deviation.

    On the host, in 64 bits: scores may be as small as 1e-8, or differ little beside their size.
    """
    scores = np.asarray(scores, np.float64)
    mean, std = scores.mean(), scores.std()
    if not std > _ROUNDING * np.abs(scores).max():
        return np.zeros(len(scores), np.float32), mean, np.float64(1.0)
    return ((scores - mean) / std).astype(np.float32), mean, std


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
