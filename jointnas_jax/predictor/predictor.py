"""The predictor of one space: index vectors in, scores out.

An ensemble of pretrained networks (`predictor/fit.py`) and a Gaussian process on features and costs
(`predictor/gaussian_process.py`); the paper has one network alone (`predictor.process=False`,
`predictor.members=1`, `predictor.targets="raw"`).
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.serialization
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from jointnas_jax.config import PredictorConfig
from jointnas_jax.predictor import gaussian_process
from jointnas_jax.predictor.fit import PredictorState, fit, pretrain, score
from jointnas_jax.predictor.gaussian_process import Hyper, Process
from jointnas_jax.predictor.targets import Transform
from jointnas_jax.space.features import FeatureTable

# Index vectors `int32[N, K]` -> standardised logarithms of costs `float32[N, P]`, under `jit` too.
CostFeatures = Callable[[Any], Any]


@flax.struct.dataclass
class Fitted:
    """A predictor that has seen trials.

    Attributes:
      networks: the ensemble, in units of the targets.
      process: the Gaussian process; None without it.
      transform: scores to targets.
    """

    networks: PredictorState
    process: Process | None
    transform: Transform


class Predictor:
    """Binds the fitting functions to a space's features and a fixed number of trials.

    State goes in and comes out; the object holds static sizes only.
    """

    def __init__(
        self,
        features: FeatureTable,
        config: PredictorConfig,
        capacity: int,
        costs: CostFeatures | None = None,
    ):
        """Prepares for up to `capacity` trials; any number up to it uses the same programs."""
        self._features, self._config, self._capacity = features, config, capacity
        self._costs = costs or (lambda vectors: jnp.zeros((len(vectors), 0)))
        groups = features.groups
        width = self._costs(np.zeros((1, groups.max() + 1), np.int32)).shape[1]
        self._groups = np.concatenate([groups, groups.max() + 1 + np.arange(width)]).astype(int)
        self._predict = jax.jit(self.mean_and_spread)
        self._fit = jax.jit(self._fit_all)

    def pretrain(self, vectors: np.ndarray, costs: np.ndarray, key: jax.Array) -> PredictorState:
        """Trains the encoders on costs `int64[N, P]` of vectors `int32[N, K]`; consumes the key."""
        arch, recipe = self._features(vectors)
        return pretrain(arch, costs.astype(np.float32), recipe.shape[1], key, self._config)

    def fit(
        self, pretrained: PredictorState, vectors: np.ndarray, scores: np.ndarray, key: jax.Array
    ) -> Fitted:
        """Fits to measured scores `float[N]` of candidates `int32[N, K]`; consumes the key."""
        count = len(scores)
        vectors = np.pad(vectors, ((0, self._capacity - count), (0, 0)))
        scores = np.pad(np.asarray(scores, np.float32), (0, self._capacity - count))
        return self._fit(pretrained, vectors, scores, np.int32(count), key)

    def predict(self, state: Fitted, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Score and spread, `float32[N]` each, of candidates `int32[N, K]`.

        The spread is one standard deviation of what the predictor does not know, in units of the
        scores; the noise of a measurement comes on top.
        """
        mean, spread = self._predict(state, jnp.asarray(vectors))
        return np.asarray(mean), np.asarray(spread)

    def noise(self, state: Fitted) -> float:
        """Standard deviation of one score measured again, as far as the trials tell it.

        In units of the scores, at an average one; nan without the Gaussian process.
        """
        if state.process is None:
            return math.nan
        return float(_noise(state.process, state.transform))

    def score_fn(self, state: Fitted) -> Callable[[jax.Array], jax.Array]:
        """The score as a function of vectors, for use under `jit`."""
        return lambda vectors: self.mean_and_spread(state, vectors)[0]

    def improvement_fn(self, state: Fitted) -> Callable[[jax.Array], jax.Array]:
        """The logarithm of the expected improvement on the best trial, for use under `jit`.

        That of the Gaussian process alone: the networks do not know how little they know.
        """
        best = gaussian_process.best_trial(state.process, self._groups)

        def improvement(vectors: jax.Array) -> jax.Array:
            own = gaussian_process.predict(state.process, self._inputs(vectors), self._groups)
            return gaussian_process.log_improvement(*own, best)

        return improvement

    def believe(self, state: Fitted, vector: jax.Array) -> Fitted:
        """Adds `int32[K]` to the trials of the process, see there; for use under `jit`."""
        if state.process is None:
            return state
        inputs = self._inputs(vector[None])[0]
        process = gaussian_process.believe(state.process, inputs, self._groups)
        return state.replace(process=process)

    def save(self, path: Path, state: Fitted) -> None:
        """Writes a fitted predictor as an Orbax checkpoint."""
        tree = flax.serialization.to_state_dict(jax.device_get(state))
        ocp.save(Path(path).resolve(), tree, overwrite=True)

    def load(self, path: Path) -> Fitted:
        """Reads what `save` wrote."""
        tree = ocp.load(Path(path).resolve())
        process = tree["process"]
        if process is not None:
            process = Process(**process | {"hyper": Hyper(**process["hyper"])})
        return Fitted(PredictorState(**tree["networks"]), process, Transform(**tree["transform"]))

    def _inputs(self, vectors: jax.Array) -> jax.Array:
        """Inputs of the process: two values of a choice are at distance 1, as one-hot / sqrt(2)."""
        features = jnp.concatenate(self._features(vectors), -1) * self._features.scales
        return jnp.concatenate([features, self._costs(vectors)], -1)

    def _fit_all(
        self,
        pretrained: PredictorState,
        vectors: jax.Array,
        scores: jax.Array,
        count: jax.Array,
        key: jax.Array,
    ) -> Fitted:
        real = jnp.arange(len(scores)) < count
        transform = Transform.fit(scores, real, self._config.targets == "straightened")
        targets = transform.forward(scores)
        vectors = jnp.asarray(vectors)
        networks = fit(pretrained, *self._features(vectors), targets, count, key, self._config)
        process = None
        if self._config.process:
            process = gaussian_process.fit_process(
                self._inputs(vectors), targets, real, self._groups
            )
        return Fitted(networks, process, transform)

    def mean_and_spread(self, state: Fitted, vectors: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The same as `predict`, for use under `jit`."""
        mean, spread = score(state.networks, *self._features(vectors), self._config)
        if state.process is not None:
            own, own_spread = gaussian_process.predict(
                state.process, self._inputs(vectors), self._groups
            )
            # Of a mixture of two: variance within and between.
            within = (jnp.square(spread) + jnp.square(own_spread)) / 2
            spread = jnp.sqrt(within + jnp.square(mean - own) / 4)
            mean = (mean + own) / 2
        back = state.transform.backward
        return back(mean), (back(mean + spread) - back(mean - spread)) / 2


@jax.jit
def _noise(process: Process, transform: Transform) -> jax.Array:
    deviation = jnp.exp(process.hyper.noise / 2)
    return (transform.backward(deviation) - transform.backward(-deviation)) / 2
