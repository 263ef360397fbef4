"""Rules for the values of options, in words and as tests; numbers with units.

At the top level because `config.py` has the options, while rooms that read no config show and read
the same numbers.
"""

import dataclasses
import math
import numbers
import os
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from jointnas_jax.errors import ConfigError, shown

# Costs that are times; the others are counted.
TIMES = ("latency",)
_NUMBER = re.compile(r"(\d{1,20}(?:\.\d{1,20})?)\s*([a-z]*)", re.IGNORECASE)


class _Units(NamedTuple):
    """Units of a number."""

    sizes: Mapping[str, int]  # the unit of the first of equally short texts wins
    largest: int  # far below what 64 bits hold

    def read(self, text: str) -> int | None:
        """Reads a number such as "1.5M"; None if that is not possible."""
        sizes = {unit.lower(): size for unit, size in self.sizes.items()}
        match = _NUMBER.fullmatch(text.strip())
        if match is None or match[2].lower() not in sizes:
            return None
        number = round(Decimal(match[1]) * sizes[match[2].lower()])
        return number if number <= self.largest else None

    def holds(self, text: str) -> bool:
        """Whether a text is empty or a number above 0."""
        return not text or (self.read(text) or 0) > 0

    def text(self, number: int, gap: str = "") -> str:
        """The shortest text that `read` reads as a number."""
        texts = (f"{(Decimal(number) / n).normalize():f}{gap}{u}" for u, n in self.sizes.items())
        return min(texts, key=len)


# Far above the cost of any network.
_COUNT = _Units({"": 1, "K": 10**3, "M": 10**6, "G": 10**9}, largest=10**15)
# In nanoseconds, up to a quarter of an hour.
_TIME = _Units({"s": 10**9, "ms": 10**6, "us": 10**3}, largest=1000 * 10**9)


class Rule(NamedTuple):
    """A condition on a value, in words and as a test."""

    text: str
    holds: Callable[[Any], bool]


def at_least(low: float) -> Rule:
    """Numbers from `low` on."""
    return Rule(f"at least {low}", lambda v: low <= v < math.inf)


def between(low: float, high: float) -> Rule:
    """Numbers in [low, high]."""
    return Rule(f"from {low} to {high}", lambda v: low <= v <= high)


def one_of(*values: str) -> Rule:
    """One of several words."""
    return Rule(f"one of {list(values)}", lambda v: v in values)


def _rates(v: tuple) -> bool:
    return len(v) == 2 and all(isinstance(r, int | float) and 0 <= r <= 1 for r in v)


def _shares(v: tuple) -> bool:
    numbers = all(isinstance(s, int | float) and 0 < s < 1 for s in v)
    return numbers and list(v) == sorted(set(v)) and len(v) > 0


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


def is_url(text: str) -> bool:
    """Whether a text is the URL of a folder in a bucket: `gs://bucket/x`, `s3://` or `file://`."""
    return _URL.fullmatch(text) is not None


ANY = Rule("any text", lambda v: True)
POSITIVE = Rule("above 0", lambda v: 0 < v < math.inf)
RATES = Rule("two probabilities (best parent, worst parent)", _rates)
SHARES = Rule("ascending shares of a training, above 0 and below 1", _shares)
QUANTITY = Rule(
    'a number such as "1.5M" (units K, M, G) from 1 to 1000000G, or "" for no limit', _COUNT.holds
)
DURATION = Rule(
    'a time such as "2.5ms" (units us, ms, s) above 0, at most 1000s, or "" for no limit',
    _TIME.holds,
)
PATH = Rule("a path: no NUL, at most 255 bytes between slashes and 3,000 in all", _is_path)
PATH_OR_URL = Rule(
    f"the URL of a folder in a bucket such as `gs://bucket/x`, or {PATH.text}", PATH.holds
)
_STORE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_URL = re.compile(r"(?:(?:gs|s3)://[^/\s]+(?:/.*)?|file:///.+)")
DATABASE = Rule(
    "a database as SQLAlchemy names it, such as `postgresql://host/name` or `sqlite:///FILE`, "
    'not in memory, or "" for a file in the workdir',
    _is_database,
)
ADDRESS = Rule(
    'a host and a port such as "10.0.0.2:1234", or "" for the one in the environment',
    lambda v: not v or re.fullmatch(r"[\w.:\[\]-]{1,255}:[1-9]\d{0,4}", v, re.ASCII) is not None,
)
FLAG = Rule("true or false", lambda v: True)
NAME = Rule(
    "1 to 64 letters, digits, `_`, `-` or `.`, starting with a letter or digit",
    lambda v: re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", v) is not None,
)


