"""Commands in the README and the documentation name scripts, flags and settings that exist."""

import dataclasses
import functools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from jointnas_jax.cli import VERBS
from jointnas_jax.config import Config

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.[mr][ds]*"))]
COMMAND = re.compile(
    r"(?<!\$ )python (?:scripts/\w+\.py|-m (?:benchmarks|experiments)\.\w+)(?:\\\n|[^`\n])*"
)
# A prompt stands before commands that are wrong on purpose.
# Options of ml_collections and absl.
ALWAYS = {"config", "help", "out"}


def commands():
    found = {}
    for page in PAGES:
        for text in COMMAND.findall(page.read_text(encoding="utf-8")):
            plain = re.sub(r"\\\n\s*", " ", text).partition("  #")[0].strip().rstrip("`'.,;:)")
            found.setdefault(plain, page.name)
    return found


@functools.cache
def flags_of(script):
    """The flags that a script's help names."""
    command = [sys.executable, *script.split()[1:], "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return set(re.findall(r"--(?:\[no\])?(\w+)", done.stdout))


def setting_exists(path):
    kind = Config
    for name in path.split("."):
        if not dataclasses.is_dataclass(kind):
            return True  # inside of a space or a default candidate
        fields = {field.name: field.type for field in dataclasses.fields(kind)}
        if name not in fields:
            return False
        kind = fields[name]
    return True


def test_there_are_commands():
    assert len(commands()) > 30


@pytest.mark.parametrize("command", commands())
def test_a_command_names_what_exists(command):
    words = shlex.split(command, comments=True)
    script = " ".join(words[: 3 if words[1] == "-m" else 2])
    place = words[2].replace(".", "/") + ".py" if words[1] == "-m" else words[1]
    assert (ROOT / place).is_file()
    for word in words:
        if match := re.match(r"--(?:no)?config\.([\w.]+)", word):
            assert setting_exists(match[1]), word
        elif match := re.match(r"--(\w+)", word):
            assert match[1] in ALWAYS | flags_of(script), word


def test_verbs_of_the_command_exist():
    for page in PAGES:
        for verb in re.findall(r"`jointnas (\w+)", page.read_text(encoding="utf-8")):
            assert verb in {*VERBS, "completion"}, (page.name, verb)
