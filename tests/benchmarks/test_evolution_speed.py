"""The comparison runs, and its contestants do the same work."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import evolution as bench

TASK = bench.Task(population=8, children_per_parent=2, generations=3)


def test_the_predictor_is_the_mean_of_its_networks():
    weights = TASK.weights(2, (4, 3))
    features = np.random.default_rng(0).normal(size=(5, len(TASK.features.groups)))
    expected = []
    for kernels in weights:
        x = features
        for kernel in kernels[:-1]:
            x = np.maximum(x @ kernel, 0)
        expected.append((x @ kernels[-1])[:, 0])
    np.testing.assert_allclose(
        bench.mlp(features, weights), np.mean(expected, axis=0), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("name", bench.CONTESTANTS)
def test_a_contestant_scores_all_children_of_all_generations(name):
    if name in ("pymoo", "numpy+torch"):
        pytest.importorskip("pymoo" if name == "pymoo" else "torch")
    count = bench.MAKERS[name](TASK, TASK.weights(1, (4,)))()
    assert count == (5 * 8 if name == "pymoo" else 3 * 16)


def test_all_parents_are_within_the_budget():
    assert len(TASK.parents) == 8
    assert TASK.feasible(TASK.parents).all()
    assert not TASK.feasible(TASK.space.sample(np.random.default_rng(0), 100)).all()


@pytest.mark.slow
def test_the_script_measures(tmp_path):
    sizes = ["--population=8", "--children_per_parent=2", "--generations=2", "--repeats=1"]
    script = Path(__file__).parents[2] / "scripts" / "bench_evolution.py"
    command = [sys.executable, script, *sizes, "--contestants=evolution", f"--out={tmp_path}/r"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    report = json.loads((tmp_path / "r").read_text())
    assert set(report) == {"children_per_second", "fine_stage", "costs_per_second"}


def test_rates_are_per_second_and_per_predictor():
    report = bench.compare(TASK, 1, ["predictor"])
    assert set(report) == set(bench.PREDICTORS)
    assert all(rates["predictor"] > 0 for rates in report.values())
