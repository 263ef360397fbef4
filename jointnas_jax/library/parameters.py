"""Optuna's parameters as knobs: values <-> index vectors."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from jointnas_jax.errors import InputError, one_line, shown
from jointnas_jax.library.space import as_array
from jointnas_jax.space import Knob, PlainSpace
from jointnas_jax.space.knobs import Value, spaced
from jointnas_jax.space.prior import Prior

# Values of a range with a step, at most.
_MOST = 4096


class Parameters:
    """A search space of Optuna's as a space of knobs.

    Attributes:
      space: space of the knobs.
      distributions: of each parameter.
    """

    def __init__(self, distributions: dict[str, BaseDistribution]):
        self.distributions = distributions
        # Optuna's names may be empty.
        knobs = tuple(_knob(name or "parameter", d) for name, d in distributions.items())
        self.space = PlainSpace(knobs, ())
        self._numbers = [np.array(knob.values, np.float64) for knob in knobs]

    def values(self, vector: np.ndarray) -> dict[str, Any]:
        """Name of each parameter -> its value, of `int[K]`."""
        return {
            name: d.choices[i] if isinstance(d, CategoricalDistribution) else knob.values[i]
            for (name, d), knob, i in zip(
                self.distributions.items(), self.space.knobs, vector.tolist(), strict=True
            )
        }

    def prior(self, description: Mapping[str, Any]) -> Prior | None:
        """What a user expects of them, see `Prior.of`; None: nothing of any that are here.

        Raises `ConfigError` naming a parameter.
        """
        here = {name: d for name, d in description.items() if name in self.distributions}
        if not here:
            return None
        pairs = zip(self.distributions.items(), self.space.knobs, strict=True)
        return Prior.of([_by_values(n, d, k) for (n, d), k in pairs], here, name="prior")

    def columns(self, vectors: np.ndarray) -> dict[str, np.ndarray]:
        """Name of each parameter -> the values that `int[N, K]` have, an array."""
        columns = {}
        for (name, d), knob, i in zip(
            self.distributions.items(), self.space.knobs, vectors.T, strict=True
        ):
            values = d.choices if isinstance(d, CategoricalDistribution) else knob.values
            columns[name] = as_array(values)[i]
        return columns

    def vector(self, values: Mapping[str, Any]) -> np.ndarray | None:
        """The index vector `int32[K]` nearest to values; None where one is missing or foreign."""
        vector = self.partial_vector(values)
        return None if (vector < 0).any() else vector

    def partial_vector(self, values: Mapping[str, Any]) -> np.ndarray:
        """The same, but -1 where a value is missing or foreign."""
        vector = np.full(len(self._numbers), -1, np.int32)
        for i, (name, distribution) in enumerate(self.distributions.items()):
            if name in values:
                with contextlib.suppress(ValueError):
                    number = distribution.to_internal_repr(values[name])
                    vector[i] = np.abs(self._numbers[i] - number).argmin()
        return vector


class LogCost:
    """The logarithm of a user's known cost, of index vectors.

    Attributes:
      broken: the error of a call that failed, see `unwrapped_errors`.
    """

    def __init__(
        self,
        cost: Callable[[dict[str, np.ndarray]], Any],
        parameters: Parameters,
        fixed: Mapping[str, Any],
    ):
        self.broken: InputError | None = None
        self._cost = cost
        self._fixed = fixed
        self._parameters = parameters

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """`int[N, K] -> float64[N]`; raises `InputError` where a cost is not a number above 0."""
        try:
            return np.log(self._checked(vectors))
        except InputError as error:
            self.broken = error
            raise

    def _checked(self, vectors: np.ndarray) -> np.ndarray:
        count = len(vectors)
        try:
            values = self._parameters.columns(vectors)
            values |= {n: as_array([value])[[0] * count] for n, value in self._fixed.items()}
            costs = self._cost(values)
        except Exception as error:  # it is the user's code
            raise InputError(
                f"`cost` failed on arrays of {count} candidates: {one_line(error)}; each "
                "parameter is an array: use numpy.where instead of `if`, or numpy.vectorize"
            ) from error
        try:
            numbers = np.broadcast_to(np.asarray(costs, np.float64), (count,))
        except Exception as error:  # whatever an object of the user's raises
            raise InputError(
                f"`cost` must return a number for each of {count} candidates, got {shown(costs)}"
            ) from error
        if not (sound := np.isfinite(numbers) & (numbers > 0)).all():
            raise InputError(f"`cost` must return numbers above 0, got {numbers[~sound][0]}")
        return numbers


def _knob(name: str, distribution: BaseDistribution) -> Knob:
    if isinstance(distribution, CategoricalDistribution):
        positions = tuple(range(len(distribution.choices)))
        # Of two choices one number tells all.
        return Knob(name, positions, ordinal=len(positions) == 2)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return Knob(name, _grid(distribution), ordinal=True)


def _by_values(name: str, distribution: BaseDistribution, knob: Knob) -> Knob:
    """The knob of a parameter with the choices, not their positions, as values."""
    if isinstance(distribution, CategoricalDistribution):
        choices = [choice for choice in distribution.choices if choice is not None]
        if len(choices) == len(distribution.choices):  # else values have no knob
            return Knob.choice(name or "parameter", choices)
    return knob


def _grid(distribution: FloatDistribution | IntDistribution) -> tuple[Value, ...]:
    """The values tried of a range, at most `_MOST` of them."""
    low, high, step = distribution.low, distribution.high, distribution.step
    whole = isinstance(distribution, IntDistribution)
    if distribution.log or step is None:
        return spaced(low, high, log=distribution.log, whole=whole)
    last = int((high - low) // step) if whole else round((high - low) / step)
    count = min(last + 1, _MOST)
    picks = [last * i // max(count - 1, 1) for i in range(count)]
    if whole:
        return tuple(low + pick * step for pick in picks)
    # Where the step is below their rounding some are equal.
    return tuple(dict.fromkeys(min(low + pick * step, high) for pick in picks))
