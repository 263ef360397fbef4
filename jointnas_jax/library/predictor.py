"""`jn.Predictor`: scores of candidates, learnt from a few dozen trials."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jointnas_jax.arguments import check_seed
from jointnas_jax.config import PredictorConfig, check_settings
from jointnas_jax.errors import InputError, SpaceError, shown
from jointnas_jax.library.costs import CostFn, Costs
from jointnas_jax.library.space import AnySpace, Decoded, check_space, encode_all
from jointnas_jax.predictor.predictor import Fitted
from jointnas_jax.predictor.predictor import Predictor as VectorPredictor
from jointnas_jax.space.features import FeatureTable
from jointnas_jax.space.prior import Prior

_PRETRAIN, _FIT = range(2)


class Parts(NamedTuple):
    """What a predictor of a space is made of.

    Attributes:
      costs: see `search`.
      settings: sizes and schedules.
      capacity: most trials.
      prior: that the search had; None: none.
    """

    costs: CostFn | None
    settings: PredictorConfig
    capacity: int
    prior: Prior | None = None

    def make(self, space: AnySpace) -> tuple[VectorPredictor, Costs]:
        """A predictor that is not fitted, and the costs."""
        priced = Costs.read(space, self.costs, None)
        features = priced.features
        if features is None and priced.of is not None:
            features = priced.constraints(space).features()
        table = FeatureTable.of(space)
        made = VectorPredictor(
            table,
            self.settings,
            capacity=self.capacity,
            costs=features,
            expectations=[self.prior.expectation] if self.prior else (),
        )
        return made, priced


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
    _parts: Parts = dataclasses.field(repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles what it was made of: compiled programs are made again.

        The costs that a user gave must be a function that can be pickled.
        """
        return _again, (self.space, jax.device_get(self._fitted), self._parts)

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
        space, seed = check_space(space), check_seed(seed)
        settings = check_settings("settings", settings, PredictorConfig)
        vectors = encode_all(space, candidates)
        try:
            marks = np.asarray(scores, np.float64)
        except Exception:  # whatever an object of the user's raises
            marks = np.zeros(0)
        if marks.shape != (len(vectors),) or not np.isfinite(marks).any():
            raise InputError(
                f"`scores` must be a number for each of {len(vectors)} candidates, at least one of "
                f"them finite, got {shown(scores)}"
            )
        vectors, marks = vectors[np.isfinite(marks)], marks[np.isfinite(marks)]
        parts = Parts(costs, settings, capacity=len(marks))
        predictor, priced = parts.make(space)
        sample = space.sample(np.random.default_rng(seed), settings.pretrain_samples)
        root = jax.random.key(seed)
        key = jax.random.fold_in(root, _PRETRAIN)
        of = priced.constraints(space).costs
        pretrained = predictor.pretrain(sample, of(sample), key)
        fitted = predictor.fit(pretrained, vectors, marks, key=jax.random.fold_in(root, _FIT))
        return cls(space, predictor, fitted, parts)

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
        """The expected score of index vectors, `int32[N, K] -> float32[N]`, for use under `jit`.

        Raises `SpaceError` for another shape or type.
        """
        if not isinstance(vectors, np.ndarray | jax.Array) or vectors.ndim != 2:
            raise SpaceError(f"`vectors` must be an array int32[N, K], got {shown(vectors)}")
        if not isinstance(vectors, jax.core.Tracer):
            self.space.check(np.asarray(vectors))
        return self._vectors.mean_and_spread(self._fitted, vectors)[0]


def _again(space: AnySpace, fitted: Fitted, parts: Parts) -> Predictor:
    """A predictor out of a pickle."""
    return Predictor(space, parts.make(space)[0], fitted, parts)
