"""Studies that search a front: members, references and answer; trainings are functions."""

import math
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from markupsafe import escape
from rich.console import Console

from jointnas_jax.command_line import parse_config
from jointnas_jax.errors import ConfigError, InterruptedStudyError
from jointnas_jax.execution.job import TrainResult
from jointnas_jax.problem.problem import build_problem
from jointnas_jax.report.answer import networks, sentences
from jointnas_jax.report.page import write_report
from jointnas_jax.space import read_arch
from jointnas_jax.storage.study_reader import read_record
from jointnas_jax.storage.workdir import WEIGHTS
from jointnas_jax.strategy.front import nondominated
from jointnas_jax.study.run import run_study

TINY = str(Path(__file__).parent.parent / "support" / "tiny.py")
FRONT = (
    "--config.seed=1",
    "--config.search.front=flops",
    "--config.search.per_round=5",
    "--config.search.finalists=4",
    "--config.search.winners=3",
    # The default candidate of `tiny.py` is the cheapest of its space.
    "--config.default.stage1_channels=16",
    "--config.default.stage1_expand=2",
    "--config.default.head_channels=32",
)
IMAGES = 360


def config(*arguments):
    return parse_config(["run", *FRONT, *arguments], TINY, flags.FlagValues())


def look_up(assignment, jobs, stop):
    """Accuracy grows with the logarithm of the FLOPs and with the learning rate, to a plateau."""
    results = []
    for job in jobs:
        costs, recipe = job.candidate.costs, job.candidate.recipe
        share = min(1.0, math.log(costs["flops"] / 5e3) / 3)
        end = 0.5 + 0.3 * share + 5 * recipe.lr
        right = round(end * IMAGES)
        ranks = (np.arange(IMAGES) >= right).astype(np.int32)
        answers = np.stack([np.where(ranks, -1, LABELS), ranks]) if job.on_full_split else None
        curve = (right / IMAGES,) * (1 if job.on_full_split else job.epochs)
        variables = {"params": {"w": np.zeros(2)}}
        results.append(TrainResult(curve, None, variables, answers=answers))
    return results


LABELS = build_problem(config()).dataset.load("test").labels


def run(workdir, *arguments):
    return run_study(config(*arguments), workdir, Console(quiet=True), train_fn=look_up)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("front")
    return workdir, run(workdir)


def columns(entries):
    costs = np.array([e["costs"]["flops"] for e in entries])
    return costs, np.array([e["score"]["mean"] for e in entries])


def test_winners_are_a_front_within_the_budget_the_most_accurate_first(finished):
    _, result = finished
    costs, scores = columns(result["winners"])
    assert 1 < len(costs) <= 3
    assert (np.diff(costs) < 0).all()
    assert (np.diff(scores) < 0).all()
    assert costs.max() <= 60_000
    every, marks = columns(result["finalists"])
    assert set(costs) <= set(every[nondominated(every, marks)])
    assert {f["source"] for f in result["finalists"]} == {"fine stage", "coarse stage"}


def test_random_search_has_as_many_trainings_and_the_same_rule(finished):
    _, result = finished
    costs, scores = columns(result["front"]["random"])
    assert (np.diff(costs) < 0).all()
    assert (np.diff(scores) < 0).all()
    new = sum(f["source"] == "fine stage" for f in result["finalists"])
    assert result["front"]["random"][0]["source"] == f"front of {15 + new} random"


def test_the_scaled_default_candidate_has_its_recipe_and_the_winners_costs(finished):
    _, result = finished
    default = result["references"]["default"]
    assert result["front"]["scaled_default"]
    for entry in result["front"]["scaled_default"]:
        assert entry["candidate"]["recipe"] == default["candidate"]["recipe"]
        assert entry["candidate"]["arch"] != default["candidate"]["arch"]
        assert entry["within_budget"]
        assert entry["test"]["mean"] is not None
        assert entry["validation"]["seeds"] == []


