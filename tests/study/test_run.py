"""Whole studies, in all modes, on very little data."""

import dataclasses
import json
import shutil
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from absl import flags
from fake_training import fake_train_fn
from rich.console import Console

import jointnas_jax
from jointnas_jax.command_line import parse_config
from jointnas_jax.errors import ConfigError, DataError, InputError, SpaceError, StudyError
from jointnas_jax.execution.job import Job, TrainResult
from jointnas_jax.execution.local import LocalExecutor
from jointnas_jax.files import read_json
from jointnas_jax.models.export import export_model, load_classifier
from jointnas_jax.models.model import load
from jointnas_jax.problem.problem import build_problem
from jointnas_jax.space import Candidate
from jointnas_jax.storage import workdir as workdirs
from jointnas_jax.storage.study_reader import stored_trials
from jointnas_jax.storage.weights import load_variables
from jointnas_jax.study.budgets import search_budgets
from jointnas_jax.study.run import run_study
from jointnas_jax.study.stages import Stages
from jointnas_jax.telemetry.progress import Progress

TINY = str(Path(__file__).parent.parent / "support" / "tiny.py")
CONSOLE = Console(quiet=True)


def config(*arguments):
    return parse_config(["run", *arguments], TINY, flags.FlagValues())


def run(workdir, *arguments, accuracy_of=None):
    """Runs a study; its trainings are real, or replaced by a function: job -> accuracy."""
    train_fn = accuracy_of and fake_train_fn(accuracy_of)
    return run_study(config(*arguments), workdir, CONSOLE, train_fn=train_fn)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("study")
    return workdir, run(workdir)


def trials(workdir):
    return [dataclasses.asdict(trial) for trial in stored_trials(workdir)]


def test_result_json_holds_what_the_readme_promises(finished):
    workdir, result = finished
    assert read_json(workdir / "result.json") == result
    (winner,) = result["winners"]
    for entry in (winner, *result["references"].values()):
        assert entry["knobs"].keys() == winner["knobs"].keys()
        Candidate.from_dict(entry["candidate"])
        assert entry["costs"]["flops"] > 0
        assert 0 <= entry["predicted"] <= 1.5
        for kind in ("validation", "test"):
            seeds = entry[kind]["seeds"]
            assert len(seeds) == 2
            assert entry[kind]["mean"] == pytest.approx(np.mean(seeds))
    assert winner["costs"]["flops"] <= result["budget"]["flops"] == 60_000
    assert set(result["references"]) == set(result["comparison"]) == {"default", "random"}
    assert [r["round"] for r in result["rounds"]] == [1, 2, 3]
    assert result["rounds"][0]["spearman"] is None
    assert result["seconds"].keys() == result["compilations"]["by_stage"].keys()
    assert result["seconds"]["coarse stage"] > 0
    assert result["compilations"]["by_stage"]["coarse stage"] > 0


def test_every_training_is_a_trial(finished):
    workdir, result = finished
    stored = trials(workdir)
    assert [t["number"] for t in stored] == list(range(len(stored)))
    stages = [t["stage"] for t in stored]
    # Three rounds of 3; finalists: 1 evolved, 1 measured; references: default, best of 10 random.
    # All but the first of them were trained with the first seed before.
    assert {s: stages.count(s) for s in stages} == {
        "coarse": 9,
        "validate": 2 + 3 * 1,
        "random": 10,
        "retrain": 3 * 2,
    }
    for t in stored:
        assert t["status"] == "COMPLETED"
        assert t["score"] == t["scores"][-1]
        assert t["pack"] == "exact" or t["pack"].startswith("envelope-")
        assert len(t["accuracies"]) == (1 if t["stage"] == "retrain" else t["epochs"])
        assert t["costs"]["flops"] <= 60_000 or t["stage"] in ("validate", "retrain")
    later = {t["epochs"] for t in stored if t["round"] in (2, 3)}
    assert later == {result["early_stop"]["epochs"]}
    assert [t["predicted"] is None for t in stored if t["stage"] == "coarse"] == [True] * 3 + [
        False
    ] * 6


