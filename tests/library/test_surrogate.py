"""Predictor and evolution on their own."""

import numpy as np
import pytest

import jointnas_jax as jn
from jointnas_jax.errors import InputError

SPACE = jn.Space(
    jn.Knob.integer("width", 1, 16),
    jn.Knob.integer("depth", 1, 16),
    jn.Knob.choice("kernel", [3, 5, 7]),
)
NETWORKS = jn.PredictorConfig(members=2, width=8, embedding=4, pretrain_samples=64)


def score(knobs):
    return knobs["width"] + knobs["depth"] - np.where(knobs["kernel"] == 5, 0, 2)


def costs(knobs):
    return {"area": knobs["width"] * knobs["depth"]}


def drawn(count):
    candidates = [SPACE.decode(v) for v in SPACE.sample(np.random.default_rng(0), count)]
    return candidates, np.array([float(score(c)) for c in candidates])


@pytest.fixture(scope="module")
def predictor():
    candidates, scores = drawn(60)
    scores[7] = np.nan  # a failed one
    return jn.Predictor.fit(SPACE, candidates, scores, settings=NETWORKS, costs=costs)


def test_it_predicts_what_it_has_not_seen(predictor):
    candidates, scores = drawn(160)
    mean, deviation = predictor.predict(candidates[60:])
    assert mean.shape == deviation.shape == (100,)
    assert np.corrcoef(mean, scores[60:])[0, 1] > 0.95
    assert (np.abs(mean - scores[60:]) < 4 * deviation + 0.5).mean() > 0.8


def test_an_evolution_of_it_finds_the_best_within_a_budget(predictor):
    found = jn.evolve(SPACE, predictor, costs=costs, budget={"area": 32})
    assert all(c["width"] * c["depth"] <= 32 for c in found.candidates)
    assert {found.candidates[0]["width"], found.candidates[0]["depth"]} == {2, 16}
    assert (np.diff(found.scores) <= 0).all()
    np.testing.assert_allclose(found.scores, predictor.predict(found.candidates)[0], atol=1e-3)


def test_an_evolution_takes_any_function_of_knobs():
    found = jn.evolve(SPACE, score, start=[{"width": 1, "depth": 1, "kernel": 3}])
    assert found.candidates[0] == {"width": 16, "depth": 16, "kernel": 5}
    assert found.scores[0] == 32
    assert found.generations > 1
    assert len({str(c) for c in found.candidates}) == len(found.candidates)


def test_a_score_that_is_not_finite_never_wins():
    found = jn.evolve(SPACE, lambda k: np.where(k["width"] == 16, np.nan, score(k)))
    assert found.candidates[0]["width"] == 15
    assert not any(c["width"] == 16 for c in found.candidates)


BAD = {
    "a score too few": (
        lambda: jn.Predictor.fit(SPACE, drawn(3)[0], [1.0, 2.0]),
        "each of 3 candidates",
    ),
    "no trial": (lambda: jn.Predictor.fit(SPACE, [], []), "at least one"),
    "all failed": (lambda: jn.Predictor.fit(SPACE, drawn(1)[0], [np.nan]), "at least one"),
    "a foreign candidate": (
        lambda: jn.Predictor.fit(SPACE, [{"width": 17, "depth": 1, "kernel": 3}], [1.0]),
        "`width` allows",
    ),
    "a score for all": (lambda: jn.evolve(SPACE, lambda k: 1.0), "each of 256 candidates"),
    "an impossible budget": (
        lambda: jn.evolve(SPACE, score, costs=costs, budget={"area": 0.1}),
        "no candidate satisfies",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_breaks_a_rule_is_one_line(name):
    make, message = BAD[name]
    with pytest.raises(InputError, match=message) as error:
        make()
    assert "\n" not in str(error.value)
