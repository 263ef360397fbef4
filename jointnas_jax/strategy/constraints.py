"""Costs and budget of a search as it uses them: on the host, under `jit`, and drawing a pool."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jointnas_jax.errors import InputError, SpaceError
from jointnas_jax.space.prior import Prior
from jointnas_jax.space.vectors import VectorSpace
from jointnas_jax.strategy.pool import sobol_pool

# Candidates that derived cost features are standardised by.
SAMPLE = 1024


class Constraints:
    """The rules that candidates obey, each derived from the others where it is not given.

    Attributes:
      costs: `int32[N, K] -> int64[N, P]`, on the host.
      feasible: `int32[N, K] -> bool[N]`, also under `jit`; None without a budget.
    """

    def __init__(
        self,
        space: VectorSpace,
        costs: Callable[[np.ndarray], np.ndarray] | None,
        budget: Mapping[int, float] | None,
        feasible: Callable[[Any], Any] | None,
        names: Sequence[str] = (),
        prior: Prior | None = None,
    ):
        """See `Searcher`."""
        self._space = space
        self._budget = dict(budget or {})
        self._names = names
        self._prior = prior
        self.costs = costs or (lambda vectors: np.ones((len(vectors), 1), np.int64))
        if self._budget:
            width = self.costs(space.sample(np.random.default_rng(0), 1)).shape[1] if costs else 0
            if wrong := [column for column in self._budget if column not in range(width)]:
                raise InputError(
                    f"`budget` limits columns of `costs`, which has {width}; got {wrong[0]}"
                )
            feasible = feasible or on_host(self._within, bool)
        self.feasible = feasible

    def pool(self, size: int, seed: int) -> np.ndarray:
        """Draws the pool of the coarse stage, `int32[P, K]`; see `sobol_pool`."""
        if self._budget or self.feasible is None:
            return sobol_pool(
                self._space, size, self.costs, self._budget, seed, self._names, prior=self._prior
            )
        refused = lambda vectors: 1 - np.asarray(self.feasible(vectors), np.int64)[:, None]
        try:
            return sobol_pool(self._space, size, refused, {0: 0}, seed, prior=self._prior)
        except SpaceError as error:
            raise SpaceError(
                "no candidate satisfies `feasible`: it refuses all samples of the space; loosen it"
            ) from error

    def check(self, vectors: np.ndarray) -> None:
        """Raises `SpaceError` for the first of `int32[N, K]` that breaks a rule."""
        if self.feasible is None:
            return
        fits = np.asarray(self.feasible(vectors)) & self._within(vectors)
        if not fits.all():
            wrong = vectors[np.argmin(fits)]
            raise SpaceError(
                f"candidate {wrong.tolist()} is over the budget but was to be evaluated; `repair` "
                "must return feasible children, and `feasible` agree with `budget`"
            )

    def features(self) -> Callable[[Any], Any]:
        """The costs' standardised logarithms, `float32[N, P]`, also under `jit`."""
        sample = self.costs(self._space.sample(np.random.default_rng(0), SAMPLE))
        # A cost of 0 counts as half of the smallest one that is not, as in pretraining.
        positive = np.where(sample > 0, sample, np.inf).min(0)
        smallest = np.where(np.isfinite(positive), positive / 2, 1.0)
        logs = lambda costs: np.log(np.maximum(costs, smallest))
        mean, std = logs(sample).mean(0), logs(sample).std(0)
        std = np.where(std > 1e-6, std, 1.0)
        scaled = lambda vectors: (logs(self.costs(vectors)) - mean) / std
        return on_host(scaled, np.float32, sample.shape[1:])

    def _within(self, vectors: np.ndarray) -> np.ndarray:
        if not self._budget:
            return np.ones(len(vectors), bool)
        limits = np.array(list(self._budget.values()))
        return np.all(self.costs(vectors)[:, list(self._budget)] <= limits, axis=1)


def standardised(logs: Callable[[Any], Any], space: VectorSpace) -> Callable[[Any], Any]:
    """Logarithms of costs, `int32[N, K] -> float32[N, P]`, as features by those of a sample."""
    sample = logs(space.sample(np.random.default_rng(0), SAMPLE))
    # In a space of one architecture they are constant, but for rounding, and tell nothing.
    mean, std = sample.mean(0), sample.std(0)
    std = np.where(std > 1e-3, std, np.float32(1.0))
    return lambda vectors: (logs(vectors) - mean) / std


def on_host(
    function: Callable[[np.ndarray], np.ndarray], dtype: Any, shape: tuple[int, ...] = ()
) -> Callable[[Any], Any]:
    """A NumPy function `int32[N, K] -> dtype[N, *shape]` that compiled programs can call, too."""
    convert = lambda vectors: np.asarray(function(np.asarray(vectors)), dtype)

    def call(vectors: Any) -> Any:
        if not isinstance(vectors, jax.core.Tracer):
            return convert(vectors)
        result = jax.ShapeDtypeStruct((len(vectors), *shape), dtype)
        return jax.pure_callback(convert, result, vectors, vmap_method="sequential")

    return call