def test_the_winner_was_the_best_finalist_by_its_score(finished):
    _, result = finished
    means = [f["score"]["mean"] for f in result["finalists"]]
    assert means == sorted(means, reverse=True)
    assert result["winners"][0]["knobs"] == result["finalists"][0]["knobs"]
    assert result["finalists"][-1]["test"]["seeds"] == []


def test_the_winners_weights_reach_the_reported_accuracy(finished):
    workdir, result = finished
    model, dataset = load(workdir), build_problem(config()).dataset
    train, test = dataset.load("train[:400]"), dataset.load("test")
    assert model.mean == pytest.approx([train.images.mean()])
    assert model.std == pytest.approx([train.images.std()])
    assert (model.image_size, model.labels) == ((8, 8), tuple("0123456789"))
    for seed, reported in enumerate(result["winners"][0]["test"]["seeds"]):
        variables = load_variables(workdir / "weights" / "winner0" / f"seed{seed}")
        seeded = dataclasses.replace(model, variables=variables)
        predicted = seeded.probabilities(test.images).argmax(-1)
        assert (predicted == test.labels).mean() == pytest.approx(reported, abs=0.003)


def test_the_model_does_not_depend_on_the_winners_own_file(finished, tmp_path):
    """It has no digest; another activation would fit the weights and answer wrongly."""
    workdir = shutil.copytree(finished[0], tmp_path / "study")
    file = workdir / "winner0.json"
    file.write_text(file.read_text().replace('"hswish"', '"relu"'))
    assert load(workdir).arch == load(finished[0]).arch


def test_the_winner_can_be_exported_with_what_was_measured(finished, tmp_path):
    workdir, result = finished
    export_model(jointnas_jax.load(workdir, seed=1), tmp_path / "out", ["stablehlo"])
    program, test = load_classifier(tmp_path / "out"), build_problem(config()).dataset.load("test")
    accuracy = (program.logits(test.images).argmax(-1) == test.labels).mean()
    reported = result["winners"][0]["test"]["seeds"][1]
    assert accuracy == pytest.approx(reported, abs=0.003)
    card = (tmp_path / "out" / "model_card.md").read_text()
    assert f"**{reported:.2%}** on the test images" in card
    assert "| trained on | `train[:400]`, all of it |" in card


def test_where_all_random_candidates_fail_there_is_nothing_to_beat():
    lost, found = TrainResult((), "made to fail", None), TrainResult((0.1, 0.2), None, None)
    predictor = types.SimpleNamespace(predict=lambda fitted, vectors: (np.full(1, 0.5), None))
    searcher = types.SimpleNamespace(predictor=predictor)
    problem = build_problem(config())

    def references(*outcomes):
        runner = types.SimpleNamespace(run=lambda specs: list(outcomes))
        study = Stages(problem, runner, None, Progress(), searcher, rule=None)
        searched = types.SimpleNamespace(fitted=None)
        found = study.references(4, searched).named()
        return [contender.source for contender in found.values()]

    assert references(lost, lost, lost, lost) == ["default candidate"]
    both = ["default candidate", "best of 4 random"]
    assert references(lost, found, lost, lost) == both


def test_the_same_seed_gives_the_same_study_on_any_number_of_devices(finished, tmp_path):
    workdir, result = finished
    again = run(tmp_path, "--config.study.devices=1")
    timeless = lambda rows: [{k: v for k, v in t.items() if k != "seconds"} for t in rows]
    assert timeless(trials(workdir)) == timeless(trials(tmp_path))
    for key in ("winners", "references", "finalists", "rounds", "early_stop", "evolution"):
        assert result[key] == again[key]


@pytest.mark.slow
def test_another_seed_gives_another_study(finished, tmp_path):
    workdir, _ = finished
    run(tmp_path, "--config.seed=1", "--noconfig.study.random_reference")
    assert trials(workdir)[0] != trials(tmp_path)[0]


