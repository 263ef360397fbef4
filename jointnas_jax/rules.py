"""Rules that the values of options satisfy, in words and as a test."""

import dataclasses
import math
import os
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple

from jointnas_jax.errors import ConfigError, shown

# Costs that are times; the others are counted.
TIMES = ("latency",)
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}
# Far above the cost of any network, far below what 64 bits hold.
_LARGEST_QUANTITY = 10**15
# Nanoseconds of the units of a time; the longest is a quarter of an hour.
TIME_UNITS = {"us": 10**3, "ms": 10**6, "s": 10**9}
_LONGEST_TIME = 1000 * 10**9


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
    return not v or 0 < (_read_quantity(v) or 0) <= _LARGEST_QUANTITY


def _read_quantity(text: str) -> int | None:
    if (match := _QUANTITY.fullmatch(text.strip())) is None:
        return None
    number, unit = match.groups()
    return round(Decimal(number) * UNITS[unit.upper()])


def _duration_holds(v: str) -> bool:
    return not v or 0 < (_read_duration(v) or 0) <= _LONGEST_TIME


def _read_duration(text: str) -> int | None:
    if (match := _DURATION.fullmatch(text.strip())) is None:
        return None
    number, unit = match.groups()
    return round(Decimal(number) * TIME_UNITS[unit.lower()])


def _is_path(v: str) -> bool:
    try:
        path = os.fsencode(v)
    except UnicodeEncodeError:
        return False
    return b"\0" not in path and len(path) <= 3000 and max(map(len, path.split(b"/"))) <= 255


def _is_database(v: str) -> bool:
    if not v:
        return True
    import sqlalchemy  # takes a while, and few name a database

    try:
        url = sqlalchemy.make_url(v)
        dialect = url.get_dialect()
    except (sqlalchemy.exc.ArgumentError, ImportError, ValueError):
        return False
    if url.drivername == "sqlite":
        file = url.database or ""
        in_memory = not file or file.startswith((":", "file:"))
        return not in_memory and _is_path(file) and not url.host and not url.query
    server = dialect.name in ("postgresql", "mysql") and not dialect.is_async
    return server and (url.port is None or 0 < url.port < 2**16)


_QUANTITY = re.compile(r"(\d{1,20}(?:\.\d{1,20})?)\s*([KMG]?)", re.IGNORECASE)
_DURATION = re.compile(r"(\d{1,20}(?:\.\d{1,20})?)\s*(us|ms|s)", re.IGNORECASE)
ANY = Rule("any text", lambda v: True)
POSITIVE = Rule("above 0", lambda v: 0 < v < math.inf)
RATES = Rule("two probabilities (best parent, worst parent)", _rates)
QUANTITY = Rule(
    'a number such as "1.5M" (units K, M, G) from 1 to 1000000G, or "" for no limit',
    _quantity_holds,
)
DURATION = Rule(
    'a time such as "2.5ms" (units us, ms, s) above 0, at most 1000s, or "" for no limit',
    _duration_holds,
)
PATH = Rule("a path: no NUL, at most 255 bytes between slashes and 3,000 in all", _is_path)
DATABASE = Rule(
    "a database as SQLAlchemy names it, such as `postgresql://host/name` or `sqlite:///FILE`, "
    'not in memory, or "" for a file in the workdir',
    _is_database,
)
ADDRESS = Rule(
    'a host and a port such as "10.0.0.2:1234", or "" for what the environment says',
    lambda v: not v or re.fullmatch(r"[\w.:\[\]-]{1,255}:[1-9]\d{0,4}", v, re.ASCII) is not None,
)
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
    number = _read_quantity(text)
    if number is None or number > _LARGEST_QUANTITY:
        raise ConfigError(
            f'{shown(text)} must be a number such as "1.5M" (units K, M, G) up to 1000000G'
        )
    return number


def quantity(number: int) -> str:
    """The shortest text that `parse_quantity` reads as a number, such as "1.5M"."""
    texts = (f"{(Decimal(number) / size).normalize():f}{unit}" for unit, size in UNITS.items())
    return min(texts, key=len)


def parse_duration(text: str) -> int:
    """Reads "2.5ms" as 2,500,000 nanoseconds; units us, ms and s.

    Raises:
      ConfigError: that is not possible.
    """
    if not text or not DURATION.holds(text):
        raise ConfigError(f"{shown(text)} must be {DURATION.text}")
    return _read_duration(text)


def duration(nanoseconds: int, gap: str = "") -> str:
    """The shortest text that `parse_duration` reads as a time, such as "2.5ms".

    Args:
      nanoseconds: the time.
      gap: between number and unit.
    """
    numbers = {u: f"{(Decimal(nanoseconds) / n).normalize():f}" for u, n in TIME_UNITS.items()}
    unit = min(reversed(TIME_UNITS), key=lambda unit: len(numbers[unit] + unit))
    return f"{numbers[unit]}{gap}{unit}"


def parse_limit(cost: str, text: str) -> int:
    """Reads the limit of a cost, `flops` and so on; raises `ConfigError` if it is none."""
    return (parse_duration if cost in TIMES else parse_quantity)(text)


def limit_text(cost: str, limit: int) -> str:
    """The shortest text that `parse_limit` reads as a limit."""
    return (duration if cost in TIMES else quantity)(limit)


def cost_in_words(cost: str, amount: int) -> str:
    """How much of a cost, for people, such as "400,000" or "2.5 ms"."""
    return duration(amount, " ") if cost in TIMES else f"{amount:,}"
