"""Scores as regression targets: close to a normal distribution, and back.

Accuracies have a long tail of bad candidates; left alone it takes most of a squared loss, where the
good ones are to be told apart. The Yeo-Johnson transform (Biometrika 87, 2000) of the standardised
scores straightens it. It is monotonic: ranks stay.
"""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

# Exponents tried; 1 changes nothing.
_EXPONENTS = np.linspace(-3.0, 5.0, 81).astype(np.float32)


@flax.struct.dataclass
class Transform:
    """How scores become targets, all `float32[]`.

    Attributes:
      mean: of the scores.
      std: of the scores.
      exponent: of Yeo-Johnson; 1 is the identity.
      offset: mean after it.
      scale: standard deviation after it.
    """

    mean: jax.Array
    std: jax.Array
    exponent: jax.Array
    offset: jax.Array
    scale: jax.Array

    @classmethod
    def fit(cls, scores: jax.Array, real: jax.Array, straighten: bool) -> "Transform":
        """Fits it to scores `float32[N]` where `real: bool[N]`; for use under `jit`.

        With `straighten` the exponent is the most likely one under a normal distribution, else 1.
        """
        mean, std = _moments(scores, real)
        z = jnp.where(real, (scores - mean) / std, 0.0)

        def likelihood(exponent: jax.Array) -> jax.Array:
            _, spread = _moments(_forward(z, exponent), real)
            stretch = jnp.where(real, jnp.sign(z) * jnp.log1p(jnp.abs(z)), 0.0).sum()
            return (exponent - 1) * stretch - real.sum() * jnp.log(spread)

        candidates = jnp.asarray(_EXPONENTS)
        best = candidates[jnp.argmax(jax.vmap(likelihood)(candidates))]
        exponent = best if straighten else jnp.ones(())
        return cls(mean, std, exponent, *_moments(_forward(z, exponent), real))

    def forward(self, scores: jax.Array) -> jax.Array:
        """Scores -> targets of mean 0 and standard deviation 1."""
        z = (scores - self.mean) / self.std
        return (_forward(z, self.exponent) - self.offset) / self.scale

    def backward(self, targets: jax.Array) -> jax.Array:
        """Targets -> scores."""
        straight = targets * self.scale + self.offset
        return _backward(straight, self.exponent) * self.std + self.mean


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
    """The inverse of `_power`; where a negative exponent bounds it, the largest finite value."""
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
