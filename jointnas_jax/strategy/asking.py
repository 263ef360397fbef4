"""The coarse stage without rounds: the search hears of each result, and is asked for the next.

The paper waits for all candidates of a round (section 3.3), which leaves most of a large fleet idle
while the last one trains (`scripts/simulate.py`). What is still training is believed to score as
predicted, as those already chosen for a round are.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from jointnas_jax.strategy.coarse import first_new


class Asking:
    """Candidates, one after the other.

    What is proposed depends on the results that are known and on the candidates that are not, not
    on the order in which the results came.
    """

    def __init__(
        self,
        vectors: np.ndarray,
        scores: np.ndarray,
        fit: Callable[[np.ndarray, np.ndarray], Any],
        predict: Callable[[np.ndarray], np.ndarray],
        propose: Callable[[np.ndarray], np.ndarray],
    ):
        """Begins with what rounds have evaluated.

        Args:
          vectors: `int32[T, K]`.
          scores: `float[T]`, nan where a trial failed; one at least did not.
          fit, predict, propose: see `coarse_stage`; those chosen already are those that train.
        """
        self._fit, self._predict, self._propose = fit, predict, propose
        self._vectors, self._scores = vectors, np.asarray(scores, np.float64)
        self._known = np.ones(len(vectors), bool)
        self._seen = {v.astype(np.int32).tobytes() for v in vectors}
        self._first, self._stale, self._fitted = len(vectors), True, None

    def tell(self, number: int, score: float) -> None:
        """The result of the candidate that was asked for as number 0, 1 and so on; nan: failed."""
        self._scores[self._first + number] = score
        self._known[self._first + number] = True
        self._stale = True

    def ask(self) -> tuple[np.ndarray, float] | None:
        """The next candidate, `int32[K]`, and its predicted score; None where there is no more."""
        self.refit()
        order = self._propose(self._vectors[~self._known])
        new = first_new(order, self._seen)
        if not len(new):
            return None
        self._vectors = np.concatenate([self._vectors, new])
        self._scores, self._known = np.append(self._scores, np.nan), np.append(self._known, False)
        return new[0], float(self._predict(new)[0])

    def refit(self) -> Any:
        """Fits to all results that are known, in the order of asking; what `fit` returned."""
        if self._stale:
            self._fitted = self._fit(self._vectors[self._known], self._scores[self._known])
            self._stale = False
        return self._fitted
