"""A search of a front finds the best score at each cost."""

import dataclasses
import functools

import numpy as np
import pytest
from small import PREDICTOR

import jointnas_jax as jn
from jointnas_jax.errors import InputError
from jointnas_jax.strategy.front import Reference, hypervolume

SPACE = jn.Space(
    jn.Knob.integer("width", 1, 16),
    jn.Knob.integer("depth", 1, 8),
    jn.Knob.choice("kind", ["a", "b", "c"]),
    jn.Knob.real("lr", 1e-3, 1.0, log=True),
)

# Where a test is about the front and not about how large it is.
search = functools.partial(
    jn.search, SPACE, predictor=dataclasses.replace(PREDICTOR, process=True), front="flops"
)


def costs(knobs):
    return {"flops": knobs["width"] * knobs["depth"] * np.where(knobs["kind"] == "c", 2, 1)}


def score(candidate):
    size = np.log(candidate["width"]) + np.log(candidate["depth"])
    kind = {"a": 0.0, "b": -0.5, "c": 0.3}[candidate["kind"]]
    return size + kind - np.log10(candidate["lr"] / 0.1) ** 2


def evaluate(candidates):
    return [score(candidate) for candidate in candidates]


def volume(trials):
    flops = np.log([trial.costs["flops"] for trial in trials])
    scores = np.array([trial.score for trial in trials])
    return hypervolume(flops, scores, Reference(np.log(300), -2.0))


@pytest.mark.slow
def test_its_front_is_larger_than_what_a_search_of_the_best_leaves_behind():
    volumes = {}
    for front in ("flops", None):
        found = [
            jn.search(SPACE, evaluate, evaluations=25, costs=costs, front=front, seed=seed)
            for seed in range(2)
        ]
        volumes[front] = np.mean([volume(result.trials) for result in found])
    assert volumes["flops"] > 1.05 * volumes[None]


def test_the_front_holds_what_no_cheaper_trial_beats():
    result = search(evaluate, evaluations=12, costs=costs, per_round=4)
    assert result.best.score == max(trial.score for trial in result.trials)
    points = {(trial.costs["flops"], trial.score) for trial in result.trials}

    def beaten(flops, score):
        return any(f <= flops and s >= score and (f, s) != (flops, score) for f, s in points)

    unbeaten = sorted(point for point in points if not beaten(*point))
    assert [(trial.costs["flops"], trial.score) for trial in result.front] == unbeaten
    assert 1 < len(unbeaten) < len(points)


def test_a_budget_is_the_right_end_of_a_front():
    result = search(evaluate, evaluations=15, costs=costs, budget={"flops": 40})
    assert all(trial.costs["flops"] <= 40 for trial in result.trials)


def test_failed_trials_are_on_no_front():
    some = lambda candidates: [None if c["kind"] == "c" else score(c) for c in candidates]
    result = search(some, evaluations=15, costs=costs, noisy=True)
    assert result.front
    assert all(trial.reason is None for trial in result.front)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(front="flops"), "nothing says what a candidate costs; give `costs`"),
        (dict(front="flop", costs=costs), "`front` has no cost `flop`.*`flops`"),
        (dict(front=3, costs=costs), "must be the name of a cost, or None, got 3"),
        (
            dict(front="flops", costs=costs, predictor=jn.PredictorConfig(process=False)),
            "needs the Gaussian process",
        ),
        (
            dict(front="flops", costs=costs, settings=jn.SearchConfig(acquisition="mean")),
            "needs the Gaussian process",
        ),
    ],
)
def test_a_front_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        jn.search(SPACE, evaluate, evaluations=3, **arguments)


def test_without_a_front_there_is_none():
    result = jn.search(SPACE, evaluate, evaluations=3, costs=costs, predictor=PREDICTOR)
    assert result.front == ()


def test_settings_of_studies_do_not_choose_a_front():
    settings = jn.SearchConfig(front="flops")
    with pytest.raises(InputError, match="give `front` to `search`"):
        jn.search(SPACE, evaluate, evaluations=4, costs=costs, settings=settings)