def test_recipe_mode_fixes_the_architecture(finished, tmp_path):
    workdir, _ = finished
    arch_file = workdir / "winner0.json"
    result = run(
        tmp_path,
        "--config.mode=recipe",
        f"--config.arch_file={arch_file}",
        "--noconfig.study.random_reference",
    )
    arch = json.loads(arch_file.read_text())["arch"]
    assert result["space"] == {"architectures": 1, "recipes": 10}
    assert set(result["winners"][0]["knobs"]) == {"lr", "optimizer"}
    assert result["winners"][0]["candidate"]["arch"] == arch
    assert result["references"]["default"]["candidate"]["arch"] == arch
    flops = result["winners"][0]["costs"]["flops"]
    (found,) = search_budgets(tmp_path, [{"flops": flops}])["budgets"]
    assert found["candidate"]["arch"] == arch
    with pytest.raises(SpaceError, match=f"needs flops of at least {flops:,} where"):
        search_budgets(tmp_path, [{"flops": flops - 1}])


@pytest.mark.slow
def test_arch_mode_fixes_the_recipe(tmp_path):
    result = run(tmp_path, "--config.mode=arch", "--noconfig.study.random_reference")
    assert result["space"] == {"architectures": 8, "recipes": 1}
    recipe = result["references"]["default"]["candidate"]["recipe"]
    assert result["winners"][0]["candidate"]["recipe"] == recipe
    assert set(result["winners"][0]["knobs"]) == {
        "stage1_expand",
        "stage1_channels",
        "head_channels",
    }
    for found in search_budgets(tmp_path, [{"flops": 8_000}, {"params": 900}])["budgets"]:
        assert found["candidate"]["recipe"] == recipe
        assert all(found["costs"][name] <= limit for name, limit in found["budget"].items())


# -- failures ------------------------------------------------------------------------------------


def test_a_failed_trial_never_wins_and_is_stored_with_its_reason(tmp_path):
    """RMSProp fails; what does not fail is worth its learning rate."""

    def accuracy_of(job):
        recipe = job.candidate.recipe
        return None if recipe.optimizer == "rmsprop" else recipe.lr

    result = run(tmp_path, accuracy_of=accuracy_of)
    assert result["winners"][0]["knobs"]["optimizer"] == "sgd"
    failed = [t for t in trials(tmp_path) if t["status"] == "FAILED"]
    assert failed
    assert all(t["knobs"]["optimizer"] == "rmsprop" for t in failed)
    assert all(t["score"] is None and t["reason"] == "made to fail" for t in failed)
    assert sum(r["failed"] for r in result["rounds"]) == len(
        [t for t in failed if t["stage"] == "coarse"]
    )


@pytest.mark.slow
def test_winners_are_sound_finalists_even_where_fewer_are_left_than_wanted(tmp_path):
    """In long trainings all but one kind of candidate fail, and more winners are wanted."""

    def accuracy_of(job):
        recipe = job.candidate.recipe
        if job.epochs < 5:
            return 0.5 + 5 * recipe.lr
        return 0.9 if recipe.lr == 0.05 and recipe.optimizer == "sgd" else None

    result = run(
        tmp_path,
        "--config.train.winner_epochs=7",
        "--config.search.finalists=8",
        "--config.search.winners=8",
        "--config.search.pool_size=80",
        accuracy_of=accuracy_of,
    )
    assert all(None not in w["validation"]["seeds"] for w in result["winners"])
    assert 1 <= len(result["winners"]) < 8
    files = sorted(p.name for p in tmp_path.glob("winner*.json"))
    assert files == [f"winner{i}.json" for i in range(len(result["winners"]))]
    assert result["comparison"]["default"]["verdict"] == "could not be compared with"


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [
        ([0.99, 0.98], [0.80, 0.82], "beat"),
        ([0.99, 0.98], [0.98, 0.97], "is ahead, within the noise, of"),
        ([0.99, 0.98], [0.99, 0.99], "did not beat"),
        ([0.99, None], [0.80, 0.82], "could not be compared with"),
        ([0.99], [0.70], "is ahead, within the noise, of"),  # one seed shows no noise
    ],
)
def test_a_verdict_respects_the_noise(ours, theirs, verdict):
    from jointnas_jax.study.contender import over_seeds
    from jointnas_jax.study.result import _compare

    entries = [{"test": over_seeds(accuracies)} for accuracies in (ours, theirs)]
    assert _compare(*entries, test_images=360)["verdict"] == verdict