def test_the_answer_is_what_was_measured(finished):
    _, result = finished
    winners, default = result["winners"], result["references"]["default"]
    reached = [w for w in winners if w["test"]["mean"] >= default["test"]["mean"]]
    found = result["front"]["fewer"]
    cheapest = min(reached, key=lambda w: w["costs"]["flops"])
    assert winners[found["winner"]] == cheapest
    assert found["value"] == default["costs"]["flops"] / cheapest["costs"]["flops"]
    assert found["low"] <= found["value"] <= found["high"]
    assert 0 < found["reached"] <= 1
    gain = result["front"]["gain"]
    best = winners[gain["winner"]]
    assert best["costs"]["flops"] <= default["costs"]["flops"]
    assert gain["value"] == pytest.approx(best["test"]["mean"] - default["test"]["mean"])
    assert gain["low"] <= gain["value"] <= gain["high"]
    assert result["answer"] == sentences(result)
    assert "times fewer FLOPs" in result["answer"][0]
    assert "at the default's FLOPs" in result["answer"][1]


def test_areas_are_beside_each_other(finished):
    areas = finished[1]["front"]["hypervolume"]
    for group in ("scaled_default", "random"):
        ahead = areas[group]["search_ahead_by"]["value"]
        assert ahead == pytest.approx(areas["search"]["value"] - areas[group]["value"])
    assert areas["search"]["value"] > 0


def test_the_report_has_the_answer_and_both_figures_of_the_front(finished):
    workdir, result = finished
    page, *files = write_report(read_record(workdir, ""))
    text = " ".join(page.read_text(encoding="utf-8").split())
    for sentence in result["answer"]:
        assert str(escape(sentence)) in text
    assert {"front.png", "hypervolume.png"} <= {file.name for file in files}
    for name, _ in networks(result):
        assert name in text


def test_weights_of_all_that_was_retrained_are_kept(finished):
    workdir, result = finished
    names = {path.name for path in (workdir / WEIGHTS).iterdir()}
    groups = {
        "winner": result["winners"],
        "random": result["front"]["random"],
        "scaled": result["front"]["scaled_default"],
    }
    expected = {f"{kind}{i}" for kind, entries in groups.items() for i in range(len(entries))}
    # A candidate from two sources is kept once.
    assert {f"winner{i}" for i in range(len(result["winners"]))} <= names
    assert names <= expected | {"default"}
    for rank, winner in enumerate(result["winners"]):
        arch = read_arch(workdir / f"winner{rank}.json")
        assert arch.to_dict() == winner["candidate"]["arch"]


@pytest.mark.parametrize(
    "stage",
    [pytest.param(s, marks=pytest.mark.slow) for s in ("coarse", "validate")] + ["retrain"],
)
def test_an_interrupted_study_goes_on_to_the_same_answer(finished, tmp_path, stage):
    seen = []

    def stopping(assignment, jobs, stop):
        full = jobs[0].on_full_split
        seen.extend(jobs)
        late = {"coarse": len(seen) > 4, "validate": len(seen) > 26, "retrain": full}[stage]
        if late and len(seen) % 3 == 0:
            raise InterruptedStudyError
        return look_up(assignment, jobs, stop)

    with pytest.raises(InterruptedStudyError):
        run_study(config(), tmp_path, Console(quiet=True), train_fn=stopping)
    found = run(tmp_path)
    for name in ("winners", "references", "front", "answer", "finalists"):
        assert found[name] == finished[1][name]


@pytest.mark.slow
def test_a_study_of_recipes_has_no_front(tmp_path):
    result = run(tmp_path, "--config.mode=recipe")
    assert result["front"] is None
    assert "answer" not in result
    assert len(result["winners"]) == 3


@pytest.mark.slow
def test_another_cost(tmp_path):
    result = run(tmp_path, "--config.search.front=params", "--config.study.random_reference=False")
    params = [w["costs"]["params"] for w in result["winners"]]
    assert params == sorted(params, reverse=True)
    assert result["front"]["random"] == []
    assert "params" in result["answer"][1]


@pytest.mark.parametrize(
    "argument", ["--config.predictor.process=False", "--config.search.acquisition=mean"]
)
def test_a_front_needs_what_knows_how_unsure_it_is(argument):
    with pytest.raises(ConfigError, match="needs the Gaussian process"):
        config(argument)


def test_scaled_candidates_are_those_nearest_to_given_costs():
    problem = build_problem(config("--config.budget.flops="))
    costs = problem.default.costs["flops"]
    found = problem.scaled_default([costs // 3, costs, costs * 3])
    assert found
    flops = [candidate.costs["flops"] for candidate in found]
    assert flops == sorted(flops, reverse=True)
    assert len({candidate.vector.tobytes() for candidate in found}) == len(found)
    for candidate in found:
        assert (candidate.vector != problem.default.vector).any()
        assert candidate.recipe == problem.default.recipe
        assert candidate.arch.head == problem.default.arch.head
