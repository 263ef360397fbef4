"""Rules that the values of options satisfy, in words and as a test."""

import dataclasses
import math
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple

from jointnas_jax.errors import ConfigError

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


class Rule(NamedTuple):
    """What a value must satisfy, in words and as a test."""

    text: str
    holds: Callable[[Any], bool]


def at_least(low: float) -> Rule:
    """Numbers from `low` on."""
    return Rule(f"at least {low}", lambda v: low <= v < math.inf)


def between(low: float, high: float) -> Rule:
    """Numbers in [low, high]."""
    return Rule(f"from {low} to {high}", lambda v: low <= v <= high)


def one_of(*values: str) -> Rule:
    """One of some words."""
    return Rule(f"one of {list(values)}", lambda v: v in values)


def _rates(v: tuple) -> bool:
    return len(v) == 2 and all(isinstance(r, int | float) and 0 <= r <= 1 for r in v)


def _quantity_holds(v: str) -> bool:
    return not v or _QUANTITY.fullmatch(v) is not None and parse_quantity(v) > 0


_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)\s*([KMG]?)", re.IGNORECASE)
ANY = Rule("any text", lambda v: True)
POSITIVE = Rule("above 0", lambda v: 0 < v < math.inf)
RATES = Rule("two probabilities (best parent, worst parent)", _rates)
QUANTITY = Rule('a number such as "1.5M" (units K, M, G), or "" for no limit', _quantity_holds)
FLAG = Rule("true or false", lambda v: True)
NAME = Rule(
    "1 to 64 letters, digits, `_`, `-` or `.`, starting with a letter or digit",
    lambda v: re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", v) is not None,
)


def option(default: Any, rule: Rule) -> Any:
    """A field with a rule."""
    return dataclasses.field(default=default, metadata={"rule": rule})


def parse_quantity(text: str) -> int:
    """Reads "1.5M" as 1,500,000; units K, M and G; raises `ConfigError` if that is not possible."""
    if (match := _QUANTITY.fullmatch(text.strip())) is None:
        raise ConfigError(f'{text!r} must be a number such as "1.5M" (units K, M, G)')
    number, unit = match.groups()
    return round(float(number) * UNITS[unit.upper()])


def quantity(number: int) -> str:
    """The shortest text that `parse_quantity` reads as a number, such as "1.5M"."""
    texts = (f"{(Decimal(number) / size).normalize():f}{unit}" for unit, size in UNITS.items())
    return min(texts, key=len)
