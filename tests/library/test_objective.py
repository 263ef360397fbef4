"""`jn.search` on objectives of the user's own."""

import dataclasses
import math

import numpy as np
import pytest
from compilations import compilations
from small import PREDICTOR

import jointnas_jax as jn
from jointnas_jax.errors import InputError, SpaceError, StudyError

SPACE = jn.Space(
    jn.Knob.integer("width", 1, 8),
    jn.Knob.integer("depth", 1, 8),
    jn.Knob.real("lr", 1e-4, 1e-1, log=True),
    jn.Knob.choice("optimizer", ["sgd", "adam"]),
)
SETTINGS = jn.SearchConfig(
    pool_size=128, evolution=jn.EvolutionConfig(population=32, generations=20)
)
NETWORKS = jn.PredictorConfig(members=2, width=8, embedding=4, pretrain_samples=64)


def score(candidate):
    """Larger is better, with a best learning rate that depends on the optimizer."""
    best = -2 if candidate["optimizer"] == "sgd" else -3
    size = candidate["width"] + candidate["depth"]
    return size - (math.log10(candidate["lr"]) - best) ** 2


def evaluate(candidates):
    return [score(candidate) for candidate in candidates]


def costs(knobs):
    return {"area": knobs["width"] * knobs["depth"]}


# Most tests have these in common, so that they share programs.
USUAL = dict(
    evaluations=20,
    per_round=4,
    costs=costs,
    budget={"area": 20},
    settings=SETTINGS,
    predictor=NETWORKS,
)


# A search of one evaluation with these takes a second, most of it to compile.
SMALL = dict(
    evaluations=1,
    settings=jn.SearchConfig(pool_size=16),
    predictor=PREDICTOR,
)


def search(objective=evaluate, space=SPACE, **arguments):
    return jn.search(space, objective, **USUAL | arguments)


@pytest.fixture(scope="module")
def told():
    return []


@pytest.fixture(scope="module")
def found(told):
    return search(progress=lambda trial: told.append(str(trial)))


def test_it_finds_nearly_the_best_within_the_budget(found):
    assert max(trial.costs["area"] for trial in found.trials) <= 20
    # 2 x 8 cells and the best learning rate would score 10; by chance one expects 8.
    assert found.score > 9.5


def test_the_result_tells_all_that_was_tried(found):
    assert [trial.number for trial in found.trials] == list(range(1, 21))
    assert all(score(trial.candidate) == trial.score for trial in found.trials)
    assert found.best == max(found.trials, key=lambda trial: trial.score)
    assert (found.candidate, found.score) == (found.best.candidate, found.best.score)
    assert [trial.best for trial in found.trials] == list(
        np.maximum.accumulate([trial.score for trial in found.trials])
    )
    assert len({str(trial.candidate) for trial in found.trials}) == 20
    assert found.report_card.trials == 20
    assert found.report_card.kendall > 0.3
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.best = None


def test_its_predictor_predicts_what_was_measured(found):
    mean, deviation = found.predictor.predict([trial.candidate for trial in found.trials])
    measured = [trial.score for trial in found.trials]
    assert np.corrcoef(mean, measured)[0, 1] > 0.95
    assert (deviation >= 0).all()


def test_the_seed_decides_and_candidates_come_in_rounds_the_last_alone(found):
    sizes = []
    again = search(lambda c: sizes.append(len(c)) or evaluate(c))
    other = search(seed=1)
    assert sizes == [4, 4, 4, 4, 3, 1]
    assert again.trials == found.trials
    assert other.trials != found.trials


def test_each_trial_is_told_as_a_line(found, told):
    assert len(told) == 20
    assert told[0].startswith("trial 1: ")
    assert told[-1] == (
        f"trial 20: {found.trials[-1].score:.6g}, best so far {found.score:.6g}, "
        f"area {found.trials[-1].costs['area']:.6g}"
    )


