"""Scaling is measured in processes of their own, and a fleet takes its speeds."""

import functools
import json

import calls
import pytest
from calls import TINY, assert_one_line_and_exit_2

from benchmarks import scaling
from jointnas_jax.config import Config

# The benchmark sets it for the processes that it starts.
module = functools.partial(calls.module, "benchmarks.scaling", without="JAX_NUM_CPU_DEVICES")


def test_help_names_the_flags():
    done = module("--help")
    assert done.returncode == 0
    flags = ("--devices", "--steps", "--epochs", "--out", "benchmarks/scaling.py")
    assert all(flag in done.stdout for flag in flags)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--devices=3", "must be a multiple of the devices"),
        ("--devices=a", "`--devices` must be integers"),
        ("--steps=1", "steps"),
        ("--out=no/a.json", "existing folder"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(flag, message, tmp_path):
    assert_one_line_and_exit_2(module(TINY, flag, cwd=tmp_path), message)
    assert list(tmp_path.iterdir()) == []


def test_scaling_is_measured_in_a_process_for_each_number_of_devices():
    calls = []

    def call(function, settings, devices, steps, epochs, JAX_NUM_CPU_DEVICES):
        calls.append((devices, JAX_NUM_CPU_DEVICES))
        return {"side_by_side": 10.0 * devices, "together": 10.0 + devices}

    report = scaling.measure(Config(), [1, 4], steps=2, epochs=1, call=call)
    assert calls == [(1, "1"), (4, "4")]
    assert [row["devices"] for row in report["rows"]] == [1, 4]
    assert report["rows"][1]["side_by_side"] == {"steps_per_second": 40.0, "speedup": 4.0}
    assert report["rows"][1]["together"]["speedup"] == pytest.approx(14 / 11)


@pytest.mark.slow
def test_scaling_is_measured_and_a_fleet_takes_its_speeds(tmp_path):
    done = module(TINY, "--devices=1,2", "--steps=4", "--epochs=1", "--out=s.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for row in json.loads((tmp_path / "s.json").read_text())["rows"]:
        assert all(row[way]["steps_per_second"] > 0 for way in scaling.WAYS)
    flags = ["--images=400", "--channels=1", "--devices=1,2", "--seeds=1"]
    done = calls.script("simulate", TINY, "--scaling=s.json", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
