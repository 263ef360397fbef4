"""`jn.Predictor`: scores of candidates learnt from a few dozen trials, on its own."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from jointnas_jax.config import PredictorConfig
from jointnas_jax.errors import InputError, shown
from jointnas_jax.library.costs import CostFn, Costs
from jointnas_jax.library.space import AnySpace, Decoded, check_space, encode_all
from jointnas_jax.predictor.predictor import Fitted
from jointnas_jax.predictor.predictor import Predictor as Machine
from jointnas_jax.space.features import FeatureTable

_PRETRAIN, _FIT = range(2)


@dataclasses.dataclass(frozen=True, eq=False)
class Predictor:
    """Predicts scores of candidates, and says how sure it is.

    An ensemble of small networks, pretrained on costs, and a Gaussian process on knobs and costs.
    Made by `Predictor.fit`, or by a search (`Result.predictor`).

    Attributes:
      space: of the candidates.
    """

    space: AnySpace
    _machine: Machine = dataclasses.field(repr=False)
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
          costs: what candidates cost, see `search`.
          settings: sizes and schedules.
          seed: of everything random.

        Raises:
          InputError: a candidate is not in the space, there is not a score for each, or no trial is
            left.
        """
        space, settings = check_space(space), settings or PredictorConfig()
        vectors, marks = encode_all(space, candidates), np.asarray(scores, np.float64)
        if marks.shape != (len(vectors),) or not np.isfinite(marks).any():
            raise InputError(
                f"`scores` must be a number for each of {len(vectors)} candidates, at least one of "
                f"them finite, got {shown(marks.tolist())}"
            )
        vectors, marks = vectors[np.isfinite(marks)], marks[np.isfinite(marks)]
        known = Costs.read(space, costs, None)
        limits = known.limits(space)
        features = known.features or (limits.features() if known.of else None)
        table = FeatureTable.of(space)
        machine = Machine(table, settings, capacity=len(marks), costs=features)
        sample = space.sample(np.random.default_rng(seed), settings.pretrain_samples)
        root = jax.random.key(seed)
        key = jax.random.fold_in(root, _PRETRAIN)
        pretrained = machine.pretrain(sample, limits.costs(sample), key)
        fitted = machine.fit(pretrained, vectors, marks, key=jax.random.fold_in(root, _FIT))
        return cls(space, machine, fitted)

    def predict(self, candidates: Sequence[Decoded]) -> tuple[np.ndarray, np.ndarray]:
        """Scores of candidates that need not have been evaluated.

        Args:
          candidates: N of the space.

        Returns:
          Expected score and its standard deviation, `float64[N]` each, both without the noise of a
          measurement.
        """
        return self._machine.predict(self._fitted, encode_all(self.space, candidates))

    def score_fn(self, vectors: jax.Array) -> jax.Array:
        """The expected score of index vectors, `int32[N, K] -> float32[N]`, for use under `jit`."""
        return self._machine.mean_and_spread(self._fitted, vectors)[0]
