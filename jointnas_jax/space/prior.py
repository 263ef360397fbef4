"""Which values of its knobs a user expects to be good: a weight for each, before any trial.

Shapes: N candidates, K knobs, V values of the knob that has most.
"""

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jointnas_jax.errors import ConfigError, SpaceError, nearest, one_line, shown
from jointnas_jax.rules import plain
from jointnas_jax.space.knobs import Knob

# Share of each distribution that is even: nobody is surer of a prior than nine to one, and far from
# a centre all values are alike.
_DOUBT = 0.1
_FORMS = (
    "a weight above 0 for each value, as a list in their order or by value (those left out weigh "
    '1), or {"centre": VALUE, "width": SHARE}'
)


@dataclasses.dataclass(frozen=True)
class Prior:
    """A distribution of the values of each knob of a space.

    Attributes:
      weights: K tuples with a probability above 0 for each value; even ones where nothing is
        expected.
    """

    weights: tuple[tuple[float, ...], ...]

    @classmethod
    def of(cls, knobs: Sequence[Knob], description: Mapping[str, Any], *, name: str) -> "Prior":
        """Reads what is expected of knobs by their names.

        Args:
          knobs: of the space.
          description: name of a knob -> weights of its values, a list in their order or a mapping
            from values, where those left out weigh 1; or `{"centre": value, "width": share}`: a
            normal distribution around a value, whose standard deviation is a share of the knob's
            range as the knob is spaced. Knobs that are left out have even weights.
          name: name of the option or argument, for errors.

        Raises:
          ConfigError: a knob is unknown, or a description breaks a rule.
        """
        if not isinstance(description, Mapping):
            raise ConfigError(
                f"`{name}` must be a dict, name of a knob -> {_FORMS}; got {shown(description)}"
            )
        names = [knob.name for knob in knobs]
        for knob in description:
            if knob not in names:
                raise ConfigError(
                    f"`{name}` has the unknown knob `{one_line(knob)}`{nearest(str(knob), names)}"
                )
        return cls(
            tuple(
                _distribution(knob, description.get(knob.name), f"{name}.{knob.name}")
                for knob in knobs
            )
        )

    def restricted(self, knobs: Sequence[Knob], kept: Sequence[Knob]) -> "Prior":
        """The prior of `kept`, some of the `knobs` that this one is of."""
        by_name = {knob.name: w for knob, w in zip(knobs, self.weights, strict=True)}
        return Prior(tuple(by_name[knob.name] for knob in kept))

    def warped(self, points: np.ndarray) -> np.ndarray:
        """Points of the unit cube `float[N, K]` at which `VectorSpace.from_unit` follows the prior.

        Even points become points with as many values of each knob as their weights say.
        """
        columns = []
        for weights, column in zip(self.weights, np.asarray(points).T, strict=True):
            edges = np.cumsum(weights)
            index = np.searchsorted(edges / edges[-1], column, side="right")
            columns.append((np.minimum(index, len(weights) - 1) + 0.5) / len(weights))
        return np.stack(columns, 1)

    def expectation(self, vectors: Any) -> Any:
        """The logarithm of the probability, of mean 0 and deviation 1 over the space.

        Of `int32[N, K]`, NumPy or JAX, also under `jit`: `float32[N]`.
        """
        xp = vectors.__array_namespace__()
        table = xp.asarray(self._table)
        return table[np.arange(len(self.weights)), vectors].sum(-1)

    @functools.cached_property
    def _table(self) -> np.ndarray:
        """The part of each value in the expectation, `float32[K, V]`; 0 behind the last one."""
        logs = [np.log(weights) for weights in self.weights]
        deviation = np.sqrt(sum(row.var() for row in logs)) or 1.0
        rows = [(row - row.mean()) / deviation for row in logs]
        return np.array(list(itertools.zip_longest(*rows, fillvalue=0.0)), np.float32).T


def _distribution(knob: Knob, description: Any, name: str) -> tuple[float, ...]:
    """Probabilities of a knob's values; even ones where nothing is described."""
    count = len(knob.values)
    if description is None:
        return (1 / count,) * count
    if isinstance(description, Mapping) and {*description} & {"centre", "width"}:
        weights = _around(knob, description, name)
    else:
        weights = np.array(_weights(knob, description, name))
    weights = weights / weights.max()  # sums of the largest floats have no number
    return tuple(((1 - _DOUBT) * weights / weights.sum() + _DOUBT / count).tolist())


def _weights(knob: Knob, description: Any, name: str) -> list[float]:
    """The given weights of a knob's values, in their order."""
    if isinstance(description, Mapping):
        weights = [1.0] * len(knob.values)
        for value, weight in description.items():
            weights[_position(knob, value, name)] = weight
    elif isinstance(description, list | tuple | np.ndarray):
        weights = list(description)
    else:
        raise ConfigError(f"`{name}` must be {_FORMS}; got {shown(description)}")
    if len(weights) != len(knob.values):
        raise ConfigError(
            f"`{name}` must have a weight for each of the {len(knob.values)} values "
            f"{shown(list(knob.values))}, got {len(weights)}: {shown(weights)}"
        )
    return [
        _number(weight, f"the weight of {shown(value)} in `{name}`", most=1e6)
        for weight, value in zip(weights, knob.values, strict=True)
    ]


def _position(knob: Knob, value: Any, name: str) -> int:
    """The position of a value, which JSON may have turned into text."""
    texts = [str(allowed) for allowed in knob.values]
    if isinstance(value, str) and value not in knob.values and value in texts:
        return texts.index(value)
    try:
        return knob.index(value)
    except SpaceError as error:
        raise ConfigError(f"`{name}`: {error}") from error


def _around(knob: Knob, description: Mapping[str, Any], name: str) -> np.ndarray:
    """Weights around a centre, `float64[n]`."""
    if {*description} != {"centre", "width"}:
        raise ConfigError(
            f"`{name}` must have both `centre` and `width`, and nothing else, got "
            f"{shown(dict(description))}"
        )
    values = [v for v in knob.values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(values) < len(knob.values) or sorted(values) != values or len(values) < 2:
        raise ConfigError(
            f"`{name}` has a centre, which needs ascending numbers as values, got "
            f"{shown(list(knob.values))}; give weights"
        )
    centre = plain(description["centre"])
    inside = isinstance(centre, int | float) and not isinstance(centre, bool)
    if not inside or not values[0] <= centre <= values[-1]:
        raise ConfigError(
            f"`{name}.centre` must be a number from {values[0]} to {values[-1]}, got "
            f"{shown(description['centre'])}"
        )
    width = _number(description["width"], f"`{name}.width`", most=1)
    places = np.linspace(0, 1, len(values))
    distance = (places - np.interp(centre, values, places)) / width
    # Of the nearest value it is 1, however narrow the prior is.
    logs = -0.5 * np.square(distance)
    return np.exp(logs - logs.max())


def _number(value: Any, name: str, *, most: float) -> float:
    number = plain(value)
    if not isinstance(number, int | float) or isinstance(number, bool) or not 0 < number <= most:
        share = ", a share of the knob's range" if most == 1 else ""
        raise ConfigError(
            f"{name} must be a number above 0, at most {most:g}{share}, got {shown(value)}"
        )
    return float(number)