_OWN = (bool, int, float)


def plain(value: Any) -> Any:
    """A number, truth value or text of NumPy's, JAX's or PyTorch's as Python's own.

    Anything else comes back as it is.
    """
    shape = getattr(value, "shape", None)
    if not isinstance(shape, tuple) or shape or not hasattr(value, "item"):
        return value
    value = value.item()
    # Python has no number of 80 bits.
    return float(value) if isinstance(value, numbers.Real) and type(value) not in _OWN else value


def option(default: Any, rule: Rule) -> Any:
    """A field with a rule."""
    return dataclasses.field(default=default, metadata={"rule": rule})


def local_path(text: str, name: str = "path") -> str:
    """The path on this machine that a user's text names; `~` becomes the home folder.

    Every path of a flag, an argument or a config comes through here; a shell leaves the `~` in
    `--workdir=~/x` to the program.

    Args:
      text: the path; "" stays "".
      name: name of the flag or option, for errors.

    Raises:
      ConfigError: it is no path, names another store, or the home of a user that does not exist.
    """
    if not PATH.holds(text):
        raise ConfigError(f"`{name}` must be {PATH.text}, got {shown(text)}")
    if match := _STORE.match(text):
        raise ConfigError(
            f"`{name}` must be a path on this machine, got {shown(text)}: stores such as "
            f"`{match[0]}/` are not supported; mount them, and name the folder"
        )
    path = os.path.expanduser(text)
    if path.startswith("~"):
        raise ConfigError(
            f"`{name}` = {shown(text)} names the home folder of a user that does not exist; write "
            f"{shown('./' + text)} for a file or folder whose name begins with `~`"
        )
    return path


def path_or_url(text: str, name: str = "path") -> str:
    """The URL of a folder in a bucket without a slash at its end, or the path of `local_path`."""
    if is_url(text) and PATH.holds(text):
        return text.rstrip("/")
    return local_path(text, name)


def parse_quantity(text: str) -> int:
    """Reads "1.5M" as 1,500,000; units K, M and G; raises `ConfigError` if that is not possible."""
    if (number := _COUNT.read(text)) is None:
        raise ConfigError(
            f'{shown(text)} must be a number such as "1.5M" (units K, M, G) up to 1000000G'
        )
    return number


def quantity(number: int) -> str:
    """The shortest text that `parse_quantity` reads as a number, such as "1.5M"."""
    return _COUNT.text(number)


def parse_duration(text: str) -> int:
    """Reads "2.5ms" as 2,500,000 nanoseconds; units us, ms and s; raises `ConfigError` if not."""
    if not (number := _TIME.read(text)):
        raise ConfigError(f"{shown(text)} must be {DURATION.text}")
    return number


def duration(nanoseconds: int, gap: str = "") -> str:
    """The shortest text that `parse_duration` reads as a time, with a gap before the unit."""
    return _TIME.text(nanoseconds, gap)


def parse_limit(cost: str, text: str) -> int:
    """Reads a limit of a cost, such as `flops`; raises `ConfigError` if that is not possible."""
    return (parse_duration if cost in TIMES else parse_quantity)(text)


def limit_text(cost: str, limit: int) -> str:
    """The shortest text that `parse_limit` reads as a limit."""
    return (duration if cost in TIMES else quantity)(limit)


def cost_in_words(cost: str, amount: int) -> str:
    """An amount of a cost for people, such as "400,000" or "2.5 ms"."""
    return duration(amount, " ") if cost in TIMES else f"{amount:,}"
