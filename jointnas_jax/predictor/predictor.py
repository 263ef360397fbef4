"""The predictor of one space: index vectors in, scores out.

An ensemble of pretrained networks (`predictor/fit.py`) and a Gaussian process on features and costs
(`predictor/gaussian_process.py`); the paper has a single network (`predictor.process=False`,
`predictor.members=1`, `predictor.targets="raw"`).
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import flax.serialization
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jointnas_jax.config import PredictorConfig
from jointnas_jax.errors import InputError
from jointnas_jax.predictor import gaussian_process
from jointnas_jax.predictor.fit import PredictorState, fit, pretrain, score
from jointnas_jax.predictor.front import USUAL, Front
from jointnas_jax.predictor.gaussian_process import Hyper, Process
from jointnas_jax.predictor.targets import Transform, standardised
from jointnas_jax.predictor.trend import Trend
from jointnas_jax.runtime.arrays_on_disk import load_arrays, save_arrays
from jointnas_jax.runtime.compiler import compiler_options
from jointnas_jax.space.features import FeatureTable

# Weight of the networks beside the process, chosen on NAS-Bench-Macro.
_SHARE = 0.2
# Where studies of earlier versions expected numbers to be best.
_EARLIER_CENTRE = 0.5

# Index vectors `int32[N, K]` -> standardised logarithms of costs `float32[N, P]`, under `jit` too.
CostFeatures = Callable[[Any], Any]
# Index vectors `int32[N, K]` -> what is expected of them, `float32[N]`, under `jit` too.
Expectation = Callable[[Any], Any]


class Fitted(flax.struct.PyTreeNode):
    """A predictor fitted to trials, by networks or a process or both."""

    networks: PredictorState | None
    process: Process | None
    transform: Transform  # from scores to targets


class Predictor:
    """Binds the fitting functions to a space's features and a fixed number of trials.

    State goes in and comes out; the object holds static sizes only.
    """

    def __init__(
        self,
        features: FeatureTable,
        config: PredictorConfig,
        *,
        capacity: int,
        costs: CostFeatures | None = None,
        expectations: Sequence[Expectation] = (),
    ):
        """Prepares for up to `capacity` trials; any number up to it uses the same programs.

        Args:
          features: of the space.
          config: settings.
          capacity: most trials.
          costs: standardised logarithms of costs; None: there are none.
          expectations: what is expected of candidates before any trial, each of mean 0 and
            deviation up to 1 over the space. The process sees them as features with which scores
            rise, until trials say that they do not.
        """
        self._features = features
        self._config = config
        self._capacity = capacity
        self._costs = costs or (lambda vectors: jnp.zeros((len(vectors), 0)))
        knobs = features.groups.max() + 1
        # One feature describes a choice of two values: a second length scale would be redundant.
        hot = features.values >= 0
        pair = hot & (np.bincount(features.groups, hot)[features.groups] == 2)
        self._columns = np.flatnonzero(~(pair & (features.values == 1)))
        scales = np.where(pair, 1.0, features.scales)
        self._scales = scales[self._columns].astype(np.float32)
        self._expectations = tuple(expectations)
        cost_count = self._costs(np.zeros((1, knobs), np.int32)).shape[1]
        self._knobs = int(knobs + cost_count) + len(self._expectations)
        self._trend = None
        if config.trend or self._expectations:
            usual = Trend.none(len(self._columns) + cost_count)
            if config.trend:
                usual = Trend.usual(features, self._columns, self._scales, cost_count)
            self._trend = usual.expecting(len(self._expectations))
        options = compiler_options("light")
        static = ("recipe_width", "config")
        self._pretrain = jax.jit(pretrain, static_argnames=static, compiler_options=options)
        self._predict = jax.jit(self._standardised, compiler_options=options)
        self._fit = jax.jit(self._fit_all, static_argnames="networks", compiler_options=options)

    def pretrain(self, vectors: np.ndarray, costs: np.ndarray, key: jax.Array) -> PredictorState:
        """Trains the encoders on costs `int64[N, P]` of vectors `int32[N, K]`; consumes the key."""
        arch, recipe = self._features(vectors)
        return self._pretrain(
            arch, costs.astype(np.float32), key, recipe_width=recipe.shape[1], config=self._config
        )

    def fit(
        self,
        pretrained: PredictorState | None,
        vectors: np.ndarray,
        scores: np.ndarray,
        *,
        key: jax.Array,
        networks: bool = True,
        variances: np.ndarray | None = None,
    ) -> Fitted:
        """Fits to measured scores.

        Args:
          pretrained: the result of `pretrain`; None without networks.
          vectors: `int32[N, K]`.
          scores: `float[N]`, finite.
          key: key of the networks, consumed.
          networks: whether to fit the networks, too; without them the process, if there is one,
            predicts alone, in less time.
          variances: `float[N]`, of the scores beside the noise of all, where some are surer than
            others, in their units squared; the process knows them, the networks do not. None: 0.

        Raises:
          InputError: there are more trials than the capacity, or a number is not finite.
        """
        count, networks = len(scores), networks or not self._config.process
        if not 1 <= count <= self._capacity:
            raise InputError(
                f"a predictor for up to {self._capacity} trials needs 1 to {self._capacity} of "
                f"them, got {count}; make it with a larger `capacity`"
            )
        if not np.isfinite(scores).all():
            raise InputError(
                f"scores of a predictor's trials must be finite, got {scores}; leave failed trials "
                "out"
            )
        z, mean, std = standardised(scores)
        vectors = np.pad(vectors, ((0, self._capacity - count), (0, 0)))
        z = np.pad(z, (0, self._capacity - count))
        extra = np.zeros(self._capacity, np.float32)
        if variances is not None:
            extra[:count] = np.asarray(variances) / std**2
        state = self._fit(
            pretrained, vectors, z, extra, count=np.int32(count), key=key, networks=networks
        )
        if state.process is not None and not np.isfinite(state.process.weights).all():
            raise InputError(
                "the Gaussian process could not be fitted: features of the costs must be finite; "
                "the logarithm of a cost of 0 is not"
            )
        return state.replace(transform=state.transform.replace(mean=mean, std=std))

    def predict(self, state: Fitted, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Score and spread, `float64[N]` each, of candidates `int32[N, K]`.

        The spread is a standard deviation in units of the scores, without the noise of a
        measurement.
        """
        count = len(vectors)
        # Few sizes, few programs: the next power of two.
        padded = np.pad(vectors, ((0, max(64, 1 << (count - 1).bit_length()) - count), (0, 0)))
        mean, spread = (np.asarray(v)[:count] for v in self._predict(state, padded))
        return self.in_scores(state, mean), spread * state.transform.std

    def noise(self, state: Fitted) -> float:
        """Estimated standard deviation of an average score measured again, in units of the scores.

        nan without the Gaussian process.
        """
        if state.process is None:
            return math.nan
        return float(_noise(state.process, state.transform) * state.transform.std)

    def weights_of_expectations(self, state: Fitted) -> list[float]:
        """Deviations by which scores rise with one of each expectation, as far as is learnt.

        nan without the Gaussian process.
        """
        count = len(self._expectations)
        if state.process is None:
            return [math.nan] * count
        slopes = np.asarray(gaussian_process.slopes(state.process))
        return slopes[len(slopes) - count :].tolist()

    def in_scores(self, state: Fitted, z: Any) -> np.ndarray:
        """Standardised scores in units of the scores, `float64[N]`."""
        return np.asarray(z, np.float64) * state.transform.std + state.transform.mean

    def score_fn(self, state: Fitted) -> Callable[[jax.Array], jax.Array]:
        """The standardised score as a function of vectors, for use under `jit`."""
        return lambda vectors: self._standardised(state, vectors)[0]

    def improvement_fn(self, state: Fitted) -> Callable[[jax.Array], jax.Array]:
        """The logarithm of the expected improvement on the best trial, for use under `jit`.

        By the Gaussian process, which must be there: the networks' spread is too small.
        """
        process = state.process
        assert process is not None
        best, _ = gaussian_process.best_and_worst(process)

        def improvement(vectors: jax.Array) -> jax.Array:
            mean, spread = gaussian_process.predict(process, self._inputs(vectors))
            return gaussian_process.log_improvement(mean, spread, best)

        return improvement

    def front_improvement_fn(
        self, state: Fitted, column: int, reference: jax.Array, *, quantile: float = USUAL
    ) -> Callable[[jax.Array], jax.Array]:
        """The logarithm of what a candidate is expected to add to the front, for use under `jit`.

        By the Gaussian process, which must be there. The front is that of the scores that it
        expects of the trials, so that no lucky trial is on it.

        Args:
          state: see `predict`.
          column: the cost of the front, among the cost features.
          reference: `float32[]`, see `predictor/front.py`, in units of the feature.
          quantile: of the trials' expected scores, from which the front counts.
        """
        process = state.process
        assert process is not None
        expected, _ = gaussian_process.predict(process, process.inputs)
        column += len(self._columns)
        front = Front.of_trials(
            process.inputs[:, column],
            expected,
            process.real,
            cost_reference=reference,
            quantile=quantile,
        )

        def improvement(vectors: jax.Array) -> jax.Array:
            inputs = self._inputs(vectors)
            mean, spread = gaussian_process.predict(process, inputs)
            return front.log_improvement(inputs[:, column], mean, spread)

        return improvement

    def believe(self, state: Fitted, vector: jax.Array, failed: bool = False) -> Fitted:
        """Adds a candidate `int32[K]` to the trials of the process; for use under `jit`.

        Its fantasised score is the expected one, or the worst trial's where it `failed`.
        """
        process = state.process
        if process is None:
            return state
        inputs = self._inputs(vector[None])[0]
        target = gaussian_process.best_and_worst(process)[1] if failed else None
        process = gaussian_process.believe(process, inputs, target)
        return state.replace(process=process)

    def save(self, path: Path, state: Fitted) -> None:
        """Writes a fitted predictor as an Orbax checkpoint."""
        tree = flax.serialization.to_state_dict(jax.device_get(state))
        save_arrays(path, tree)

    def load(self, path: Path) -> Fitted:
        """Reads what `save` wrote."""
        tree = load_arrays(path)
        process = tree["process"]
        if process is not None:
            trend = process.get("trend")  # studies of earlier versions have none
            flat = Trend.none(process["inputs"].shape[1])
            if trend and "centres" not in trend:  # nor these
                trend["centres"] = np.full_like(trend["peaks"], _EARLIER_CENTRE)
            parts = {"hyper": Hyper(**process["hyper"]), "trend": Trend(**trend) if trend else flat}
            process = Process(**process | parts)
        return Fitted(PredictorState(**tree["networks"]), process, Transform(**tree["transform"]))

    def _inputs(self, vectors: jax.Array) -> jax.Array:
        """Inputs of the process: two values of a choice are at distance 1."""
        features = jnp.concatenate(self._features(vectors), -1)[..., self._columns] * self._scales
        expected = [expectation(vectors)[..., None] for expectation in self._expectations]
        return jnp.concatenate([features, self._costs(vectors), *expected], -1)

    def _fit_all(
        self,
        pretrained: PredictorState | None,
        vectors: jax.Array,
        z: jax.Array,
        extra_noise: jax.Array,
        *,
        count: jax.Array,
        key: jax.Array,
        networks: bool,
    ) -> Fitted:
        real = jnp.arange(len(z)) < count
        transform = Transform.fit(z, real, self._config.targets == "straightened")
        targets = transform.forward(z)
        vectors = jnp.asarray(vectors)
        ensemble = process = None
        if networks:
            assert pretrained is not None
            features = self._features(vectors)
            ensemble = fit(pretrained, features, targets, count=count, key=key, config=self._config)
        if self._config.process:
            inputs = self._inputs(vectors)
            trend = self._trend
            if trend is not None:  # which is in deviations of the scores: equal ones have none
                trend = jax.tree.map(lambda array: array * jnp.any(z != 0), trend)
            process = gaussian_process.fit_process(
                inputs,
                targets,
                real,
                knobs=self._knobs,
                trend=trend,
                extra_noise=extra_noise,
            )
        return Fitted(ensemble, process, transform)

    def mean_and_spread(self, state: Fitted, vectors: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The same as `predict` in `float32`, for use under `jit`."""
        mean, spread = self._standardised(state, vectors)
        return mean * state.transform.std + state.transform.mean, spread * state.transform.std

    def _standardised(self, state: Fitted, vectors: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean and spread in standard deviations of the scores."""
        back = state.transform.backward
        parts = []
        if state.networks is not None:
            parts.append(score(state.networks, self._features(vectors), self._config))
        if state.process is not None:
            parts.append(gaussian_process.predict(state.process, self._inputs(vectors)))
        mean, spread = parts[0]
        if len(parts) == 2:
            expected, deviation = parts[1]
            # Variance of a mixture: within and between.
            within = _SHARE * jnp.square(spread) + (1 - _SHARE) * jnp.square(deviation)
            spread = jnp.sqrt(within + _SHARE * (1 - _SHARE) * jnp.square(mean - expected))
            mean = _SHARE * mean + (1 - _SHARE) * expected
        return back(mean), (back(mean + spread) - back(mean - spread)) / 2


@jax.jit
def _noise(process: Process, transform: Transform) -> jax.Array:
    deviation = jnp.exp(process.hyper.noise / 2)
    return (transform.backward(deviation) - transform.backward(-deviation)) / 2
