"""The comparison runs, and its contestants do the same work."""

import json

import jax
import numpy as np
import pytest
from calls import assert_one_line_and_exit_2, module

from benchmarks import evolution as bench

SETTING = bench.Setting(population=8, children_per_parent=2, generations=3)


def test_the_predictor_is_the_mean_of_its_networks():
    weights = SETTING.weights(2, (4, 3))
    features = np.random.default_rng(0).normal(size=(5, len(SETTING.features.groups)))
    expected = []
    for kernels in weights:
        x = features
        for kernel in kernels[:-1]:
            x = np.maximum(x @ kernel, 0)
        expected.append((x @ kernels[-1])[:, 0])
    np.testing.assert_allclose(
        bench.mlp(features, weights, jax.nn.relu), np.mean(expected, axis=0), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("name", bench.MAKERS)
def test_a_contestant_scores_all_children_of_all_generations(name):
    if name in ("pymoo", "numpy+torch"):
        pytest.importorskip("pymoo" if name == "pymoo" else "torch")
    count = bench.MAKERS[name](SETTING, SETTING.weights(1, (4,)))()
    assert count == (5 * 8 if name == "pymoo" else 3 * 16)


def test_all_parents_are_within_the_budget():
    assert len(SETTING.parents) == 8
    assert SETTING.feasible(SETTING.parents).all()
    assert not SETTING.feasible(SETTING.space.sample(np.random.default_rng(0), 100)).all()


@pytest.mark.slow
def test_it_runs_from_the_command_line(tmp_path):
    sizes = ["--population=8", "--children_per_parent=2", "--generations=2", "--repeats=1"]
    command = [*sizes, "--contestants=evolution", f"--out={tmp_path}/r.json"]
    done = module("benchmarks.evolution", *command)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "r.json").read_text())
    assert set(report) == {"children_per_second", "fine_stage", "costs_per_second"}


def test_rates_are_per_second_and_per_predictor():
    report = bench.compare(SETTING, 1, ["predictor"])
    assert set(report) == set(bench.PREDICTORS)
    assert all(rates["predictor"] > 0 for rates in report.values())


@pytest.mark.parametrize(
    ("flag", "message"),
    [("--contestants=pymo", "did you mean `pymoo`?"), ("--out=no/r.json", "existing folder")],
)
def test_bad_flags_are_one_line_and_exit_2(flag, message):
    assert_one_line_and_exit_2(module("benchmarks.evolution", flag), message)
