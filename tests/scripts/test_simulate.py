"""The script that simulates fleets, as a user meets it."""

import functools
import json

import calls
import pytest
from calls import TINY, assert_one_line_and_exit_2

# The script sets it for the processes that it starts.
script = functools.partial(calls.script, without="JAX_NUM_CPU_DEVICES")


def test_help_names_the_flags():
    done = script("simulate", "--help")
    assert done.returncode == 0
    flags = ("--devices", "--memory_gb", "--sharing", "--out", "scripts/simulate.py")
    assert all(flag in done.stdout for flag in flags)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--devices=0"], "`--devices` must be integers from 1 to 4096"),
        (["--devices=2,x"], "`--devices` must be integers"),
        (["--speed=fast"], "`--speed` must be a number above 0"),
        (["--scaling=no.json"], "`no.json` is not a result of"),
        (["--preemptions_per_hour=nan"], "`--preemptions_per_hour` must be at least 0"),
        (["--spread=9"], "`--spread` must be from 0 to 2"),
        (["--validate=2,4"], "`--validate` must begin with 1"),
        (["--out=a.txt"], ".json file"),
        (["--workdir=nowhere"], "holds no study"),
        (["--target=quantum"], "target"),
        (["--config.search.rond=1"], "did you mean"),
        (["--images=9", "--fit_seconds=-1"], "fit_seconds"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(arguments, message, tmp_path):
    done = script("simulate", TINY, *arguments, cwd=tmp_path)
    assert_one_line_and_exit_2(done, message)
    assert list(tmp_path.iterdir()) == []


def test_a_simulation_writes_its_report_and_a_figure(tmp_path):
    flags = ["--target=cpu", "--devices=1,2", "--seeds=1", "--images=400", "--channels=1"]
    done = script("simulate", TINY, *flags, "--out=a.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {p.name for p in tmp_path.iterdir()} == {"a.json", "a.png"}
    assert {row["devices"] for row in json.loads((tmp_path / "a.json").read_text())["rows"]} == {
        1,
        2,
    }
    assert "sync: " in done.stdout


@pytest.mark.slow
def test_a_real_study_is_run_and_played(tmp_path):
    """How near it comes says the README: a test must not depend on what else a machine does."""
    flags = ["--validate=1,2", "--config.search.rounds=2", "--noconfig.study.random_reference"]
    done = script("simulate", TINY, *flags, "--out=v.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = json.loads((tmp_path / "v.json").read_text())["rows"]
    assert abs(first["error"]) < 0.02  # its own times
    assert second["measured"] > 0