def fails_for_adam(kind):
    def objective(candidates):
        scores = []
        for candidate in candidates:
            if candidate["optimizer"] == "adam":
                if kind == "raises":
                    raise RuntimeError("out of\nmemory")
                scores.append({"nan": math.nan, "inf": math.inf, "None": None}[kind])
            else:
                scores.append(score(candidate))
        return scores

    return objective


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("raises", "RuntimeError: out of memory"),
        ("nan", "the score is nan"),
        ("inf", "the score is inf"),
        ("None", "no score"),
    ],
)
def test_a_failed_candidate_has_a_reason_and_cannot_win(kind, reason):
    """In a round of four only the one at fault fails, and the search goes elsewhere."""
    found = search(fails_for_adam(kind))
    failed = [trial for trial in found.trials if trial.reason is not None]
    assert {trial.reason for trial in failed} == {reason}
    assert all(math.isnan(trial.score) for trial in failed)
    assert {trial.candidate["optimizer"] for trial in failed} == {"adam"}
    assert found.candidate["optimizer"] == "sgd"
    assert found.report_card.trials == 20 - len(failed)
    assert np.mean([trial.number > 10 for trial in failed]) < 0.5


def take_all(candidate):
    """Leaves nothing in a candidate, as `params.pop("lr")` does."""
    if isinstance(candidate, dict):
        candidate.clear()
    else:
        candidate.vector[:] = -1


