"""`jn.Predictor`: scores of candidates, learnt from a few dozen trials."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from jointnas_jax.config import PredictorConfig
from jointnas_jax.errors import InputError, shown
from jointnas_jax.library.costs import CostFn, Costs
from jointnas_jax.library.space import AnySpace, Decoded, check_space, encode_all
from jointnas_jax.predictor.predictor import Fitted
from jointnas_jax.predictor.predictor import Predictor as VectorPredictor
from jointnas_jax.space.features import FeatureTable

_PRETRAIN, _FIT = range(2)


@dataclasses.dataclass(frozen=True, eq=False)
class Predictor:
    """Predicts scores of candidates, and says how sure it is.

    An ensemble of small networks, pretrained on costs, and a Gaussian process on knobs and costs.
    Made by `Predictor.fit`, or by a search (`Result.predictor`).

    Attributes:
      space: the search space.
    """

    space: AnySpace
    _vectors: VectorPredictor = dataclasses.field(repr=False)
    _fitted: Fitted = dataclasses.field(repr=False)

    @classmethod
    def fit(
        cls,
        space: AnySpace,
        candidates: Sequence[Decoded],
        scores: Sequence[float],
        *,
        costs: CostFn | None = None,
        settings: PredictorConfig | None = None,
        seed: int = 0,
    ) -> "Predictor":
        """Fits a predictor to trials.

        Args:
          space: a `Space` or a `JointSpace`.
          candidates: N that were evaluated.
          scores: N, higher is better; trials whose score is not finite failed, and are left out.
          costs: costs of candidates, see `search`.
          settings: sizes and schedules.
          seed: seed of everything random.

        Raises:
          InputError: a candidate is not in the space, there is not a score for each, or no score is
            finite.
        """
        space, settings = check_space(space), settings or PredictorConfig()
        vectors, marks = encode_all(space, candidates), np.asarray(scores, np.float64)
        if marks.shape != (len(vectors),) or not np.isfinite(marks).any():
            raise InputError(
                f"`scores` must be a number for each of {len(vectors)} candidates, at least one of "
                f"them finite, got {shown(marks.tolist())}"
            )
        vectors, marks = vectors[np.isfinite(marks)], marks[np.isfinite(marks)]
        priced = Costs.read(space, costs, None)
        constraints = priced.constraints(space)
        features = priced.features or (constraints.features() if priced.of else None)
        table = FeatureTable.of(space)
        predictor = VectorPredictor(table, settings, capacity=len(marks), costs=features)
        sample = space.sample(np.random.default_rng(seed), settings.pretrain_samples)
        root = jax.random.key(seed)
        key = jax.random.fold_in(root, _PRETRAIN)
        pretrained = predictor.pretrain(sample, constraints.costs(sample), key)
        fitted = predictor.fit(pretrained, vectors, marks, key=jax.random.fold_in(root, _FIT))
        return cls(space, predictor, fitted)

    def predict(self, candidates: Sequence[Decoded]) -> tuple[np.ndarray, np.ndarray]:
        """Scores of candidates that need not have been evaluated.

        Args:
          candidates: N of the space.

        Returns:
          Expected score and its standard deviation, `float64[N]` each, both without the noise of a
          measurement.
        """
        return self._vectors.predict(self._fitted, encode_all(self.space, candidates))

    def score_fn(self, vectors: jax.Array) -> jax.Array:
        """The expected score of index vectors, `int32[N, K] -> float32[N]`, for use under `jit`."""
        return self._vectors.mean_and_spread(self._fitted, vectors)[0]
