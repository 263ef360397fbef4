"""The predictor of one space: index vectors in, scores out."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jointnas_jax.config import PredictorConfig
from jointnas_jax.predictor.fit import PredictorState, fit, pretrain, score
from jointnas_jax.space.features import FeatureTable


class Predictor:
    """Binds the fitting functions to a space's features and a fixed number of trials.

    State goes in and comes out; the object holds static sizes only.
    """

    def __init__(self, features: FeatureTable, config: PredictorConfig, capacity: int):
        """Prepares for up to `capacity` trials; any number up to it uses the same programs."""
        self._features = features
        self._config = config
        self._capacity = capacity
        self._predict = jax.jit(self._score_all)

    def pretrain(self, vectors: np.ndarray, costs: np.ndarray, key: jax.Array) -> PredictorState:
        """Trains the encoders on costs `int64[N, P]` of vectors `int32[N, K]`; consumes the key."""
        arch, recipe = self._features(vectors)
        return pretrain(arch, costs.astype(np.float32), recipe.shape[1], key, self._config)

    def fit(
        self, pretrained: PredictorState, vectors: np.ndarray, scores: np.ndarray, key: jax.Array
    ) -> PredictorState:
        """Fits to measured scores `float[N]` of candidates `int32[N, K]`; consumes the key."""
        count = len(scores)
        padding = self._capacity - count
        arch, recipe = self._features(np.pad(vectors, ((0, padding), (0, 0))))
        padded = np.pad(np.asarray(scores, np.float32), (0, padding))
        return fit(pretrained, arch, recipe, padded, np.int32(count), key, self._config)

    def predict(self, state: PredictorState, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and spread over members, `float32[N]` each, of candidates `int32[N, K]`."""
        mean, spread = self._predict(state, jnp.asarray(vectors))
        return np.asarray(mean), np.asarray(spread)

    def score_fn(self, state: PredictorState) -> Callable[[jax.Array], jax.Array]:
        """The mean as a function of vectors, for use under `jit`."""
        return lambda vectors: self._score_all(state, vectors)[0]

    def _score_all(self, state: PredictorState, vectors: jax.Array) -> tuple[jax.Array, jax.Array]:
        return score(state, *self._features(vectors), self._config)
