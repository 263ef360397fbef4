"""The scripts that simulate fleets and measure scaling, as a user meets them."""

import functools
import json
import subprocess

import calls
import pytest
from calls import TINY, assert_one_line_and_exit_2

from benchmarks import scaling
from jointnas_jax.errors import StudyError
from jointnas_jax.runtime import processes

# The scripts set it for the processes that they start.
script = functools.partial(calls.script, without="JAX_NUM_CPU_DEVICES")


@pytest.mark.parametrize("name", ["simulate", "bench_scaling"])
def test_help_names_the_flags(name):
    done = script(name, "--help")
    assert done.returncode == 0
    assert all(flag in done.stdout for flag in ("--devices", "--out", f"scripts/{name}.py"))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("simulate", ["--devices=0"], "`--devices` must be integers from 1 to 4096"),
        ("simulate", ["--devices=2,x"], "`--devices` must be integers"),
        ("simulate", ["--speed=fast"], "`--speed` must be a number above 0"),
        ("simulate", ["--scaling=no.json"], "`no.json` is not a result of"),
        ("simulate", ["--preemptions_per_hour=nan"], "`--preemptions_per_hour` must be at least 0"),
        ("simulate", ["--spread=9"], "`--spread` must be from 0 to 2"),
        ("simulate", ["--validate=2,4"], "`--validate` must begin with 1"),
        ("simulate", ["--out=a.txt"], ".json file"),
        ("simulate", ["--workdir=nowhere"], "holds no study"),
        ("simulate", ["--machine=quantum"], "machine"),
        ("simulate", ["--config.search.rond=1"], "did you mean"),
        ("simulate", ["--images=9", "--fit_seconds=-1"], "fit_seconds"),
        ("bench_scaling", ["--devices=3"], "must be a multiple of the devices"),
        ("bench_scaling", ["--steps=1"], "steps"),
        ("bench_scaling", ["--out=no/a.json"], "existing folder"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(name, arguments, message, tmp_path):
    done = script(name, TINY, *arguments, cwd=tmp_path)
    assert_one_line_and_exit_2(done, message)
    assert list(tmp_path.iterdir()) == []


def test_a_simulation_writes_its_report_and_a_figure(tmp_path):
    flags = ["--machine=cpu", "--devices=1,2", "--seeds=1", "--images=400", "--channels=1"]
    done = script("simulate", TINY, *flags, "--out=a.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {p.name for p in tmp_path.iterdir()} == {"a.json", "a.png"}
    assert {row["devices"] for row in json.loads((tmp_path / "a.json").read_text())["rows"]} == {
        1,
        2,
    }
    assert "sync: " in done.stdout


# -- scaling ---------------------------------------------------------------------------------------


def test_scaling_is_measured_in_a_process_for_each_number_of_devices(monkeypatch):
    calls = []

    def run(command, **settings):
        calls.append((command[-1], settings["env"]["JAX_NUM_CPU_DEVICES"]))
        devices = int(command[-1])
        out = json.dumps({"side_by_side": 10.0 * devices, "together": 10.0 + devices})
        return subprocess.CompletedProcess(command, 0, stdout=f"a warning\n{out}\n")

    monkeypatch.setattr(processes.subprocess, "run", run)
    report = scaling.measure(scaling.Task({}, {}, {}, 3, 2, 1), [1, 4])
    assert calls == [("1", "1"), ("4", "4")]
    assert [row["devices"] for row in report["rows"]] == [1, 4]
    assert report["rows"][1]["side_by_side"] == {"steps_per_second": 40.0, "speedup": 4.0}
    assert report["rows"][1]["together"]["speedup"] == pytest.approx(14 / 11)


@pytest.mark.slow
def test_scaling_is_measured_and_a_fleet_takes_its_speeds(tmp_path):
    flags = ["--devices=1,2", "--steps=4", "--epochs=1", "--out=scaling.json"]
    done = script("bench_scaling", TINY, *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for row in json.loads((tmp_path / "scaling.json").read_text())["rows"]:
        assert all(row[way]["steps_per_second"] > 0 for way in scaling.WAYS)
    done = script(
        *("simulate", TINY, "--scaling=scaling.json", "--images=400", "--channels=1"),
        *("--devices=1,2", "--seeds=1"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_real_study_is_run_and_played(tmp_path):
    """How near it comes says the README: a test must not depend on what else a machine does."""
    flags = ["--validate=1,2", "--config.search.rounds=2", "--noconfig.study.random_reference"]
    done = script("simulate", TINY, *flags, "--out=v.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = json.loads((tmp_path / "v.json").read_text())["rows"]
    assert abs(first["error"]) < 0.02  # its own times
    assert second["measured"] > 0


def test_a_process_that_fails_says_why():
    with pytest.raises(StudyError, match=r"`benchmarks.scaling` with no failed: .*'no'"):
        processes.in_a_process("benchmarks.scaling", "no", scaling.Task({}, {}, {}, 3, 2, 1))
