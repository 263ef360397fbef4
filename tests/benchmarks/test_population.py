"""The comparison runs from nothing, and its contestants train the same networks."""

import pytest
from calls import module

from benchmarks import population as bench

SPACE = dict(
    resolution=8,
    stem=dict(channels=8, stride=2),
    stages=(dict(kernel=3, expand=[1, 2], channels=[8, 16], depth=1),),
    head=dict(channels=16, expand=1),
    recipe=dict(lr=0.01, optimizer=["sgd", "rmsprop"], ema=False),
)
TASK = bench.Task(candidates=2, steps=60, batch=4, space=SPACE)


@pytest.mark.slow
def test_contestants_train_the_same_networks_and_leave_no_compiled_program(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    found = bench.compare(TASK, ("program", "jit"))
    program, jit = found["program"], found["jit"]
    assert program["largest_deviation"] < 1e-2
    assert program["failed"] == []
    assert 0.3 < program["useful"] <= 1
    assert jit["compilations"] >= TASK.candidates
    for result in found.values():
        assert result["seconds"] > 0
        assert result["compilations"] > 0
    assert list(tmp_path.iterdir()) == []


def test_a_contestant_gets_a_process_the_task_and_no_cache():
    calls = []

    def call(function, name, task, **environment):
        calls.append((function, name, environment.get("JAX_NUM_CPU_DEVICES")))
        assert environment["JAX_ENABLE_COMPILATION_CACHE"] == "false"
        assert bench.Task(**task) == TASK
        return dict(seconds=1.0, weights=[[1.0, -2.0]])

    found = bench.compare(TASK, ("program", "jit"), call)
    run = "benchmarks.population:run"
    assert calls == [(run, "program", None), (run, "jit", "1")]
    assert found == {"program": dict(seconds=1.0, largest_deviation=0.0), "jit": dict(seconds=1.0)}


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--contestants=program,tf", "`--contestants` must be of"),
        ("--short_steps=61", "steps must be multiples of 60, got 61"),
        ("--long_steps=-60", "got -60"),
        ("--batch=1", "batch"),
        ("--lanes=-1", "lanes"),
        ("--config=nowhere.py", "nowhere.py"),
    ],
)
def test_bad_flags_are_named(flag, message):
    done = module("benchmarks.population", flag)
    assert done.returncode == 2
    assert message in done.stderr


def test_help_names_the_flags():
    done = module("benchmarks.population", "--help")
    for flag in ("candidates", "short_steps", "long_steps", "batch", "lanes", "contestants", "out"):
        assert f"--{flag}" in done.stdout or f"--[no]{flag}" in done.stdout