@pytest.mark.parametrize("joint", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_what_a_function_does_to_its_arguments_changes_no_record(joint, tiny_description):
    """`evaluate` empties its dicts; where one of a round fails, the others are tried whole."""
    small = SMALL | dict(evaluations=4, per_round=4, costs=None, budget=None)
    space = jn.JointSpace.from_config(tiny_description, 1, 10) if joint else SPACE
    name = lambda c: str(c) + str(getattr(c, "vector", ""))
    failed, seen, records = [], [], []

    def harmless(candidates):
        return [float(len(name(c))) if seen else seen.append(c) for c in candidates]

    def takes(candidates):
        scores = []
        for candidate in candidates:
            scores.append(float(len(name(candidate))))
            broken = not failed or name(candidate) in failed
            failed.extend([name(candidate)] * broken)
            take_all(candidate)
            if broken:
                raise MemoryError("no memory")
        candidates.clear()
        return scores

    def takes_trial(trial):
        records.append(name(trial.candidate))
        take_all(trial.candidate)
        dict.clear(trial.costs)

    expected = jn.search(space, harmless, **small)
    found = jn.search(space, takes, progress=takes_trial, **small)
    take_all(found.candidate)
    assert [name(t.candidate) for t in found.trials] == [name(t.candidate) for t in expected.trials]
    assert [t.costs for t in found.trials] == [t.costs for t in expected.trials]
    assert records == [name(t.candidate) for t in found.trials]
    assert {t.reason for t in found.trials} == {None, "MemoryError: no memory"}
    assert [name(t.candidate) for t in found.trials if t.reason] == failed[:1]


def test_where_every_candidate_fails_the_search_does():
    with pytest.raises(StudyError, match="every candidate failed: ZeroDivisionError"):
        search(lambda candidates: [1 / 0 for _ in candidates], evaluations=3)


def test_an_interruption_is_no_failed_candidate():
    def interrupted(candidates):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(interrupted)


@pytest.mark.slow
def test_under_noise_the_luckiest_is_not_taken_for_the_best():
    """Of equal candidates in which one had luck once."""
    lucky = iter([0.0] * 5 + [1.0] + [0.0] * 99)
    noisy = lambda candidates: [next(lucky) + score(c) / 100 for c in candidates]
    found = search(noisy, noisy=True)
    assert found.trials[5].score == max(trial.score for trial in found.trials)
    assert found.best in found.trials
    assert found.best != found.trials[5]


def test_a_joint_space_gives_candidates_and_knows_their_costs(tiny_description):
    space = jn.JointSpace.from_config(tiny_description, image_channels=1, num_classes=10)
    seen = []

    def channels(candidates):
        seen.extend(candidates)
        return [float(c.arch.stages[0].channels) - c.recipe.lr for c in candidates]

    found = search(channels, space, evaluations=6, costs=None, budget={"flops": "60K"})
    assert all(isinstance(candidate, jn.Candidate) for candidate in seen)
    assert max(trial.costs["flops"] for trial in found.trials) <= 60_000
    assert {"flops", "params"} <= set(found.best.costs)


def evaluated(values, costs, limit=5):
    """Values of a knob that searches within `size <= limit` evaluate."""
    seen = []
    score = lambda candidates: [seen.append(c["big"]) or 1.0 for c in candidates]
    space = jn.Space(jn.Knob.choice("big", values))
    for seed in range(4):
        jn.search(space, score, costs=costs, budget={"size": limit}, seed=seed, **SMALL)
    return seen


def test_a_space_of_equal_values_has_costs_of_its_own():
    """0 and 1 are equal to False and True, but a user's function tells them apart."""
    costs = lambda knobs: {"size": np.where(~knobs["big"], 1, 10)}
    evaluated([0, 1], costs)
    assert set(evaluated([False, True], costs)) == {False}


class Size:
    """Equal to all others, and without a hash, as a dataclass is."""

    def __init__(self, factor):
        self.factor = factor

    def __eq__(self, other):
        return isinstance(other, Size)

    def __call__(self, knobs):
        return {"size": np.asarray(knobs["big"]) * self.factor}


def test_costs_are_called_that_were_given_as_they_are_now():
    """Equal objects may return other costs, and one object others than before."""
    values, size = [1, 2, 3, 4], Size(1)
    assert set(evaluated(values, size, limit=2)) == {1, 2}
    assert set(evaluated(values, Size(2), limit=2)) == {1}
    size.factor = 2
    assert set(evaluated(values, size, limit=2)) == {1}


def test_an_equal_search_compiles_nothing():
    """Its space is made anew."""
    with compilations() as compiled:
        size = Size(1)
        evaluated([1, 2, 3], size)
        before = len(compiled)
        evaluated([1, 2, 3], size)
    assert len(compiled) == before > 0


BAD = {
    "no space": (dict(space={"a": [1, 2]}), "jn.Space"),
    "too few scores": (dict(objective=lambda c: [1.0] * (len(c) - 1)), "each of 4 candidates"),
    "one score for all": (dict(objective=lambda c: 1.0), "each of 4 candidates"),
    "a column": (dict(objective=lambda c: np.ones((len(c), 1))), "each of 4 candidates"),
    "text": (dict(objective=lambda c: ["good"] * len(c)), "must be a number"),
    "no evaluation": (dict(evaluations=0), "`evaluations` must be an integer from 1"),
    "half a round": (dict(per_round=0.5), "`per_round` must be"),
    "a negative seed": (dict(seed=-1), "`seed` must be"),
    "a budget of two": (dict(budget=[("area", 3)]), "`budget` must be a dict"),
    "a budget of nothing": (dict(costs=None, budget={"flops": 3}), "give `costs`"),
    "an unknown cost": (dict(costs=costs, budget={"aera": 3}), "did you mean `area`"),
    "a limit that is none": (dict(costs=costs, budget={"area": "much"}), "limit of `area`"),
    "a limit of 0": (dict(costs=costs, budget={"area": 0}), "above 0"),
    "a budget below everything": (dict(costs=costs, budget={"area": 0.5}), "area of at least 1"),
    "costs for one": (
        dict(budget=None, costs=lambda k: {"c": 1 if k["width"] > 3 else 2}),
        "numpy.where instead",
    ),
    "costs without a name": (dict(budget=None, costs=lambda k: k["width"]), "must return a dict"),
    "no costs": (dict(budget=None, costs=lambda k: {}), "at least one cost"),
    "too few costs": (
        dict(budget=None, costs=lambda k: {"c": k["width"][:1]}),
        "each of 2 candidates",
    ),
    "an endless cost": (
        dict(budget=None, costs=lambda k: {"c": k["width"] / 0.0}),
        "finite number",
    ),
    "costs of text": (dict(budget=None, costs=lambda k: {"c": k["optimizer"]}), "finite number"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_what_breaks_a_rule_is_one_line(name):
    arguments, message = BAD[name]
    with pytest.raises(InputError, match=message) as error:
        search(**arguments)
    assert "\n" not in str(error.value)


def test_costs_that_break_a_rule_later_are_an_input_error_too():
    """Not one of JAX, in whose programs they are called."""
    calls = []

    def costs(knobs):
        calls.append(1)
        return {"c": knobs["width"] * (math.nan if len(calls) > 6 else 1)}

    with pytest.raises(InputError, match="finite number"):
        search(costs=costs, budget={"c": 4})


def test_the_limit_is_named_where_nothing_is_within_it():
    with pytest.raises(SpaceError, match="area of at least 1.* where the limit is 0.5"):
        search(costs=costs, budget={"area": 0.5})
