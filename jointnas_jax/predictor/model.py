"""The predictor network (paper section 3.2; widths are unpublished)."""

import jax
import jax.numpy as jnp
from flax import linen as nn


class PredictorNet(nn.Module):
    """An encoder of the architecture and two heads.

    Shapes: N candidates, A architecture features, R recipe features.
    """

    proxies: int  # P, costs that the proxy head predicts
    width: int = 128  # width of hidden layers
    embedding: int = 64  # E, width of the encoder's output

    def setup(self) -> None:
        self.encoder = nn.Sequential(
            [nn.Dense(self.width), nn.relu, nn.Dense(self.embedding), nn.relu]
        )
        self.proxy_head = nn.Dense(self.proxies)
        self.accuracy_head = nn.Sequential([nn.Dense(self.width), nn.relu, nn.Dense(1)])

    def __call__(self, arch: jax.Array, recipe: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Both heads, for initialisation."""
        return self.predict_proxies(arch), self.predict_accuracy(arch, recipe)

    def predict_proxies(self, arch: jax.Array) -> jax.Array:
        """`float32[N, A]` -> standardised log costs `float32[N, P]`."""
        return self.proxy_head(self.encoder(arch))

    def embed(self, arch: jax.Array) -> jax.Array:
        """`float32[N, A]` -> embeddings `float32[N, E]`."""
        return self.encoder(arch)

    def accuracy_of(self, embedding: jax.Array, recipe: jax.Array) -> jax.Array:
        """`float32[N, E]`, `float32[N, R]` -> standardised accuracy `float32[N]`."""
        return self.accuracy_head(jnp.concatenate([embedding, recipe], axis=-1))[..., 0]

    def predict_accuracy(self, arch: jax.Array, recipe: jax.Array) -> jax.Array:
        """`float32[N, A]`, `float32[N, R]` -> standardised accuracy `float32[N]`."""
        return self.accuracy_of(self.encoder(arch), recipe)