@pytest.mark.parametrize(
    ("ours", "theirs", "text"),
    [
        (53_000, 350_000, "53 K against 350 K FLOPs (6.6 times fewer)"),
        (2_000_000, 1_000_000, "2 M against 1 M FLOPs (2.0 times more)"),
        (100_000, 101_000, "100 K against 101 K FLOPs"),
    ],
)
def test_a_comparison_names_both_costs(ours, theirs, text):
    from jointnas_jax.report.words import both_flops

    costs = lambda flops: {"costs": {"flops": flops}}
    result = {"winners": [costs(ours)], "references": {"default": costs(theirs)}}
    assert both_flops(result, "default") == text


@pytest.mark.slow
def test_trainings_of_winners_may_be_longer(tmp_path):
    jobs = []

    def accuracy_of(job):
        jobs.append(job)
        return job.candidate.recipe.lr

    result = run(tmp_path, "--config.train.winner_epochs=6", accuracy_of=accuracy_of)
    assert result["epochs"] == {"search": 3, "final": 6}
    assert {job.full_epochs or job.epochs for job in jobs} == {3, 6}
    assert {t["epochs"] for t in trials(tmp_path) if t["stage"] in ("validate", "retrain")} == {6}


def test_the_score_chooses_and_accuracy_is_told(tmp_path):
    """By a score against accuracy: what trains best in the one is worst in the other."""
    lr = lambda job: job.candidate.recipe.lr
    train_fn = fake_train_fn(lambda job: 0.9 - lr(job), score_of=lr)
    result = run_study(config(), tmp_path, CONSOLE, train_fn=train_fn)
    (winner,), stored = result["winners"], trials(tmp_path)
    assert winner["score"]["mean"] == max(f["score"]["mean"] for f in result["finalists"])
    assert winner["test"]["mean"] == pytest.approx(0.9 - winner["knobs"]["lr"])
    assert winner["score"]["mean"] == pytest.approx(winner["knobs"]["lr"])
    random = [t for t in stored if t["stage"] == "random"]
    best = max(random, key=lambda t: t["score"])
    assert result["references"]["random"]["knobs"]["lr"] == best["knobs"]["lr"]
    for t in stored:
        assert t["score"] == t["scores"][-1] != t["accuracies"][-1]


def test_nothing_trains_twice(tmp_path):
    """The default candidate is the best one: finalist, reference and winner.

    Random search is on its own: it may draw what the search proposed.
    """
    default, jobs = config().default, []

    def accuracy_of(job):
        jobs.append(job)
        recipe, arch = job.candidate.recipe, job.candidate.arch
        best = (recipe.lr, recipe.optimizer) == (default["lr"], default["optimizer"])
        return 0.9 - 0.01 * arch.stages[0].channels if best else 0.1

    result = run(tmp_path, "--noconfig.study.random_reference", accuracy_of=accuracy_of)
    assert result["winners"][0]["knobs"] == result["references"]["default"]["knobs"]
    keys = [tuple(jax.random.key_data(job.key).tolist()) for job in jobs]
    trained = [
        (job.candidate.vector.tobytes(), job.on_full_split, key)
        for job, key in zip(jobs, keys, strict=True)
    ]
    assert len(set(trained)) == len(trained) == result["trials"]
    for entry in (*result["finalists"], *result["references"].values()):
        assert len(entry["validation"]["seeds"]) == 2
    assert len(set(keys)) == 2  # of two seeds, the same for all


def test_each_class_of_the_winner_is_told(finished):
    _, result = finished
    classes, (winner,) = result["winners"][0]["classes"], result["winners"]
    test = build_problem(config()).dataset.load("test")
    assert classes["images"] == (2 * np.bincount(test.labels)).tolist()
    right = np.dot(classes["accuracy"], classes["images"])
    assert right / sum(classes["images"]) == pytest.approx(winner["test"]["mean"], abs=0.003)
    wrong = sum(images for *_, images in classes["confusions"])
    assert right + wrong == pytest.approx(sum(classes["images"]))
    assert "classes" not in result["references"]["default"]


