"""The command that continues an interrupted run."""

import re
import shlex
from collections.abc import Sequence

from jointnas_jax.storage.database import parse_url, public_name

# Flags with which a run would not continue, but start again, only print its schedule, or refuse.
_NOT_AGAIN = re.compile(r"--?(overwrite|dry_run)(=.*)?|--?config\.study\.resume=never")
_DATABASE = re.compile(r"(--?config\.study\.storage=|)(\w[\w+]*://.*)", re.DOTALL)


def resume_command(argv: Sequence[str]) -> str:
    """Returns the command line that continues the run of `argv`, for a shell.

    It is stored and printed, so it has no password of a database.
    """
    arguments = [argument for argument in argv[1:] if not _NOT_AGAIN.fullmatch(argument)]
    return shlex.join(["python", argv[0], *map(_without_password, arguments)])


def _without_password(argument: str) -> str:
    if match := _DATABASE.fullmatch(argument):
        url = parse_url(match[2])
        # A file has none, and its public name is not its URL.
        return argument if url.drivername == "sqlite" else match[1] + public_name(url)
    return argument
