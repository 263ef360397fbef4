"""Nothing that is printed can end a run."""

import contextlib
import io
import os
import subprocess
import sys

import pytest
from calls import ROOT
from hypothesis import given
from hypothesis import strategies as st

from jointnas_jax.runtime.output import Unfailing, unfailing, unfailing_output
from jointnas_jax.telemetry.console import plain_console

ENCODINGS = ("ascii", "iso8859-2", "koi8-r", "cp1252", "utf-8", "utf-16")


@given(
    st.text(st.characters(), max_size=20) | st.just("98.72% ± 0.88%"), st.sampled_from(ENCODINGS)
)
def test_any_text_is_written_in_any_encoding_plainer_if_need_be(text, encoding):
    raw = io.BytesIO()
    stream = Unfailing(io.TextIOWrapper(raw, encoding=encoding, newline=""))
    assert stream.write(text) == len(text)
    stream.write("end")
    stream.flush()
    assert stream.lost is None
    written = raw.getvalue().decode(encoding)
    with contextlib.suppress(UnicodeEncodeError):
        text.encode(encoding)
        assert written == f"{text}end"
    assert written.endswith("end")


@pytest.mark.parametrize("error", [BrokenPipeError(32, "x"), OSError(28, "full"), ValueError("x")])
def test_a_stream_that_fails_is_given_up_once(error):
    class Broken(io.StringIO):
        calls = 0

        def write(self, text):
            Broken.calls += 1
            raise error

    stream = Unfailing(Broken())
    for _ in range(3):
        stream.write("a")
        stream.flush()
    assert (stream.lost, Broken.calls) == (error, 1)
    assert unfailing(stream) is stream


def test_a_stream_that_was_closed_when_the_process_started_takes_everything():
    print("a", file=unfailing(None))


def test_the_console_of_a_run_writes_to_such_a_stream(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    plain_console().print("99% ± 1%")
    assert raw.getvalue() == b"99% +- 1%\n"


def test_the_streams_are_put_back(capsys):
    before = sys.stdout
    with unfailing_output():
        print("a")
    assert sys.stdout is before
    assert capsys.readouterr().out == "a\n"


PRINT = """
import sys
from jointnas_jax.command_line import run_script
def work(argv):
    print("x" * 100_000)
    print("±", file=sys.stderr)
    open(argv[1], "w").write("done")
    return 0
sys.exit(run_script(sys.argv, "", work, answers=sys.argv[2] == "answers"))
"""


@pytest.mark.parametrize(
    ("end", "code", "told"),
    [
        ("> /dev/full", (0, 1), "No space left on device"),
        ("| true", (0, 0), ""),
        (">&-", (0, 0), ""),
        ("2>&-", (0, 0), ""),
    ],
)
@pytest.mark.parametrize("kind", ["writes", "answers"])
def test_a_script_ends_with_its_code_whoever_reads_what_it_prints(tmp_path, end, code, told, kind):
    """Where what it prints is all that it does, a full disk is an error all the same."""
    (tmp_path / "script.py").write_text(PRINT)
    command = f"set -o pipefail; {sys.executable} script.py file {kind} {end}"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == code[kind == "answers"], done.stderr
    assert (tmp_path / "file").read_text() == "done"
    if end != "2>&-":
        first, *rest = done.stderr.splitlines()
        assert first == "+-"
        assert len(rest) == bool(told)
        assert told in "".join(rest)
