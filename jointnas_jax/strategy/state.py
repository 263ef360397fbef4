"""The state of a search between two calls of the searcher.

Shapes: T candidates asked for, K knobs, P candidates of the pool, R rungs.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Self

import flax.struct
import jax
import numpy as np

from jointnas_jax.predictor.fit import PredictorState
from jointnas_jax.predictor.predictor import Fitted
from jointnas_jax.strategy.history import History
from jointnas_jax.strategy.rungs import at_the_end


@flax.struct.dataclass
class State(History):
    """A search, between two calls.

    Attributes:
      pool: `int32[P, K]`, candidates that are asked for in order while nothing has a score.
      pretrained: networks that the predictor is fitted from.
      key: key of everything random.
      fitted: the predictor; None while nothing has a score.
      believed: the predictor with beliefs in the failed candidates and in `beliefs` of the pending
        ones; None before it is needed.
      beliefs: number of pending candidates, the first ones, that `believed` knows.
      stale: whether results have come since the predictor was fitted.
      networks: whether the networks are fitted, see `Predictor.fit`.
      reference: cost above which a candidate adds nothing to a front, as a feature.
      at_rungs: `float64[T, R]`, scores at the rungs, nan where a candidate was not measured; None
        where there is one rung, the end. Then `scores` are those that are expected at the end.
      variances: `float64[T]`, of the scores around the measured ones at the end; None likewise.
    """

    pool: np.ndarray
    pretrained: PredictorState
    key: jax.Array
    fitted: Fitted | None = None
    believed: Fitted | None = None
    beliefs: int = flax.struct.field(pytree_node=False, default=0)
    stale: bool = flax.struct.field(pytree_node=False, default=False)
    networks: bool = flax.struct.field(pytree_node=False, default=True)
    reference: float = flax.struct.field(pytree_node=False, default=0.0)
    at_rungs: np.ndarray | None = None
    variances: np.ndarray | None = None

    @property
    def rungs(self) -> np.ndarray:
        """How many rungs each candidate was measured at, `int[T]`; 0 for a failure."""
        if self.at_rungs is None:
            return np.isfinite(self.scores).astype(int)
        return np.isfinite(self.at_rungs).sum(1)

    @property
    def paused(self) -> np.ndarray:
        """Positions of candidates that stopped at a rung and could go on, `int[S]`."""
        count = 1 if self.at_rungs is None else self.at_rungs.shape[1]
        begun = np.isfinite(self.scores) & self.finished
        return np.flatnonzero(begun & (self.rungs < count))

    def asked(self, vectors: np.ndarray) -> Self:
        """See `History`."""
        state = super().asked(vectors)
        if self.at_rungs is None or self.variances is None:
            return state
        nothing = np.full((len(vectors), self.at_rungs.shape[1]), np.nan)
        return dataclasses.replace(
            state,
            at_rungs=np.concatenate([self.at_rungs, nothing]),
            variances=np.append(self.variances, np.zeros(len(vectors))),
        )

    def asked_to_go_on(self, number: int) -> Self:
        """Has a paused candidate go on to its next rung."""
        finished = self.finished.copy()
        finished[number] = False
        return dataclasses.replace(self, finished=finished)

    def answered(self, numbers: Sequence[int], scores: Any) -> Self:
        """See `History`; the scores are those at the next rung of each candidate."""
        state = super().answered(numbers, scores)
        if self.at_rungs is None:
            return state
        measured, rungs = self.at_rungs.copy(), self.rungs
        for number, score in zip(numbers, scores, strict=True):
            if np.isfinite(score):
                measured[number, rungs[number]] = score
            else:
                measured[number] = np.nan
        expected, variances = at_the_end(measured)
        expected = expected.astype(state.scores.dtype)
        return dataclasses.replace(state, at_rungs=measured, scores=expected, variances=variances)
