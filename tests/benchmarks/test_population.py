"""The comparison runs from nothing, and its contestants train the same networks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import population as bench
from jointnas_jax.runtime import processes

ROOT = Path(__file__).parent.parent.parent
SPACE = dict(
    resolution=8,
    stem=dict(channels=8, stride=2),
    stages=(dict(kernel=3, expand=[1, 2], channels=[8, 16], depth=1),),
    head=dict(channels=16, expand=1),
    recipe=dict(lr=0.01, optimizer=["sgd", "rmsprop"], ema=False),
)
TASK = bench.Task(candidates=2, steps=60, batch=4, space=SPACE)


def script(*arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "bench_population.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


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


def test_a_contestant_gets_a_process_the_task_and_no_cache(monkeypatch):
    calls = []

    def run(command, **settings):
        calls.append((command[-1], settings["env"], settings["input"]))
        out = json.dumps(dict(seconds=1.0, weights=[[1.0, -2.0]]))
        return subprocess.CompletedProcess(command, 0, stdout=f"a warning\n{out}\n")

    monkeypatch.setattr(processes.subprocess, "run", run)
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "4")
    found = bench.compare(TASK, ("program", "jit"))
    assert [name for name, *_ in calls] == ["program", "jit"]
    assert [env["JAX_NUM_CPU_DEVICES"] for _, env, _ in calls] == ["4", "1"]
    for _, env, task in calls:
        assert env["JAX_ENABLE_COMPILATION_CACHE"] == "false"
        assert bench.Task(**bench.ast.literal_eval(task)) == TASK
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
    done = script(flag)
    assert done.returncode == 2
    assert message in done.stderr


def test_help_names_the_flags():
    done = script("--help")
    for flag in ("candidates", "short_steps", "long_steps", "batch", "lanes", "contestants", "out"):
        assert f"--{flag}" in done.stdout or f"--[no]{flag}" in done.stdout
