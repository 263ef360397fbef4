"""Candidates that a search has asked for, what came of them, and how it asks for the next one.

Shapes: T candidates asked for, K knobs, N rows of a proposal.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Self, TypeVar

import flax.struct
import numpy as np

from jointnas_jax.errors import InputError


@flax.struct.dataclass
class History:
    """All candidates in the order of asking.

    Attributes:
      vectors: `int32[T, K]`.
      scores: `float[T]`, higher is better; nan where a candidate failed or is pending.
      finished: `bool[T]`, false where a candidate is pending: its result is still to come.
    """

    vectors: np.ndarray
    scores: np.ndarray
    finished: np.ndarray

    @property
    def measured(self) -> tuple[np.ndarray, np.ndarray]:
        """Vectors `int32[n, K]` and scores `float[n]` of the candidates that have a score."""
        scored = np.isfinite(self.scores)
        return self.vectors[scored], self.scores[scored]

    @property
    def best_first(self) -> np.ndarray:
        """The candidates that have a score, `int32[n, K]`."""
        vectors, scores = self.measured
        return vectors[np.argsort(-scores)]

    @property
    def failed(self) -> np.ndarray:
        """Finished candidates without a score, `int32[F, K]`."""
        return self.vectors[self.finished & ~np.isfinite(self.scores)]

    @property
    def pending(self) -> np.ndarray:
        """Candidates of which nothing is known yet, `int32[R, K]`."""
        return self.vectors[~self.finished & ~np.isfinite(self.scores)]

    def asked(self, vectors: np.ndarray) -> Self:
        """Adds pending candidates `int32[m, K]`."""
        count = len(vectors)
        return dataclasses.replace(
            self,
            vectors=np.concatenate([self.vectors, vectors]),
            scores=np.append(self.scores, np.full(count, np.nan, self.scores.dtype)),
            finished=np.append(self.finished, np.zeros(count, bool)),
        )

    def answered(self, numbers: Sequence[int], scores: Any) -> Self:
        """Adds results.

        Args:
          numbers: m positions in the order of asking.
          scores: `float[m]`, nan for a failure; in 64 bits they make all scores 64 bits wide.

        Raises:
          InputError: there is not a score for each.
        """
        scores = np.asarray(scores)
        if scores.shape != (len(numbers),):
            raise InputError(
                f"a score for each of {len(numbers)} candidates is needed, got the shape "
                f"{list(scores.shape)}"
            )
        every = self.scores.astype(np.result_type(self.scores, scores))
        finished = self.finished.copy()
        every[list(numbers)], finished[list(numbers)] = scores, True
        return dataclasses.replace(self, scores=every, finished=finished)


H = TypeVar("H", bound=History)


# A state -> the state with what was computed for it, and candidates `int32[N, K]`, first choice
# first; those that were asked for before may be among them.
Propose = Callable[[H], tuple[H, np.ndarray]]


def ask(propose: Propose[H], state: H, count: int, *, repeat: bool = False) -> tuple[H, np.ndarray]:
    """Chooses candidates one after the other, each with those before it pending.

    A candidate is the first of the proposal that was not asked for before. Where nothing of it is
    new, there is no candidate, or with `repeat` its first one again.

    Returns:
      The state in which they are pending, and `int32[m, K]`, m at most `count`.
    """
    first, seen = len(state.vectors), {vector.tobytes() for vector in state.vectors}
    for _ in range(count):
        state, order = propose(state)
        new = first_new(order, seen)
        if repeat and not len(new):
            new = order[:1]
        if not len(new):
            break
        state = state.asked(new)
    return state, state.vectors[first:]


def first_new(order: np.ndarray, seen: set[bytes]) -> np.ndarray:
    """The first row of `int32[N, K]` not in `seen`, which it joins: `int32[1, K]`, or no row."""
    for i, row in enumerate(order):
        if (name := row.astype(np.int32).tobytes()) not in seen:
            seen.add(name)
            return order[i : i + 1]
    return order[:0]
