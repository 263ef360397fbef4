"""The sampler in Optuna studies of two objectives, one of which is a known cost."""

import pickle

import numpy as np
import optuna
import pytest

import jointnas_jax as jn
from jointnas_jax import JointNASError
from jointnas_jax.strategy.front import Reference, hypervolume

CORNER = Reference(cost=np.log(20 * 64) + 0.1, score=-1.5)


def cost(p):
    return p["layers"] * p["width"]


def score(p):
    """Larger is better, to a plateau; the best shape is narrow and deep, of one kind."""
    size = np.log(p["layers"] ** 1.5 * p["width"] ** 0.5)
    return -abs(4.0 - size) - (p["kind"] != "b") - 20 * abs(p["lr"] - 0.1)


def objective(trial):
    p = {
        "layers": trial.suggest_int("layers", 1, 20),
        "width": trial.suggest_int("width", 4, 64, step=4),
        "kind": trial.suggest_categorical("kind", ["a", "b", None]),
        "lr": trial.suggest_float("lr", 0.01, 0.3, log=True),
    }
    return score(p), cost(p)


def study_of(sampler, trials=24, directions=("maximize", "minimize"), objective=objective):
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=directions, sampler=sampler)
    study.optimize(objective, n_trials=trials)
    return study


def area(study):
    scores, costs = np.array([t.values for t in study.trials]).T
    return hypervolume(np.log(costs), scores, CORNER)


@pytest.fixture(scope="module")
def found():
    return study_of(jn.JointNASSampler(seed=0, cost=cost))


def test_its_front_is_larger_than_that_of_random_search(found):
    random = [area(study_of(optuna.samplers.RandomSampler(seed=s))) for s in range(3)]
    assert area(found) > 1.1 * np.mean(random)


def test_optuna_shows_the_front(found):
    assert found.best_trials
    if optuna.visualization.is_available():
        assert optuna.visualization.plot_pareto_front(found).data


def test_the_cost_may_be_the_first_objective_and_the_score_be_minimised(found):
    swapped = lambda trial: (lambda s, c: (c, -s))(*objective(trial))
    sampler = jn.JointNASSampler(seed=0, cost=cost, cost_objective=0)
    study = study_of(sampler, 11, ("minimize", "minimize"), swapped)
    assert [t.params for t in study.trials] == [t.params for t in found.trials[:11]]
    # And a copy of the sampler goes on alike.
    study.sampler = pickle.loads(pickle.dumps(sampler))
    study.optimize(swapped, n_trials=1)
    assert study.trials[-1].params == found.trials[11].params


@pytest.mark.parametrize(
    ("sampler", "directions", "message"),
    [
        ({}, ("maximize", "minimize"), "searches one objective, and this study has 2"),
        ({"cost": cost}, ("maximize",), "for studies of two objectives"),
        ({"cost": cost}, ("maximize", "maximize"), "the one to minimise, number 1"),
        ({"cost": cost}, ("minimize",) * 3, "for studies of two objectives"),
    ],
)
def test_other_studies_are_refused(sampler, directions, message):
    study = optuna.create_study(
        directions=directions, sampler=jn.JointNASSampler(seed=0, **sampler)
    )
    with pytest.raises((JointNASError, ValueError), match=message):
        study.optimize(lambda trial: (trial.suggest_int("x", 1, 3),) * len(directions), n_trials=1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda p: 0 * p["layers"], "above 0, got 0"),
        (lambda p: "much", "a number for each of .* got 'much'"),
        (lambda p: np.ones(3), "a number for each"),
        (lambda p: p["size"], "failed on arrays of .* 'size'"),
    ],
)
def test_bad_costs_end_the_trial_with_a_line(wrong, message):
    with pytest.raises(JointNASError, match=message):
        study_of(jn.JointNASSampler(seed=0, n_startup_trials=2, cost=wrong), trials=4)


def test_a_parameter_of_one_value_is_given_to_the_cost():
    def fixed(trial):
        layers = trial.suggest_int("layers", 4, 4)
        width = trial.suggest_int("width", 1, 8)
        return float(width), layers * width

    sampler = jn.JointNASSampler(seed=0, n_startup_trials=2, cost=cost)
    assert len(study_of(sampler, 4, objective=fixed).trials) == 4


@pytest.mark.slow
def test_costs_of_another_study_are_not_its_own():
    """Both have one choice of three: its knob holds positions."""
    seen = []

    def watching(p):
        seen.append(p["size"])
        return p["size"]

    sampler = jn.JointNASSampler(seed=0, n_startup_trials=2, cost=watching)
    for choices in ([1, 2, 4], [8, 16, 32]):
        seen.clear()
        one = lambda trial, c=choices: (lambda x: (1.0 / x, x))(
            trial.suggest_categorical("size", c)
        )
        study_of(sampler, 4, objective=one)
        assert set(np.concatenate(seen)) <= set(choices)
