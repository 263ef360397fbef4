"""Rules for the arguments of public functions; each returns the argument as Python's own value."""

import operator
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jointnas_jax.errors import InputError, shown
from jointnas_jax.rules import PATH, PATH_OR_URL, local_path, path_or_url, plain


def check_integer(name: str, value: Any, low: int, high: int) -> int:
    """Returns an integer argument; raises `InputError` for anything else."""
    number = plain(value)
    if not isinstance(number, int) or isinstance(number, bool) or not low <= number <= high:
        raise InputError(f"`{name}` must be an integer from {low} to {high:,}, got {shown(value)}")
    return operator.index(number)


def check_real(name: str, value: Any, low: float, high: float) -> float:
    """Returns a real argument; raises `InputError` for anything else."""
    number = plain(value)
    is_number = isinstance(number, int | float) and not isinstance(number, bool)
    if not is_number or not low <= number <= high:
        raise InputError(f"`{name}` must be a number from {low:g} to {high:g}, got {shown(value)}")
    return float(number)


def check_seed(value: Any) -> int:
    """Returns a seed of 31 bits; raises `InputError` for anything else."""
    return check_integer("seed", value, 0, 2**31 - 1)


def check_flag(name: str, value: Any) -> bool:
    """Returns a truth value; raises `InputError` for anything else."""
    if not isinstance(flag := plain(value), bool):
        raise InputError(f"`{name}` must be True or False, got {shown(value)}")
    return flag


def check_function(name: str, value: Any, *, optional: bool = False) -> Any:
    """Returns a function, or None where it is optional; raises `InputError` for anything else."""
    if not callable(value) and not (optional and value is None):
        raise InputError(f"`{name}` must be a function{' or None' * optional}, got {shown(value)}")
    return value


def check_candidates(name: str, value: Any) -> list[Any]:
    """Returns candidates as a list; raises `InputError` for one candidate, or anything else."""
    if not isinstance(value, Iterable) or isinstance(value, Mapping | str | bytes):
        raise InputError(f"`{name}` must be a list of candidates, got {shown(value)}")
    return list(value)


def check_path_or_url(name: str, value: Any) -> str:
    """Returns a path or a URL of a bucket; raises `InputError` for anything that can be neither."""
    if not isinstance(value, str | Path) or not value:
        raise InputError(f"`{name}` must be {PATH_OR_URL.text}, got {shown(value)}")
    return path_or_url(str(value), name)


def check_path(name: str, value: Any) -> Path:
    """Returns a path; raises `InputError` for anything that cannot be one."""
    if not isinstance(value, str | Path) or not value:
        raise InputError(f"`{name}` must be {PATH.text}, got {shown(value)}")
    return Path(local_path(str(value), name))
