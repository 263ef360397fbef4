"""Errors that a user can cause, each with the exit code that a script ends with.

A message is one line: it names the thing, states the rule, shows the value and offers the fix.
"""

import difflib
import re
import reprlib
from collections.abc import Iterable
from typing import Any

# Characters of a message: more would hide its point.
_LONGEST = 1000


class JointNASError(Exception):
    """Base of all errors a user can cause; scripts print the message and exit with `exit_code`."""

    exit_code = 1

    def __init__(self, message: object = ""):
        text, half = str(message), _LONGEST // 2 - 5
        if len(text) > _LONGEST:  # the ends say most: what it is, and the fix
            text = f"{text[:half]} ... {text[-half:]}"
        super().__init__(_printable(text))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles the message: subclasses are made of other arguments."""
        return _unpickled, (type(self), str(self)), vars(self)


class InputError(JointNASError):
    """Something the user gave cannot be used: config, space, data, candidate file or workdir."""

    exit_code = 2


class ConfigError(InputError):
    """A config key is unknown, or its value has the wrong type or lies out of range."""


class SpaceError(InputError):
    """A space description, a candidate or an index vector breaks a rule of the space."""


class DataError(InputError):
    """A dataset, split or image cannot be used."""


class ModelError(InputError):
    """A trained model, its weights or its class names cannot be used."""


class WorkdirError(InputError):
    """The workdir cannot be used for this study."""


class StudyError(JointNASError):
    """The study cannot go on, for instance because every trial failed."""


class StorageError(JointNASError):
    """Something cannot be written, as on a full disk, or no longer be read; stored data stays."""


class InterruptedStudyError(JointNASError):
    """A signal ended the run."""

    exit_code = 3

    def __init__(self) -> None:
        super().__init__("interrupted; the same command goes on from what is saved")


class DamagedError(JointNASError):
    """Stored data is not what was written."""

    exit_code = 4


class BusyError(JointNASError):
    """Another run owns the workdir."""

    exit_code = 5


def one_line(foreign: object) -> str:
    """Returns foreign text, or an exception, as one printable line of at most 200 characters."""
    text = _text(foreign) or (type(foreign).__name__ if isinstance(foreign, Exception) else "")
    return _printable(" ".join(text.split())[:200])


def shown(value: Any) -> str:
    """Returns a value as messages show it: shortened, whatever it is, and without a password."""
    return re.sub(r"(://[^:/@]*:)[^@]*@", r"\1***@", _SHORT.repr(value))


def nearest(word: object, names: Iterable[object]) -> str:
    """Returns a hint such as "; did you mean `pool_size`?", or all names if none is near."""
    names = sorted(map(_text, names))
    near = difflib.get_close_matches(_text(word)[:100], names, n=2, cutoff=0.6)
    if near:
        return "; did you mean " + " or ".join(f"`{n}`" for n in near) + "?"
    return "; known: " + ", ".join(f"`{n}`" for n in names)


def needs_extra(what: str, package: str, extra: str) -> str:
    """Returns the message for a package of an extra of `setup.cfg` that is not installed."""
    return (
        f"{what} needs the package `{package}`, which is not installed: "
        f'pip install "jointnas_jax[{extra}]"'
    )


class _Short(reprlib.Repr):
    """`repr` of some characters and some levels; the built-in one can be endless, or fail."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 4
        self.maxtuple = self.maxlist = self.maxdict = self.maxset = self.maxfrozenset = 16
        self.maxstring = self.maxother = 120

    def repr_int(self, value: int, level: int) -> str:
        """Python refuses to write integers of some thousand digits."""
        bits = value.bit_length()
        return repr(value) if bits < 256 else f"an integer of {bits} bits"


_SHORT = _Short()


def _unpickled(kind: type[JointNASError], message: str) -> JointNASError:
    error = kind.__new__(kind)
    JointNASError.__init__(error, message)
    return error


def _text(value: object) -> str:
    return _SHORT.repr(value) if isinstance(value, int) else str(value)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in text)
