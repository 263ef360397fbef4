"""The time of persistence is counted, and once."""

import json

import pytest
from calls import TINY, assert_one_line_and_exit_2, module

from benchmarks import persistence


def test_everything_that_is_timed_is_there():
    for place, names in persistence.TIMED.items():
        for name in names:
            assert callable(getattr(persistence.owner(place), name)), (place, name)


def test_a_timed_function_inside_another_counts_once():
    ticks, spent = iter(range(10)), {}
    clock = lambda: float(next(ticks))
    inner = persistence.timed(lambda: "kept", "inner", spent, clock=clock)
    outer = persistence.timed(inner, "outer", spent, clock=clock)
    assert outer() == "kept"
    assert inner() == "kept"
    assert spent == {"outer": 1.0, "inner": 1.0}


def test_a_bad_config_is_one_line_and_exit_2():
    done = module("benchmarks.persistence", "--config.study.sed=1")
    assert_one_line_and_exit_2(done, "did you mean")


@pytest.mark.slow
def test_it_runs_from_the_command_line(tmp_path):
    done = module("benchmarks.persistence", TINY, "--out=r.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["persistence"]["TrialStore.append"] > 0
    assert 0 < report["share"] < 1
