"""Trials of which a part is given: enqueued, fixed by another sampler, or of other ranges."""

import itertools
import warnings

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import PartialFixedSampler, TPESampler
from optuna.trial import TrialState, create_trial

import jointnas_jax as jn

optuna.logging.set_verbosity(optuna.logging.WARNING)
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
_MORE = 6  # trials of which a part is given
SPACE = {"x": FloatDistribution(-5, 5), "kind": CategoricalDistribution(["a", "b"])}


def sampler():
    """One shape of all, so that they share programs."""
    return jn.JointNASSampler(seed=0, n_startup_trials=4, most_trials=32)


def loss(trial):
    """Least at x = -3 with kind "a", and less at x = 2 with "b"."""
    x = trial.suggest_float("x", -5, 5)
    kind = trial.suggest_categorical("kind", ["a", "b"])
    return (x + 3) ** 2 + 1 if kind == "a" else (x - 2) ** 2


def begun(chosen):
    """A study of twelve trials."""
    study = optuna.create_study(sampler=chosen)
    for x in np.linspace(-5, 5, 6):
        for kind in "ab":
            params = {"x": x, "kind": kind}
            value = loss(optuna.trial.FixedTrial(params))
            study.add_trial(create_trial(value=value, params=params, distributions=SPACE))
    return study


def enqueued(study):
    for _ in range(_MORE):
        study.enqueue_trial({"kind": "a"})


def enqueued_off_the_grid(study):
    """No value of x is one that the sampler would take."""
    for i in range(_MORE):
        study.enqueue_trial({"x": -3 + 0.05001 * i})


def fixed_by_a_sampler(study):
    study.sampler = PartialFixedSampler({"kind": "a"}, study.sampler)


def fixed_twice(study):
    """Once for each trial, and once for all."""
    fixed_by_a_sampler(study)
    enqueued(study)


def added_by_others(study):
    for i in range(20):
        x = -5 + i / 2
        trial = create_trial(value=(x - 2) ** 2, params={"x": x, "kind": "b"}, distributions=SPACE)
        study.add_trial(trial)


def of_other_ranges(study):
    """A trial with another range of x: what they have in common is `kind`."""
    distributions = SPACE | {"x": FloatDistribution(-9, 9)}
    study.add_trial(
        create_trial(value=9.0, params={"x": 8.0, "kind": "b"}, distributions=distributions)
    )


def waiting_with_a_value(study):
    """As `enqueue_trial` did it in earlier versions: the value is there, not fixed."""
    for _ in range(_MORE):
        kind = {"kind": SPACE["kind"]}
        study.add_trial(
            create_trial(state=TrialState.WAITING, params={"kind": "a"}, distributions=kind)
        )


WAYS = [
    enqueued,
    enqueued_off_the_grid,
    fixed_by_a_sampler,
    fixed_twice,
    added_by_others,
    of_other_ranges,
    waiting_with_a_value,
]


def tried(chosen, way):
    """The trials after those of which a part is given one way."""
    study = begun(chosen)
    way(study)
    given = {t.number for t in study.trials if t.state is not TrialState.WAITING}
    study.optimize(loss, n_trials=_MORE)
    return [t for t in study.trials if t.number not in given]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_trials_are_as_new_as_those_of_tpe(way):
    ours, others = (
        {str(t.params) for t in tried(chosen, way)} for chosen in (sampler(), TPESampler(seed=0))
    )
    assert len(ours) >= len(others)


@pytest.mark.parametrize("way", [enqueued, fixed_twice])
def test_the_rest_is_proposed_for_what_is_fixed(way):
    """Where x = 2 is best with "b", and best of all."""
    after = tried(sampler(), way)
    assert {t.params["kind"] for t in after} == {"a"}
    assert min(abs(t.params["x"] + 3) for t in after) < 0.5


def test_workers_of_one_fixed_value_try_different_things():
    study = begun(sampler())
    enqueued(study)
    running = [study.ask() for _ in range(_MORE)]
    assert len({trial.relative_params["x"] for trial in running}) == _MORE


SMALL = {"n": IntDistribution(0, 3), "kind": CategoricalDistribution("ab")}


def nearly_all(n_startup_trials, left):
    """A study in which all of a small space is tried but for a part of it."""
    chosen = jn.JointNASSampler(seed=0, n_startup_trials=n_startup_trials, most_trials=32)
    study = optuna.create_study(sampler=chosen)
    for n, kind in itertools.product(range(4), "ab"):
        if (n, kind) not in left:
            params = {"n": n, "kind": kind}
            study.add_trial(create_trial(value=n, params=params, distributions=SMALL))
    return study


@pytest.mark.parametrize("n_startup_trials", [0, 99])
def test_all_of_a_small_rest_is_tried_before_anything_twice(n_startup_trials):
    """Also while the first trials are spread evenly."""
    left = list(itertools.product(range(4), "a"))
    study = nearly_all(n_startup_trials, left)
    for _ in left:
        study.enqueue_trial({"kind": "a"})
    assert {study.ask(SMALL).params["n"] for _ in left} == set(range(4))
    study.sampler = PartialFixedSampler({"kind": "b"}, study.sampler)
    assert study.ask(SMALL).params["kind"] == "b"


def test_what_another_worker_was_given_is_not_proposed():
    """Nothing is suggested yet in its trial."""
    study = nearly_all(0, left=[(1, "a"), (2, "b")])
    study.enqueue_trial({"n": 1, "kind": "a"})
    study.ask()
    assert study.ask(SMALL).params == {"n": 2, "kind": "b"}


def test_a_value_out_of_range_or_foreign_is_as_optuna_takes_it():
    """It warns of the first and refuses the second; the proposal raises nothing itself."""
    study = begun(sampler())
    study.enqueue_trial({"x": 7.5})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study.optimize(loss, n_trials=1)
    assert study.trials[-1].params["x"] == 7.5
    study.enqueue_trial({"kind": "c", "unknown": 3})
    trial = study.ask()
    assert trial.suggest_float("x", -5, 5) == trial.relative_params["x"]
    with pytest.raises(ValueError, match="'c' not in"):
        trial.suggest_categorical("kind", ["a", "b"])


def test_nothing_fixed_changes_nothing():
    """A study is the same, bit for bit, whether or not another sampler stands before ours."""
    plain, wrapped = begun(sampler()), begun(PartialFixedSampler({}, sampler()))
    for study in (plain, wrapped):
        study.optimize(loss, n_trials=3)
    assert [t.params for t in wrapped.trials] == [t.params for t in plain.trials]