def test_balanced_accuracy_is_told_and_its_score_chooses(tmp_path):
    few = ("--noconfig.study.random_reference", "--config.search.rounds=1")
    result = run(tmp_path, "--config.search.metric=balanced_accuracy", *few)
    (winner,) = result["winners"]
    assert result["metric"] == "balanced_accuracy"
    assert np.mean(winner["classes"]["accuracy"]) == pytest.approx(winner["test"]["mean"], abs=3e-3)


def test_top5_of_few_classes_is_refused(tmp_path):
    few = ("--config.data.classes=4", "--config.search.metric=top5")
    with pytest.raises(ConfigError, match=r"`top5` needs more than 5 classes, .* has 4"):
        run(tmp_path / "study", *few)


def test_a_study_by_accuracy_has_no_other_scores(tmp_path):
    few = ("--noconfig.study.random_reference", "--config.search.rounds=1")
    result = run(tmp_path, "--config.search.score=accuracy", *few)
    assert result["score"] == "accuracy"
    for t in trials(tmp_path):
        assert (t["scores"], t["score"]) == ((), t["accuracies"][-1])


def test_where_everything_fails_the_study_stops_with_the_reason(tmp_path):
    with pytest.raises(StudyError, match="every candidate failed: made to fail"):
        run(tmp_path, accuracy_of=lambda job: None)


def test_the_search_finds_what_is_best(tmp_path):
    def accuracy_of(job):
        recipe = job.candidate.recipe
        return 0.5 + 5 * recipe.lr + 0.2 * (recipe.optimizer == "sgd")

    more = ("--config.search.pool_size=80", "--config.search.per_round=5")
    result = run(tmp_path, *more, accuracy_of=accuracy_of)
    assert result["winners"][0]["knobs"]["lr"] == 0.05
    assert result["winners"][0]["knobs"]["optimizer"] == "sgd"
    assert result["rounds"][-1]["best"] == pytest.approx(0.95)


def test_an_exception_in_training_is_a_failed_trial():
    def broken(*_):
        raise RuntimeError("RESOURCE_EXHAUSTED: out of memory\nmore")

    problem = build_problem(config())
    split = problem.dataset.load("train[:64]")
    images = (split, np.arange(64) < 16, split)
    executor = LocalExecutor(config(), problem.space, images, train_fn=broken)
    outcomes = executor.run([Job(problem.default, jax.random.key(0), 1)] * 3)
    assert [o.reason for o in outcomes] == ["RuntimeError: RESOURCE_EXHAUSTED: out of memory"] * 3


def test_validation_images_may_be_a_split():
    """Part of the images that winners train on, at any place in them."""
    problem = build_problem(config("--config.data.val_split=train[50:120]"))
    train, validation, _ = problem.divided_images()
    assert np.flatnonzero(validation).tolist() == list(range(50, 120))
    assert problem.validation_count(len(train)) == 70
    few = ("--config.data.classes=5", "--config.data.val_split=train[50:120]")
    problem = build_problem(config(*few))
    train, validation, _ = problem.divided_images()
    expected = problem.dataset.load("train[50:120]")
    np.testing.assert_array_equal(train.images[validation], expected.images)
    assert problem.validation_count(len(train)) == len(expected)


