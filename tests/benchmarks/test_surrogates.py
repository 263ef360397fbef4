"""A surrogate trains as its table did, and whole studies run on it."""

import runpy
from pathlib import Path

import numpy as np
import pytest

from benchmarks import curves, surrogates
from jointnas_jax.config import check_config
from jointnas_jax.problem.problem import build_problem
from jointnas_jax.strategy.early_stop import spearman

NAME = "digits_strong"
TABLE = curves.TABLES / f"curves_{NAME}.json.gz"


@pytest.fixture(scope="module")
def config():
    file = Path(curves.__file__).parent / "configs" / f"{NAME}.py"
    return check_config(runpy.run_path(str(file))["get_config"]())


@pytest.fixture(scope="module")
def surrogate(config):
    table = curves.read_table(TABLE)
    return surrogates.Surrogate(table, build_problem(config), rung=8)


@pytest.fixture(scope="module")
def trainings():
    return [r for r in curves.read_table(TABLE)["trainings"] if r["reason"] is None]


def test_it_ranks_the_candidates_of_its_table(surrogate, trainings):
    first = [r for r in trainings if r["training"] == 0]
    worth = [surrogate.worth(np.array(r["vector"], np.int32)) for r in first]
    accuracies = [curves.last(r, "test_")[0] for r in first]
    assert spearman(np.array(worth), np.array(accuracies)) > 0.7


def test_the_same_training_shows_the_same_and_another_one_something_else(surrogate, trainings):
    vector = np.array(trainings[0]["vector"], np.int32)
    assert surrogate.train(vector, [0, 1]) == surrogate.train(vector, [0, 1])
    assert surrogate.train(vector, [0, 1]) != surrogate.train(vector, [0, 2])


def test_trainings_of_a_candidate_differ_as_in_the_table(surrogate, trainings):
    vector = np.array(trainings[0]["vector"], np.int32)
    errors = lambda scores: np.log(surrogates.ABOVE - np.array(scores))
    drawn = errors([surrogate.train(vector, [0, i]).score for i in range(300)])
    repeats = {}
    for row in trainings:
        repeats.setdefault(row["candidate"], []).append(1 - curves.last(row)[surrogates._SCORE])
    recorded = [errors(scores).var(ddof=1) for scores in repeats.values() if len(scores) > 1]
    assert drawn.var() == pytest.approx(np.mean(recorded), rel=0.3)


@pytest.mark.slow
def test_a_study_of_a_surrogate_has_winners_and_references(config):
    found = surrogates.studies(config, TABLE, searches=1)
    (study,) = found["studies"]
    assert all(0 < area <= 1 for area in study["area"].values())
    assert 0.5 < study["accuracy"]["search"] < 1
    assert study["candidates"] >= study["trainings"] / 2
