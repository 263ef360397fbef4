"""Errors that a user can cause, each with the exit code that a script ends with.

A message is one line: it names the thing, states the rule, shows the value and offers the fix.
"""

import difflib
from collections.abc import Iterable


class JointNASError(Exception):
    """Base of all errors a user can cause; scripts print the message and exit with `exit_code`."""

    exit_code = 1


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
    """Something cannot be written, for instance because the disk is full; what is stored stays."""


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
    """Returns text from a foreign file or library as one printable line of at most 200."""
    text = " ".join(str(foreign).split())[:200]
    return "".join(c if c.isprintable() else "?" for c in text)


def nearest(word: str, known: Iterable[str]) -> str:
    """Returns a hint such as "; did you mean `pool_size`?", or all known words if none is near."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=2, cutoff=0.6)
    if near:
        return "; did you mean " + " or ".join(f"`{n}`" for n in near) + "?"
    return "; known: " + ", ".join(f"`{k}`" for k in known)
