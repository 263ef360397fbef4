"""Standard output and error that cannot end a run: any encoding, closed pipes, full disks."""

import codecs
import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO, cast

# Characters of ours for encodings that lack them; others become "?".
_PLAIN = {"±": "+-", "·": "-", "…": "..."}
_ERRORS = "jointnas_jax.plain"


class Unfailing:
    """A stream of text that never raises: what it cannot write is replaced, or lost.

    Attributes:
      lost: why nothing more can be written; None while it can.
    """

    def __init__(self, stream: TextIO | None):
        """Wraps a stream; None is one that was closed when the process started."""
        self.lost: Exception | None = None
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes text, with plainer characters where the encoding has none."""
        try:
            self._attempt(lambda stream: stream.write(text))
        except UnicodeEncodeError:
            encoding = getattr(self._stream, "encoding", None) or "ascii"
            plain = text.encode(encoding, _ERRORS).decode(encoding)
            self._attempt(lambda stream: stream.write(plain))
        return len(text)

    def flush(self) -> None:
        """Writes what waits."""
        self._attempt(lambda stream: stream.flush())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _attempt(self, call: Callable[[TextIO], Any]) -> None:
        if self._stream is None or self.lost:
            return
        try:
            call(self._stream)
        except UnicodeEncodeError:
            raise
        except (OSError, ValueError) as error:  # a closed file is a ValueError
            self.lost = error


def unfailing(stream: TextIO | None) -> TextIO:
    """The stream as an `Unfailing`."""
    return cast(TextIO, stream if isinstance(stream, Unfailing) else Unfailing(stream))


def tell(text: str) -> None:
    """Prints a line for people to standard error, at once."""
    print(text, file=unfailing(sys.stderr), flush=True)


@contextlib.contextmanager
def unfailing_output() -> Iterator[Unfailing]:
    """Inside, `sys.stdout` and `sys.stderr` cannot fail; yields the former.

    Names of files that are no UTF-8 keep their bytes.
    """
    streams = [Unfailing(sys.stdout), Unfailing(sys.stderr)]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape")
    out, err = (cast(TextIO, stream) for stream in streams)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            yield streams[0]
        finally:
            for stream in streams:
                stream.flush()
                if stream.lost:
                    _discard(stream)


def _discard(stream: Unfailing) -> None:
    """Python writes what waits once more when it ends, and would fail then."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def _plain(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    characters = error.object[error.start : error.end]
    return "".join(_PLAIN.get(c, "?") for c in characters), error.end


codecs.register_error(_ERRORS, _plain)