# -- bad input, before anything trains -----------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            ["--config.budget.flops=1K"],
            SpaceError,
            r"no candidate satisfies the budget.*at least [\d,]+ where",
        ),
        (["--config.data.dir=/nowhere"], DataError, "existing folder"),
        (["--config.data.train_split=nope"], DataError, "split `nope`"),
        (["--config.data.test_split=nope"], DataError, "split `nope`"),
        (["--config.data.test_split=train[:10%]"], DataError, "test images must not be trained on"),
        (["--config.data.val_split=nope"], DataError, "split `nope`"),
        (
            ["--config.data.val_split=test"],
            DataError,
            "must be a part of `train.:400.`.*0 of its 360",
        ),
        (["--config.data.val_split=train[:400]"], DataError, "beside 0 others"),
        (["--config.train.batch_size=1000"], ConfigError, "at most the 320 training images"),
        (
            ["--config.space.resolution=1"],
            SpaceError,
            "`resolution` must be at least the total stride 2",
        ),
        (["--config.data.image_size=1"], DataError, "1 pixels wide, less than the total stride 2"),
    ],
)
def test_bad_input_stops_before_the_workdir_is_touched(tmp_path, arguments, error, message):
    workdir = tmp_path / "study"
    with pytest.raises(error, match=message):
        run(workdir, *arguments)
    assert not workdir.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a readable JSON"),
        ("[]", "architecture must be an object"),
        ('{"arch": {}}', "architecture lacks"),
    ],
)
def test_a_bad_architecture_file_is_named(tmp_path, content, message):
    file = tmp_path / "arch.json"
    file.write_text(content)
    with pytest.raises(InputError, match=f"arch.json.*{message}"):
        build_problem(config("--config.mode=recipe", f"--config.arch_file={file}"))


def test_an_architecture_of_another_dataset_is_refused(finished, tmp_path):
    data = json.loads((finished[0] / "winner0.json").read_text())
    data["arch"]["num_classes"] = 7
    file = tmp_path / "arch.json"
    file.write_text(json.dumps(data))
    with pytest.raises(SpaceError, match=r"\(1, 7\), `digits/1.0.0` needs \(1, 10\)"):
        build_problem(config("--config.mode=recipe", f"--config.arch_file={file}"))


# -- the workdir ---------------------------------------------------------------------------------


def test_a_finished_study_is_recognised_and_another_one_refused(finished):
    workdir, result = finished
    assert workdirs.look(workdir, config()) is workdirs.WorkdirState.FINISHED
    assert run(workdir) == result
    with pytest.raises(
        workdirs.WorkdirError,
        match=r"holds a finished study with another config: `config.seed` is 0 there, 5",
    ):
        run(workdir, "--config.seed=5")


def test_a_range_is_not_the_list_of_its_numbers(tmp_path):
    range_, choices = (
        dataclasses.replace(config(), space={**config().space, "resolution": r})
        for r in ((8, 16, 4), [8, 16, 4])
    )
    workdirs.start(tmp_path, range_)
    assert workdirs.look(tmp_path, range_) is workdirs.WorkdirState.UNFINISHED
    with pytest.raises(workdirs.WorkdirError, match="another config"):
        workdirs.look(tmp_path, choices)


def test_overwriting_removes_the_study_and_nothing_else(finished, tmp_path):
    mine = tmp_path / "notes.txt"
    mine.write_text("keep")
    for name in ("result.json", "trials.db", "provenance.json", "winner0.json", "budgets.json"):
        (tmp_path / name).write_text("{}")
    for name in ("weights/winner0", "predictor", "budgets"):
        (tmp_path / name).mkdir(parents=True)
    workdirs.clear(tmp_path)
    workdirs.start(tmp_path, config())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "notes.txt"]


def test_test_images_reach_the_final_report_only(tmp_path, monkeypatch):
    """Garbage test images change the test accuracies and nothing else."""
    from jointnas_jax.data.source import ImageDataset

    load = ImageDataset.load

    def garbage(self, split):
        loaded = load(self, split)
        return (
            dataclasses.replace(loaded, images=255 - loaded.images) if split == "test" else loaded
        )

    arguments = ("--noconfig.study.random_reference", "--config.search.rounds=2")
    clean = run(tmp_path / "clean", *arguments)
    monkeypatch.setattr(ImageDataset, "load", garbage)
    dirty = run(tmp_path / "dirty", *arguments)
    strip = lambda entries: [
        {k: v for k, v in e.items() if k not in ("test", "classes")} for e in entries
    ]
    assert strip(clean["finalists"]) == strip(dirty["finalists"])
    assert strip(clean["references"].values()) == strip(dirty["references"].values())
    assert clean["winners"][0]["test"] != dirty["winners"][0]["test"]
