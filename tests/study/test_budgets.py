"""Other budgets, searched by the predictor of a finished study."""

import dataclasses
import io
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from absl import flags
from fake_training import fake_train_fn
from rich.console import Console

from jointnas_jax.command_line import parse_config
from jointnas_jax.errors import DamagedError, SpaceError, WorkdirError
from jointnas_jax.execution.local import LocalExecutor
from jointnas_jax.files import read_json, write_json
from jointnas_jax.nets import zoo
from jointnas_jax.nets.cost import COSTS, count
from jointnas_jax.predictor.predictor import Predictor
from jointnas_jax.problem import problem as problems
from jointnas_jax.space import Candidate, read_candidate
from jointnas_jax.storage.workdir import SCHEMA
from jointnas_jax.study.budgets import BudgetSearch, print_budgets, search_budgets, write_budgets
from jointnas_jax.study.run import run_study
from jointnas_jax.telemetry.stage_timer import StageTimer

ROOT = Path(__file__).parent.parent.parent
TINY = str(Path(__file__).parent.parent / "support" / "tiny.py")
FLOPS, PARAMS = COSTS.index("flops"), COSTS.index("params")


def accuracy(job):
    """Wider is better, and so is a higher learning rate."""
    arch, recipe = job.candidate.arch, job.candidate.recipe
    return 0.3 + arch.stages[0].channels / 100 + arch.head.channels / 200 + 4 * recipe.lr


def finish(workdir, *arguments):
    """Runs a study whose trainings cost nothing, within 9,200 FLOPs."""
    quick = ("--noconfig.study.random_reference", "--config.budget.flops=9200")
    config = parse_config(["run", *quick, *arguments], TINY, flags.FlagValues())
    run_study(config, workdir, Console(quiet=True), train_fn=fake_train_fn(accuracy))
    return workdir


@pytest.fixture(scope="module")
def kept():
    """Predictors as they were before they were saved."""
    return []


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, kept):
    save = Predictor.save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Predictor,
            "save",
            lambda self, path, state: kept.append((self, state)) or save(self, path, state),
        )
        return finish(tmp_path_factory.mktemp("study"), "--config.search.rounds=4")


@pytest.fixture(scope="module")
def study(workdir):
    return BudgetSearch(workdir)


@pytest.fixture(scope="module")
def everything(study):
    """All candidates of the space, their costs and predicted scores."""
    vectors = np.array([*itertools.product(*map(range, study.problem.space.cardinalities))])
    vectors = vectors.astype(np.int32)
    return vectors, study.problem.costs(vectors), study.predictor.predict(study.fitted, vectors)[0]


def levels(costs):
    """Four limits that leave out more or less of the eight architectures."""
    return [int(limit) for limit in np.unique(costs)[[1, 3, 5, 6]]]


@pytest.fixture(scope="module")
def budgets(everything):
    """Four limits of FLOPs, of params, and of both."""
    _, costs, _ = everything
    flops, params = levels(costs[:, FLOPS]), levels(costs[:, PARAMS])
    return [
        *({"flops": limit} for limit in flops),
        *({"params": limit} for limit in params),
        *({"flops": f, "params": p} for f, p in zip(flops, reversed(params), strict=True)),
    ]


@pytest.fixture(scope="module")
def report(workdir, budgets):
    def never(*_, **__):
        raise AssertionError("the predictor is all it takes")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalExecutor, "train", never)
        patch.setattr(problems, "open_dataset", never)
        before = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}
        report = search_budgets(workdir, budgets)
    assert before == {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}
    return report


def within(costs, budget):
    return all(costs[COSTS.index(name)] <= limit for name, limit in budget.items())


