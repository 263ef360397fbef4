"""The pool of the coarse stage: quasi-Monte-Carlo samples that satisfy the budget."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy.stats import qmc

from jointnas_jax.errors import SpaceError
from jointnas_jax.space import JointSpace

# Give up when this many times the pool was drawn and it is still not full.
_MOST_DRAWS = 64

CostFn = Callable[[np.ndarray], np.ndarray]


def sobol_pool(
    space: JointSpace,
    size: int,
    costs: CostFn,
    budget: Mapping[int, int],
    seed: int | Sequence[int],
) -> np.ndarray:
    """Draws distinct candidates within the budget from a scrambled Sobol sequence.

    Args:
      space: the space, with at least one knob.
      size: candidates wanted.
      costs: maps `int32[N, K]` to `int64[N, costs]`.
      budget: column of `costs` -> limit.
      seed: of the scrambling.

    Returns:
      `int32[P, K]` in order of the sequence; P is `size`, or less where the space has fewer
      candidates within the budget or they are too rare.

    Raises:
      SpaceError: no candidate satisfies the budget; names the smallest cost seen.
    """
    sampler = qmc.Sobol(len(space.knobs), scramble=True, rng=np.random.default_rng(seed))
    # Sobol points come in powers of two; single ones in between would be less even.
    block = max(10, int(size - 1).bit_length())
    pool = np.zeros((0, len(space.knobs)), np.int32)
    smallest: dict[int, int] = {}
    repeats = 0
    for _ in range(max(1, (_MOST_DRAWS * size) >> block)):
        vectors = space.from_unit(sampler.random(2**block))
        drawn = costs(vectors)
        for column in budget:
            smallest[column] = min(smallest.get(column, drawn[0, column]), drawn[:, column].min())
        fits = np.ones(len(vectors), bool)
        for column, limit in budget.items():
            fits &= drawn[:, column] <= limit
        grown = distinct(np.concatenate([pool, vectors[fits]]))
        repeats = 0 if len(grown) > len(pool) else repeats + int(np.sum(fits))
        pool = grown[:size]
        # What fits was known already, several times over: the space has no more of it.
        if len(pool) == size or repeats > 4 * len(pool):
            break
    if not len(pool):
        limits = ", ".join(
            f"at least {smallest[c]:,} where the limit is {limit:,}" for c, limit in budget.items()
        )
        raise SpaceError(f"no candidate satisfies the budget: the samples cost {limits}")
    return pool


def descend(
    space: JointSpace, vectors: np.ndarray, costs: CostFn, budget: Mapping[int, int]
) -> np.ndarray:
    """Makes candidates cheaper, knob by knob, until they satisfy a budget too rare to be met by
    chance.

    Args:
      space: the space.
      vectors: `int32[N, K]` to start from.
      costs: maps `int32[N, K]` to `int64[N, costs]`.
      budget: column of `costs` -> limit.

    Returns:
      `int32[N, K]`; those still over the budget are as cheap as no change of a single knob improves
      on.
    """
    columns, limits = list(budget), np.array(list(budget.values()))
    excess = lambda vectors: (costs(vectors)[:, columns] / limits).max(axis=1)
    vectors, marks = vectors.copy(), excess(vectors)
    improved = True
    while improved and marks.max() > 1:
        improved = False
        for knob, values in enumerate(space.cardinalities):
            changed = np.repeat(vectors[:, None], values, axis=1)
            changed[:, :, knob] = np.arange(values)
            found = excess(changed.reshape(-1, len(space.knobs))).reshape(-1, values)
            better = (marks > 1) & (found.min(axis=1) < marks)
            vectors[better, knob] = found.argmin(axis=1)[better]
            marks = np.where(better, found.min(axis=1), marks)
            improved |= bool(better.any())
    return space.canonical(vectors)


def distinct(vectors: np.ndarray) -> np.ndarray:
    """Drops repeated rows of `int32[N, K]`, keeping the order of first appearance."""
    _, first = np.unique(vectors, axis=0, return_index=True)
    return vectors[np.sort(first)]
