"""The pool of the coarse stage: quasi-Monte-Carlo samples that satisfy the budget."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import scipy

from jointnas_jax.errors import SpaceError
from jointnas_jax.space.prior import Prior
from jointnas_jax.space.vectors import VectorSpace

# A block of draws grows to this many: larger ones only take more memory.
_LARGEST_BLOCK = 2**17
# Draws at most, half a minute of them. A pool of 25,000 from FBNetV3's space within 450 M FLOPs,
# where 0.4 % of all candidates are, takes 2^22.6.
_MOST_DRAWS = 2**24
# After so many draws the sampler gives up if all draws would fill less than this share of the pool.
_TRIAL_DRAWS, _HOPELESS = 2**18, 0.01
# Candidates that are made cheaper where chance does not fill the pool.
_DESCENTS = 64

CostFn = Callable[[np.ndarray], np.ndarray]


def sobol_pool(
    space: VectorSpace,
    size: int,
    costs: CostFn,
    budget: Mapping[int, float],
    seed: int | Sequence[int],
    names: Sequence[str] = (),
    *,
    prior: Prior | None = None,
) -> np.ndarray:
    """Draws distinct candidates within the budget from a scrambled Sobol sequence.

    It draws until the pool is full, as long as that is not hopeless (see `_HOPELESS`) and the space
    has not given all it has. Where chance does not fill the pool, some candidates made cheaper on
    purpose join it (`descend`).

    Args:
      space: the space, with at least one knob.
      size: candidates wanted.
      costs: maps `int32[N, K]` to `int64[N, costs]`.
      budget: column of `costs` -> limit.
      seed: seed of the scrambling.
      names: names of the costs, for a message.
      prior: half of the draws follow it, by chance in between the even ones, which remain however
        wrong it is. None: all are even.

    Returns:
      `int32[P, K]` in order of the sequence; P is `size`, or less where the space has fewer
      candidates within the budget or they are too rare.

    Raises:
      SpaceError: no candidate satisfies the budget; names what the closest one costs.
    """
    columns, limits = list(budget), np.array(list(budget.values()))
    fits = lambda vectors: (costs(vectors)[:, columns] <= limits).all(axis=1)
    draw = _draws(space, np.random.default_rng(seed), prior)
    # Sobol points come in powers of two; single ones in between would be less even.
    block = drawn = min(_LARGEST_BLOCK, 2 ** max(10, int(size - 1).bit_length()))
    first = vectors = draw(block)
    pool = distinct(vectors[fits(vectors)])
    repeats = 0
    while len(pool) < size and drawn < _MOST_DRAWS:
        if drawn >= _TRIAL_DRAWS and len(pool) / drawn * _MOST_DRAWS < _HOPELESS * size:
            break
        block = min(_LARGEST_BLOCK, drawn)
        vectors = draw(block)
        drawn += block
        vectors = vectors[fits(vectors)]
        grown = distinct(np.concatenate([pool, vectors]))
        repeats = 0 if len(grown) > len(pool) else repeats + len(vectors)
        pool = grown
        # All that fits has come several times: the space has no more of it.
        if repeats > 4 * len(pool):
            break
    if budget and len(pool) < size:
        cheap = descend(space, first[:_DESCENTS], costs, budget)
        pool = distinct(np.concatenate([pool, cheap[fits(cheap)]]))
        if not len(pool):
            raise SpaceError(_infeasible(costs(cheap), budget, names))
    return pool[:size]


def _draws(
    space: VectorSpace, rng: np.random.Generator, prior: Prior | None
) -> Callable[[int], np.ndarray]:
    """The next candidates of a scrambled Sobol sequence: how many -> `int32[N, K]`."""
    # Every other point of a sequence is in one half of each range: a coordinate more says which.
    sampler = scipy.stats.qmc.Sobol(len(space.knobs) + (prior is not None), scramble=True, rng=rng)

    def draw(count: int) -> np.ndarray:
        points = sampler.random(count)
        return space.from_unit(points if prior is None else half_warped(points, prior))

    return draw


def half_warped(points: np.ndarray, prior: Prior) -> np.ndarray:
    """Points `float[N, K + 1]` as `float[N, K]`, of which the last coordinate has half follow."""
    return np.where(points[:, -1:] < 0.5, prior.warped(points[:, :-1]), points[:, :-1])


def _infeasible(costs: np.ndarray, budget: Mapping[int, float], names: Sequence[str]) -> str:
    """Says that candidates of costs `int64[N, costs]` are the cheapest, and still over a budget."""
    closest = costs[_excess(costs, budget).argmin()]
    needed = ", ".join(
        f"{names[c] if names else f'cost {c}'} of at least {closest[c]:,} where the limit is "
        f"{limit:,}"
        for c, limit in budget.items()
    )
    return f"no candidate satisfies the budget: the closest one needs {needed}"


def descend(
    space: VectorSpace, vectors: np.ndarray, costs: CostFn, budget: Mapping[int, float]
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
    excess = lambda vectors: _excess(costs(vectors), budget)
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


def _excess(costs: np.ndarray, budget: Mapping[int, float]) -> np.ndarray:
    """Largest share of a limit that `int64[N, costs]` take, over 1 where one is broken."""
    # Costs are integers, so those of at most 0 are those below a half.
    limits = np.maximum(list(budget.values()), 0.5)
    return (costs[:, list(budget)] / limits).max(axis=1)


def distinct(vectors: np.ndarray) -> np.ndarray:
    """Drops repeated rows of `int32[N, K]`, keeping the order of first appearance."""
    _, first = np.unique(vectors, axis=0, return_index=True)
    return vectors[np.sort(first)]