def test_the_stored_predictor_is_the_one_that_was_saved(study, kept, everything):
    ((before, state),) = kept
    stored = study.fitted
    assert jax.tree.structure(stored) == jax.tree.structure(state)
    for a, b in zip(jax.tree.leaves(stored), jax.tree.leaves(state), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
    for a, b in zip(
        before.predict(state, everything[0]),
        study.predictor.predict(stored, everything[0]),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_what_is_found_is_within_its_budget_and_the_best_of_all_that_are(
    report, budgets, everything
):
    vectors, costs, predicted = everything
    assert [entry["budget"] for entry in report["budgets"]] == budgets
    for entry, budget in zip(report["budgets"], budgets, strict=True):
        arch = Candidate.from_dict(entry["candidate"]).arch
        assert dataclasses.asdict(count(arch)) == entry["costs"]
        assert all(entry["costs"][name] <= limit for name, limit in budget.items())
        fits = [within(c, budget) for c in costs]
        assert 0 < sum(fits) < len(vectors)
        assert entry["predicted"] == pytest.approx(predicted[fits].max(), abs=1e-6)
        assert entry["children"] == entry["generations"] * 64


def test_a_larger_budget_is_never_predicted_worse(workdir, tmp_path, budgets, everything):
    """Even where its own evolution finds less, as it does here from the two worst candidates."""
    hasty = shutil.copytree(workdir, tmp_path / "study")
    config = read_json(hasty / "config.json", SCHEMA)
    short = {"population": 2, "children_per_parent": 1, "generations": 1}
    config["search"]["evolution"] |= short
    write_json(hasty / "config.json", config, digest=True, schema=SCHEMA)
    study = BudgetSearch(hasty)
    vectors, costs, predicted = everything
    small, large = budgets[1], budgets[3]
    fits = np.array([within(c, small) for c in costs])
    best = vectors[fits][predicted[fits].argmax()]
    worst = vectors[fits][predicted[fits].argsort()[:2]]
    starts = np.stack([np.stack([best, worst[0]]), worst])
    alone = study.search(starts[[1, 1]], [large, large], seed=0).predicted[0]
    together = study.search(starts, [small, large], seed=0)
    assert alone < predicted[fits].max() - 0.01
    assert together.predicted[1] >= together.predicted[0]
    assert together.predicted[0] == pytest.approx(predicted[fits].max(), abs=1e-6)


def test_predictions_rise_with_the_budget(report):
    predicted = [entry["predicted"] for entry in report["budgets"]]
    for rising in (predicted[:4], predicted[4:8]):
        assert rising == sorted(rising)
        assert rising[-1] > rising[0]


def test_equally_many_budgets_share_one_program(workdir, everything):
    _, costs, _ = everything
    study, timer = BudgetSearch(workdir), StageTimer()
    flops, params = levels(costs[:, FLOPS]), levels(costs[:, PARAMS])
    with timer.listening(), timer.stage("all"):
        for budgets in (
            [{"flops": limit} for limit in flops[:3]],
            [{"flops": limit} for limit in flops[1:]],
            [{"params": limit} for limit in params[:3]],
            [{"flops": flops[3], "params": limit} for limit in params[:3]],
        ):
            study.search(study.starts(budgets, 1), budgets, 1)
    assert timer.compilations == {"all": 1}


def test_a_report_counts_one_program(report):
    assert report["compilations"]["by_stage"] == {"study": 0, "pool": 0, "search": 1}
    assert report["seconds"].keys() == report["compilations"]["by_stage"].keys()


def test_twenty_budgets_are_one_call_of_one_program(workdir, everything, monkeypatch):
    _, costs, _ = everything
    limits = np.linspace(costs[:, FLOPS].min(), costs[:, FLOPS].max(), 20).astype(int)
    budgets = [{"flops": int(limit)} for limit in limits]
    read, calls = BudgetSearch.__init__, []

    def watch(self, *arguments):
        read(self, *arguments)
        program = self._program
        self._program = lambda *arguments: calls.append(arguments) or program(*arguments)

    monkeypatch.setattr(BudgetSearch, "__init__", watch)
    report = search_budgets(workdir, budgets)
    assert len(report["budgets"]) == 20
    ((_, starts, limbs, _),) = calls
    assert (len(starts), len(limbs)) == (20, 20)
    assert report["compilations"]["by_stage"] == {"study": 0, "pool": 0, "search": 1}


def test_the_seed_decides(study, budgets):
    starts = [study.starts(budgets, seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(starts[0], starts[1])
    assert not np.array_equal(starts[0], starts[2])


def test_nothing_trains_and_no_dataset_is_opened(report):
    """The fixture would have failed."""
    assert report["budgets"]


def test_a_budget_without_a_candidate_is_named_before_anything_compiles(study, budgets):
    timer = StageTimer()
    message = r"the closest one needs flops of at least [\d,]+ where the limit is 1,000"
    with timer.listening(), timer.stage("all"), pytest.raises(SpaceError, match=message):
        study.starts([budgets[0], {"flops": 1000}], 0)
    assert timer.compilations == {"all": 0}


# -- what is written -----------------------------------------------------------------------------


def test_what_is_written_can_be_read_again(report, tmp_path):
    paths = write_budgets(report, tmp_path / "out")
    assert json.loads(paths[0].read_text()) == report
    assert [p.relative_to(tmp_path / "out").parts[:-1] for p in paths[1:]] == [("budgets",)] * 12
    for path, entry in zip(paths[1:], report["budgets"], strict=True):
        assert path.stem == entry["name"]
        assert Candidate(*read_candidate(path)).to_dict() == entry["candidate"]
        assert zoo.find(str(path)) == read_candidate(path)[0]


def test_a_folder_that_cannot_be_written_is_named(report, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkdirError, match="file` cannot be written"):
        write_budgets(report, tmp_path / "file")


def test_the_table_says_where_the_predictor_has_seen_nothing(report):
    over = [entry["costs"]["flops"] > 9_200 for entry in report["budgets"]]
    assert True in over
    assert False in over
    assert [not entry["within_study_budget"] for entry in report["budgets"]] == over
    console = Console(record=True, width=200, file=io.StringIO())
    print_budgets(report, console)
    text = console.export_text()
    assert text.count(" * ") == sum(over) + 1
    assert "over the budget of the study, flops <= 9200" in text
    for entry in report["budgets"]:
        assert f"{entry['costs']['flops']:,}" in text
        assert f"{entry['accuracy']['predicted']:.2%} ± {entry['accuracy']['spread']:.2%}" in text


def test_the_script_prints_and_writes_all_budgets(workdir, budgets, tmp_path):
    limits = ",".join(str(b["flops"]) for b in budgets[:3])
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "scripts" / "search_budgets.py"),
            *(f"--workdir={workdir}", f"--flops={limits}", "--params=1M", f"--out={tmp_path}"),
        ],
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads((tmp_path / "budgets.json").read_text())
    assert len(report["budgets"]) == len([*(tmp_path / "budgets").glob("*.json")]) == 3
    for entry in report["budgets"]:
        assert entry["budget"]["params"] == 1_000_000
        assert f"{entry['costs']['flops']:,}" in done.stdout


# -- other workdirs ------------------------------------------------------------------------------


def remove(name):
    def change(workdir):
        path = workdir / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def write(name, text):
    return lambda workdir: (workdir / name).write_text(text)


def empty_predictor(workdir):
    for path in (workdir / "predictor").iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove("config.json"), "holds no study: it has no `config.json`"),
        (remove("result.json"), "no finished study .* no `result.json`; run it again"),
        (remove("predictor"), "no finished study .* no `predictor`; run it again"),
        (remove("provenance.json"), "no `provenance.json`"),
        (write("winner0.json", "{}"), "cannot be read: .*winner0.json"),
        (write("config.json", '{"sed": 1}'), "config.json` is without a schema"),
        (write("result.json", "{}"), "result.json` is without a schema"),
    ],
)
def test_a_workdir_without_a_finished_study_is_one_clear_line(workdir, tmp_path, change, message):
    assert_refused(workdir, tmp_path / "study", change, WorkdirError, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (write("config.json", "{"), "config.json` is damaged"),
        (write("config.json", "[]"), "config.json` is damaged"),
        (write("trials.db", "{}\n"), "trials.db` is damaged"),
        (remove("trials.db"), "trials.db` is missing; put back a copy"),
        (empty_predictor, "predictor` is damaged"),
    ],
)
def test_a_damaged_study_is_one_clear_line(workdir, tmp_path, change, message):
    assert_refused(workdir, tmp_path / "study", change, DamagedError, message)


def assert_refused(workdir, copy, change, error, message):
    shutil.copytree(workdir, copy)
    change(copy)
    with pytest.raises(error, match=message) as raised:
        BudgetSearch(copy)
    assert "\n" not in str(raised.value)


def test_a_file_is_no_workdir(workdir):
    with pytest.raises(WorkdirError, match="result.json"):
        BudgetSearch(workdir / "result.json")
