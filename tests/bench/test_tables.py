import itertools
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jointnas_jax.bench import predictors, searches, tables
from jointnas_jax.config import PredictorConfig
from jointnas_jax.errors import DataError, InputError


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """NAS-Bench-Macro's file in form, with made-up numbers that depend on the network alone."""
    folder = tmp_path_factory.mktemp("macro")
    entries = {}
    for key in itertools.product("012", repeat=8):
        stages = (key[0:2], key[2:5], key[5:8])
        value = sum(
            (1 + s) * int(c) + 0.1 * int(c) * i
            for s, stage in enumerate(stages)
            for i, c in enumerate([stage[0], *(c for c in stage[1:] if c != "0")])
        )
        runs = [90 + 0.1 * value + 0.01 * r for r in range(3)]
        entries["".join(key)] = dict(test_acc=runs)
    keys = np.array(list(itertools.product(range(3), repeat=8)))
    for entry, (flops, params) in zip(entries.values(), tables.macro_costs(keys), strict=True):
        entry |= dict(flops=int(flops), params=int(params))
    (folder / "nas-bench-macro_cifar10.json").write_text(json.dumps(entries))
    return tables.load("macro", folder)


def test_identities_commute_behind_the_first_layer_of_a_stage(table):
    assert len(table.vectors) == 3969
    equal = np.array([[1, 0, 2, 0, 1, 0, 0, 2], [1, 0, 2, 1, 0, 0, 2, 0]], np.int32)
    a, b = table.space.canonical(equal)
    np.testing.assert_array_equal(a, b)
    other = table.space.canonical(np.array([[1, 0, 0, 2, 1, 0, 0, 2]], np.int32))
    assert not np.array_equal(a, other[0])


def test_every_network_is_found_in_its_row(table):
    for array in (np.asarray, jnp.asarray):
        rows = table.rows(array(table.vectors))
        np.testing.assert_array_equal(rows, np.arange(len(table.vectors)))


MACRO = Path(__file__).parents[2].parent / "shared" / "data" / "nas-bench-macro"


@pytest.mark.skipif(not MACRO.exists(), reason="NAS-Bench-Macro's file is not at hand")
def test_our_counter_gives_the_costs_of_all_6561_keys_of_the_real_file():
    entries = json.loads((MACRO / "nas-bench-macro_cifar10.json").read_text())
    assert len(entries) == 3**8
    counted = tables.macro_costs(np.array([[int(c) for c in key] for key in entries]))
    assert counted.dtype == np.int64
    assert counted.tolist() == [[e["flops"], e["params"]] for e in entries.values()]


# Entries of NAS-Bench-Macro's file. Loading it compares one key of every network; equal networks
# of different keys are compared above.
@pytest.mark.parametrize(
    ("key", "flops", "params"),
    [
        ("00000000", 7_713_280, 387_882),
        ("10000000", 12_128_768, 396_298),
        ("02000000", 22_753_792, 448_298),
        ("00200000", 17_240_576, 464_554),
        ("00000200", 16_933_376, 672_298),
        ("11111111", 53_246_464, 1_588_874),
        ("22222222", 105_660_928, 2_932_586),
    ],
)
def test_our_counter_gives_the_costs_of_the_table(key, flops, params):
    costs = tables.macro_costs(np.array([[int(c) for c in key]]))
    assert costs.tolist() == [[flops, params]]


def test_a_file_with_other_costs_is_refused(tmp_path):
    keys = ["".join(k) for k in itertools.product("012", repeat=8)]
    costs = tables.macro_costs(np.array([[int(c) for c in key] for key in keys]))
    entries = {
        key: dict(test_acc=[90.0] * 3, flops=int(flops) + (key == "21012012"), params=int(params))
        for key, (flops, params) in zip(keys, costs, strict=True)
    }
    (tmp_path / "nas-bench-macro_cifar10.json").write_text(json.dumps(entries))
    with pytest.raises(DataError, match="counted"):
        tables.load("macro", tmp_path)


def test_cost_features_are_standardised(table):
    features = table.cost_features()(table.vectors)
    np.testing.assert_allclose(features.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(features.std(0), 1, atol=1e-5)


def test_missing_data_is_named(tmp_path):
    with pytest.raises(DataError, match="NAS-Bench-Macro"):
        tables.load("macro", tmp_path)
    with pytest.raises(DataError, match="known: macro"):
        tables.load("cifar", tmp_path)


def test_predictors_are_compared_and_ours_learns(table, monkeypatch):
    small = PredictorConfig(members=2, width=16, embedding=8, pretrain_samples=128)
    monkeypatch.setattr(predictors, "OURS", {"ours": small})
    results = predictors.compare(table, (30,), 2, ["ours", "ridge", "ridge-plain"])
    assert results["ours"][30]["tau"] > 0.8
    assert results["ridge"][30]["tau"] > results["ridge-plain"][30]["tau"] - 0.05
    assert 0 < results["ours"][30]["inside"] <= 1
    with pytest.raises(InputError, match="ridge"):
        predictors.compare(table, (30,), 1, ["rigde"])


@pytest.mark.parametrize("limit", [None, 30e6])
@pytest.mark.parametrize("name", ["random", "evolution"])
def test_searches_evaluate_only_what_is_allowed(table, name, limit):
    task = searches.Task(table, limit, noisy=False)
    regrets = searches.MAKERS[name](task)(task, 0)
    assert len(regrets) == len(searches.AT)
    assert min(regrets) >= 0
    assert regrets == sorted(regrets, reverse=True)


def test_a_noisy_evaluation_is_one_of_the_runs(table):
    task = searches.Task(table, None, noisy=True)
    scores = task.evaluate(table.vectors[:50], np.random.default_rng(0))
    offsets = [s - runs[0] for s, runs in zip(scores, table.runs[:50], strict=True)]
    assert {round(offset, 6) for offset in offsets} == {0.0, 0.01, 0.02}


def test_training_the_networks_changes_no_choice_without_noise(table, monkeypatch):
    monkeypatch.setattr(searches, "AT", (3, 9))
    regret = searches.Task.regret
    found = []
    monkeypatch.setattr(searches.Task, "regret", lambda *a: found.append(a[1]) or regret(*a))
    small = PredictorConfig(members=2, width=16, pretrain_samples=64, pretrain_epochs=1)
    task = searches.Task(table, 40e6, noisy=False)
    for predictor in (small, searches.CHOOSER):
        searches.ours(task, predictor)(task, 0)
    np.testing.assert_array_equal(*found)
