"""`prior` of `jn.search` and of the sampler."""

import pickle

import numpy as np
import optuna
import pytest

import jointnas_jax as jn
from jointnas_jax.errors import InputError

SPACE = jn.Space(
    jn.Knob.choice("kind", ["a", "b", "c"]),
    jn.Knob.integer("x", 0, 40),
    jn.Knob.integer("y", 0, 40),
)
PRIOR = {"kind": {"b": 8}, "x": {"centre": 30, "width": 0.05}}
SMALL = jn.PredictorConfig(pretrain_epochs=0, members=1, full_epochs=1, frozen_epochs=1)
optuna.logging.set_verbosity(optuna.logging.ERROR)


def score(candidates):
    return [-abs(c["x"] - 30) - abs(c["y"] - 20) - 5 * (c["kind"] != "b") for c in candidates]


def test_the_first_candidates_of_a_search_follow_the_prior():
    def searched(**settings):
        return jn.search(
            SPACE,
            score,
            evaluations=8,
            per_round=8,
            settings=jn.SearchConfig(pool_size=64, propose="pool"),
            predictor=SMALL,
            **settings,
        )

    result = searched(prior=PRIOR)
    near = [abs(t.candidate["x"] - 30) <= 6 and t.candidate["kind"] == "b" for t in result.trials]
    assert sum(near) >= 3
    assert sum(near) < 8
    again = pickle.loads(pickle.dumps(result.predictor))
    candidates = [t.candidate for t in result.trials]
    np.testing.assert_allclose(
        again.predict(candidates)[0], result.predictor.predict(candidates)[0], rtol=1e-5
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(prior={"z": [1]}), "`prior` has the unknown knob `z`"),
        (dict(prior={"kind": [1, 2]}), "`prior.kind` must have a weight"),
        (dict(prior=[1]), "`prior` must be a dict"),
        (dict(settings=jn.SearchConfig(prior={"kind": [1, 2, 3]})), "give `prior` to `search`"),
        (dict(settings=jn.SearchConfig(trials_from="runs/a")), "trials_from.*is for studies"),
    ],
)
def test_a_wrong_prior_is_one_line_before_anything_is_evaluated(settings, message):
    with pytest.raises(InputError, match=message) as caught:
        jn.search(SPACE, lambda candidates: pytest.fail("evaluated"), **settings)
    assert "\n" not in str(caught.value)


def objective(trial):
    x = trial.suggest_int("x", 0, 40)
    kind = trial.suggest_categorical("kind", ["a", "b", None])
    return -abs(x - 30) - 5 * (kind != "b")


def trials(prior, count):
    study = optuna.create_study(
        direction="maximize", sampler=jn.JointNASSampler(seed=0, n_startup_trials=12, prior=prior)
    )
    study.optimize(objective, n_trials=count)
    return study.trials


def test_the_sampler_begins_by_the_prior_and_some_trials_do_not():
    near = lambda prior: sum(abs(t.params["x"] - 30) <= 6 for t in trials(prior, 12))
    followed = near({"x": {"centre": 30, "width": 0.05}, "kind": [1, 8, 1], "absent": [1]})
    assert near(None) < followed < 12


@pytest.mark.slow
def test_the_sampler_learns_with_a_prior():
    assert max(t.value for t in trials({"x": {"centre": 5, "width": 0.1}}, 20)) >= -2


@pytest.mark.parametrize("prior", [[1], {3: [1]}, 5])
def test_a_prior_of_the_sampler_has_names(prior):
    with pytest.raises(InputError, match="`prior` must be a dict"):
        jn.JointNASSampler(prior=prior)


def test_a_wrong_prior_of_a_parameter_is_told_when_it_is_suggested():
    with pytest.raises(InputError, match="`prior.x.centre` must be a number from 0 to 40"):
        trials({"x": {"centre": 50, "width": 0.1}}, 1)
