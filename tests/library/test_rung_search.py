"""`jn.search` on objectives that report after parts of an evaluation, and go on."""

import collections
import math

import numpy as np
import pytest

import jointnas_jax as jn
from jointnas_jax.errors import InputError

SPACE = jn.Space(
    jn.Knob.integer("width", 1, 8),
    jn.Knob.integer("depth", 1, 8),
    jn.Knob.real("lr", 1e-4, 1e-1, log=True),
)
SETTINGS = jn.SearchConfig(
    pool_size=128, evolution=jn.EvolutionConfig(population=32, generations=20)
)
NETWORKS = jn.PredictorConfig(members=2, width=8, embedding=4, pretrain_samples=64)


def score(candidate):
    return candidate["width"] + candidate["depth"] - 4 * (math.log10(candidate["lr"]) + 2) ** 2


class Trainings:
    """Learning curves, and how far each candidate has come."""

    def __init__(self, fails=lambda candidate, share: False):
        self.fails = fails
        self.reached = collections.defaultdict(list)

    def __call__(self, candidates, shares):
        scores = []
        for candidate, share in zip(candidates, shares, strict=True):
            self.reached[tuple(candidate.values())].append(share)
            failed = self.fails(candidate, share)
            scores.append(None if failed else score(candidate) * (0.5 + share / 2) + 3 * share)
        return scores


def search(objective, **arguments):
    usual = dict(evaluations=16, per_round=2, rungs=(0.25,), settings=SETTINGS, predictor=NETWORKS)
    return jn.search(SPACE, objective, **usual | arguments)


@pytest.fixture(scope="module")
def found():
    trainings = Trainings()
    return trainings, search(trainings)


def test_candidates_stop_or_go_on_to_the_next_rung(found):
    trainings, _ = found
    parts = set(map(tuple, trainings.reached.values()))
    assert parts == {(0.25,), (0.25, 1.0)}
    assert len(trainings.reached) > 16  # more than whole evaluations could be


def test_all_parts_add_up_to_the_evaluations(found):
    trainings, _ = found
    spent = sum(reached[-1] for reached in trainings.reached.values())
    assert 16 - 0.75 < spent <= 16


def test_the_best_trial_reached_the_end_and_is_good(found):
    _, result = found
    assert result.best.share == 1
    ended = [t for t in result.trials if t.share == 1]
    assert result.score == max(t.score for t in ended) == result.trials[-1].best
    rng = np.random.default_rng(0)
    draw = lambda: dict(
        width=rng.integers(1, 9), depth=rng.integers(1, 9), lr=10 ** rng.uniform(-4, -1)
    )
    random = [max(score(draw()) + 3 for _ in range(16)) for _ in range(200)]
    assert result.score > np.mean(random)


def test_the_text_of_a_part_says_so(found):
    _, result = found
    part = next(t for t in result.trials if t.share < 1)
    assert "after 25%" in str(part)
    assert "after" not in str(result.best)


@pytest.mark.slow
def test_what_fails_on_the_way_does_not_win():
    trainings = Trainings(fails=lambda candidate, share: share == 1 and candidate["width"] > 4)
    result = search(trainings, evaluations=10)
    assert result.candidate["width"] <= 4
    failed = [t for t in result.trials if t.reason]
    assert all(t.share == 1 for t in failed)


@pytest.mark.slow
def test_a_front_has_what_reached_the_end():
    result = search(
        Trainings(), evaluations=10, costs=lambda k: {"area": k["width"] * k["depth"]}, front="area"
    )
    assert result.front
    assert all(t.share == 1 for t in result.front)
    assert [t.costs["area"] for t in result.front] == sorted(t.costs["area"] for t in result.front)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(rungs=(0.5, 0.2)), "`rungs` must be ascending shares"),
        (dict(rungs=(1.0,)), "`rungs` must be ascending shares"),
        (dict(rungs=0.5), "`rungs` must be ascending shares"),
        (dict(settings=jn.SearchConfig(acquisition="mean")), "`rungs` needs the Gaussian process"),
        (dict(settings=jn.SearchConfig(stopping="curve")), "give `rungs` to"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        search(Trainings(), **arguments)
