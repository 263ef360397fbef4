"""The coarse stage: constrained iterative optimisation (paper section 3.3, algorithm 1).

In each round the first new ones of the candidates that are proposed are evaluated, and the
predictor is refit on all trials so far. The paper proposes the pool, best prediction first. The
first round takes the head of the pool, which a Sobol sequence spreads evenly.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from jointnas_jax.strategy.early_stop import kendall, spearman


class Round(NamedTuple):
    """One finished round of m candidates.

    Attributes:
      number: from 1.
      vectors: `int32[m, K]`.
      scores: `float[m]`, nan where a trial failed.
      predicted: `float32[m]`, before any of them was evaluated; nan in the first round.
      kendall, spearman: of predicted against measured; nan in the first round.
    """

    number: int
    vectors: np.ndarray
    scores: np.ndarray
    predicted: np.ndarray
    kendall: float
    spearman: float


def coarse_stage(
    pool: np.ndarray,
    evaluations: int,
    per_round: int,
    evaluate: Callable[[int, np.ndarray, np.ndarray], np.ndarray],
    fit: Callable[[np.ndarray, np.ndarray], None],
    predict: Callable[[np.ndarray], np.ndarray],
    propose: Callable[[np.ndarray], np.ndarray],
) -> Iterator[Round]:
    """Runs the coarse stage, one round per item.

    Args:
      pool: `int32[P, K]`.
      evaluations: candidates to evaluate; fewer if the pool is used up.
      per_round: m, candidates per round; the last round may have fewer.
      evaluate: `(round number, int32[m, K], predicted float32[m]) -> float32[m]`, nan for a
        failure.
      fit: called with all vectors and scores so far, nan where a trial failed; not before one did
        not.
      predict: `int32[N, K] -> float32[N]`, used after the first fit.
      propose: given those already chosen for a round, `int32[j, K]`, gives `int32[N, K]`, the first
        to be chosen next, evaluated and repeated ones allowed; used after the first fit.
    """
    seen: set[bytes] = set()
    vectors, scores = pool[:0], np.zeros(0, np.float32)
    for number in range(1, -(-evaluations // per_round) + 1):
        chosen, fitted = pool[:0], bool(np.isfinite(scores).any())
        for _ in range(min(per_round, evaluations - len(scores))):
            new = first_new(propose(chosen) if fitted else pool, seen)
            if not len(new):
                break
            chosen = np.concatenate([chosen, new])
        if not len(chosen):
            return
        predicted = np.full(len(chosen), np.nan, np.float32)
        if fitted:
            predicted = predict(chosen)
        found = evaluate(number, chosen, predicted)
        vectors = np.concatenate([vectors, chosen])
        scores = np.concatenate([scores, found])
        if np.isfinite(scores).any():
            fit(vectors, scores)
        yield finished_round(number, chosen, found, predicted)


def finished_round(
    number: int, vectors: np.ndarray, scores: np.ndarray, predicted: np.ndarray
) -> Round:
    """A round with the rank correlations of its numbers; arguments as of `Round`."""
    both = np.isfinite(scores) & np.isfinite(predicted)
    pairs = (predicted[both], scores[both])
    return Round(number, vectors, scores, predicted, kendall(*pairs), spearman(*pairs))


def first_new(order: np.ndarray, seen: set[bytes]) -> np.ndarray:
    """The first row of `int32[N, K]` not in `seen`, which it joins: `int32[1, K]`, or no row."""
    for i, row in enumerate(order):
        if (name := row.astype(np.int32).tobytes()) not in seen:
            seen.add(name)
            return order[i : i + 1]
    return order[:0]


def finished(vectors: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The trials that did not fail."""
    ok = np.isfinite(scores)
    return vectors[ok], scores[ok]


def best_first(vectors: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The trials that did not fail, `int32[N, K]`."""
    vectors, scores = finished(vectors, scores)
    return vectors[np.argsort(-scores)]
