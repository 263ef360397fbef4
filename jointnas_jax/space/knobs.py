"""A knob: one discrete choice of the search space."""

import dataclasses
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from jointnas_jax.errors import SpaceError, shown
from jointnas_jax.rules import plain

Value = int | float | str | bool

# Most values of a knob: the limit of mutation (`strategy/evolution.py`).
_MOST_VALUES = 4096
# Largest number of a range: floats tell integers apart up to here.
_LARGEST = 2**53
# Values of a range without a step: as fine as a search can use, and a gene of 8 bits.
_GRID = 256


@dataclasses.dataclass(frozen=True)
class Knob:
    """One discrete choice.

    Attributes:
      name: the knob's name, unique in its space, such as `stage2_kernel` or `lr`.
      values: the allowed values; an index vector holds positions in this tuple.
      ordinal: whether the values are numbers in order. The predictor sees an ordinal knob as one
        number in [0, 1] and any other knob as a one-hot vector (FBNetV3, section 3.2).

    Knobs are equal where candidates get the same values of the same types: 1, 1.0 and True differ.
    """

    name: str
    values: tuple[Value, ...]
    ordinal: bool

    def __post_init__(self) -> None:
        """Raises `SpaceError` for a name, values or an order that a knob cannot have."""
        _check_name(self.name)
        if not isinstance(self.values, tuple) or not isinstance(self.ordinal, bool):
            raise SpaceError(
                f"knob `{self.name}` must have a tuple of values and `ordinal` true or false, got "
                f"{shown((self.values, self.ordinal))}; Knob.choice, .integer and .real make knobs"
            )
        _check_choices(self.name, self.values)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Knob):
            return NotImplemented
        # By Python's equality a space of truth values got what is cached for 0 and 1.
        return self is other or _told_apart(self) == _told_apart(other)

    @classmethod
    def choice(cls, name: str, values: Sequence[Value]) -> "Knob":
        """One of several values without an order, such as `["sgd", "adam"]`.

        Raises:
          SpaceError: there is no value, two are equal, or one is no number, text or truth value.
        """
        _check_name(name)
        # An array has `tolist`, and its numbers are Python's then.
        values = values.tolist() if hasattr(values, "tolist") else values
        if not isinstance(values, tuple | list | range):
            raise SpaceError(f"choices of `{name}` must be a non-empty list, got {shown(values)}")
        return cls(name, tuple(map(plain, values)), ordinal=False)

    @classmethod
    def integer(cls, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> "Knob":
        """An integer from `low` to `high`, both included.

        Args:
          name: unique in its space.
          low: smallest value.
          high: largest value.
          step: between neighbours.
          log: space the logarithms evenly, for a range of several powers of ten; at most 256 of the
            integers are tried. `low` must be above 0, and `step` 1.

        Raises:
          SpaceError: not a range of integers, or one of more than 4,096 values.
        """
        _check_name(name)
        low, high, step, log = map(plain, (low, high, step, log))
        if not all(isinstance(n, int) and not isinstance(n, bool) for n in (low, high, step)):
            raise SpaceError(
                f"`{name}` must have integers as `low`, `high` and `step`, got "
                f"{shown((low, high, step))}; Knob.real takes other numbers"
            )
        if not _check_flag(name, log):
            return cls(name, _range_values(name, (low, high, step)), ordinal=True)
        _check_log(name, (low, high, None if step == 1 else step))
        return cls(name, spaced(low, high, log=True, whole=True), ordinal=True)

    @classmethod
    def real(
        cls, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> "Knob":
        """A number from `low` to `high`, both included.

        Args:
          name: unique in its space.
          low: smallest value.
          high: largest value.
          step: between neighbours; None: 256 values are tried, evenly spaced.
          log: space the logarithms evenly, as for a learning rate. `low` must be above 0, and there
            can be no `step`.

        Raises:
          SpaceError: not a range of numbers, or one of more than 4,096 values.
        """
        _check_name(name)
        low, high, step, log = map(plain, (low, high, step, log))
        if _check_flag(name, log):
            _check_log(name, (low, high, step))
        elif step is not None:
            values = _range_values(name, (low, high, step))
            return cls(name, tuple(map(float, values)), ordinal=True)
        else:
            _check_range(name, (low, high))
        return cls(name, spaced(low, high, log=log), ordinal=True)

    def index(self, value: Value) -> int:
        """Returns the position of `value`; raises `SpaceError` if it is not allowed."""
        own = plain(value)
        for position, allowed in enumerate(self.values if isinstance(own, Value) else ()):
            if same(own, allowed):
                return position
        raise SpaceError(
            f"knob `{self.name}` allows {shown(list(self.values))}, got {shown(value)}"
        )


def _told_apart(knob: Knob) -> tuple[str, bool, list[str]]:
    return knob.name, knob.ordinal, [repr(value) for value in knob.values]


def same(value: Any, allowed: Value) -> bool:
    """Equality of knob values: numbers compare by value, but `True` is not `1`."""
    return isinstance(value, bool) == isinstance(allowed, bool) and value == allowed


def parse_knob(name: str, description: Any) -> Knob | Value:
    """Reads one entry of a space description.

    Args:
      name: the name that errors show and the knob gets.
      description: `(low, high)` or `(low, high, step)` for a range with both ends included,
        `[a, b, ...]` for choices, or a single value, which is fixed and no knob.

    Returns:
      A `Knob`, or the fixed value.

    Raises:
      SpaceError: the description has another form.
    """
    if isinstance(description, tuple):
        return Knob(name, _range_values(name, tuple(map(plain, description))), ordinal=True)
    if isinstance(description, list):
        return Knob.choice(name, description)
    if isinstance(value := plain(description), Value):
        return value
    raise SpaceError(
        f"`{name}` must be a range (low, high, step), a list of choices or one value, "
        f"got {shown(description)}"
    )


def spaced(low: float, high: float, *, log: bool, whole: bool = False) -> tuple[int | float, ...]:
    """Up to 256 different numbers from `low` to `high`, both included, evenly spaced.

    Args:
      low: smallest.
      high: largest.
      log: space the logarithms evenly; `low` must be above 0.
      whole: round to integers.
    """
    points = (np.geomspace if log else np.linspace)(float(low), float(high), _GRID).tolist()
    values: list[int | float] = [round(point) for point in points] if whole else points
    if not whole:
        low, high = float(low), float(high)
    # Rounding may leave the range, and makes numbers equal.
    return tuple(sorted({min(max(value, low), high) for value in values}))


def _check_name(name: str) -> None:
    if not isinstance(name, str) or not name:
        raise SpaceError(f"the name of a knob must be text, got {shown(name)}")


def _check_flag(name: str, log: Any) -> bool:
    if not isinstance(log, bool):
        raise SpaceError(f"`log` of `{name}` must be True or False, got {shown(log)}")
    return log


def _check_log(name: str, description: tuple[float, float, float | None]) -> None:
    low, high, step = description
    _check_range(name, (low, high))
    if low <= 0 or step is not None:
        raise SpaceError(
            f"range of `{name}` with `log` needs `low` above 0 and no `step`, got "
            f"{shown(description)}"
        )


def _check_range(name: str, description: tuple) -> None:
    numbers = all(isinstance(n, int | float) and not isinstance(n, bool) for n in description)
    if len(description) not in (2, 3) or not numbers:
        raise SpaceError(
            f"range of `{name}` must be (low, high) or (low, high, step), got {shown(description)}"
        )
    if not all(abs(n) <= _LARGEST for n in description):
        raise SpaceError(
            f"numbers in the range of `{name}` must be finite, at most 2^53, got "
            f"{shown(description)}"
        )
    if description[1] < description[0]:
        raise SpaceError(
            f"range of `{name}` needs low <= high and a positive step that divides high - low, "
            f"got {shown(description)}"
        )


def _range_values(name: str, description: tuple) -> tuple[Value, ...]:
    _check_range(name, description)
    # Exact numbers, so that (0.01, 0.31, 0.01) ends at 0.31 and holds 0.07 rather than
    # 0.07000000000000001.
    low, high, step = (Fraction(str(n)) for n in (*description, 1)[:3])
    if step <= 0 or (high - low) % step != 0:
        raise SpaceError(
            f"range of `{name}` needs low <= high and a positive step that divides high - low, "
            f"got {shown(description)}"
        )
    count = int((high - low) / step) + 1
    _check_count(name, count)
    kind = int if all(isinstance(n, int) for n in description) else float
    return tuple(kind(low + i * step) for i in range(count))


def _check_choices(name: str, choices: Sequence[Any]) -> None:
    # nan equals nothing: no candidate could be found again.
    if not choices or not all(isinstance(c, Value) and c == c for c in choices):
        raise SpaceError(
            f"choices of `{name}` must be a non-empty list of plain values, got {shown(choices)}"
        )
    _check_count(name, len(choices))
    if len({(isinstance(c, bool), c) for c in choices}) < len(choices):
        raise SpaceError(f"choices of `{name}` must differ, got {shown(choices)}")


def _check_count(name: str, count: int) -> None:
    if count > _MOST_VALUES:
        raise SpaceError(f"`{name}` must have at most {_MOST_VALUES:,} values, got {count:,}")
