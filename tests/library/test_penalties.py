"""Penalties of any size for candidates that do not work: the search goes on as with mild ones."""

import dataclasses
import functools

import numpy as np
import optuna
import pytest
from small import PREDICTOR

import jointnas_jax as jn

optuna.logging.set_verbosity(optuna.logging.WARNING)
PENALTIES = {
    "-1e3": lambda rng: -1e3,
    "-1e12": lambda rng: -1e12,
    "above 32 bits": lambda rng: -1e300,
    "nearly infinite": lambda rng: -1.7e308,
    "several": lambda rng: -rng.choice([1e3, 1e6, 1e12]),
}
NAMES = ("x", "y", "z")


def score(point):
    """Best at (0.7, 0.2, 0.5), where it is 0."""
    return -float(np.square(np.subtract([point[name] for name in NAMES], [0.7, 0.2, 0.5])).sum())


def minority(point):
    return point["x"] + point["y"] > 1.2


def majority(point):
    """Seven of ten."""
    return not (abs(point["x"] - 0.65) < 0.3 and point["y"] < 0.5)


def regret(chosen, fails, penalty, sign, unit=1.0, trials=24):
    """What the best of a study lacks, in units."""
    rng, good = np.random.default_rng(0), []

    def objective(trial):
        point = {name: trial.suggest_float(name, 0, 1) for name in NAMES}
        if fails(point):
            return sign * penalty(rng) * unit
        good.append(score(point))
        return sign * unit * good[-1]

    study = optuna.create_study(direction="maximize" if sign > 0 else "minimize", sampler=chosen)
    study.optimize(objective, n_trials=trials)
    return -max(good)


def ours(seed):
    return jn.JointNASSampler(seed=seed, n_startup_trials=8, most_trials=32)


@functools.cache
def at_random(fails):
    """The regret of random search: half of ten studies have more."""
    regrets = [
        regret(optuna.samplers.RandomSampler(seed), fails, lambda rng: -1.0, 1.0)
        for seed in range(10)
    ]
    return np.median(regrets)


@pytest.mark.parametrize(
    "fails",
    [minority, pytest.param(majority, marks=pytest.mark.slow)],
    ids=["minority", "majority"],
)
@pytest.mark.parametrize(
    "name",
    [
        "-1e3",
        *(pytest.param(name, marks=pytest.mark.slow) for name in PENALTIES if name != "-1e3"),
    ],
)
def test_the_sampler_is_ahead_of_chance_with_any_penalty(name, fails):
    regrets = [regret(ours(seed), fails, PENALTIES[name], 1.0) for seed in range(2)]
    assert np.mean(regrets) < at_random(fails)


@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_units_and_directions_do_not_matter(unit):
    regrets = [regret(ours(0), minority, PENALTIES["-1e12"], sign, unit) for sign in (1.0, -1.0)]
    assert max(regrets) < at_random(minority)


def test_the_size_of_a_penalty_does_not_matter():
    """As soon as there are good scores to see that it is one."""
    found = [regret(ours(1), minority, PENALTIES[name], 1.0) for name in ("-1e12", "above 32 bits")]
    assert found[0] == pytest.approx(found[1], abs=1e-3)


@pytest.mark.parametrize("penalty", [pytest.param(-1e3, marks=pytest.mark.slow), -1e300])
def test_a_search_finds_nearly_the_best_with_any_penalty(penalty):
    space = jn.Space(*[jn.Knob.real(name, 0, 1) for name in NAMES])
    small = dataclasses.replace(PREDICTOR, process=True)
    settings = jn.SearchConfig(
        pool_size=128, evolution=jn.EvolutionConfig(population=32, generations=20)
    )
    evaluate = lambda points: [penalty if minority(p) else score(p) for p in points]
    search = functools.partial(
        jn.search, space, evaluate, evaluations=20, settings=settings, predictor=small
    )
    results = [search(seed=seed) for seed in range(3)]
    assert np.mean([-found.score for found in results]) < at_random(minority)
    for found in results:
        assert np.isfinite(found.report_card[1:]).all()
        mean, deviation = found.predictor.predict([t.candidate for t in found.trials])
        assert np.isfinite([mean, deviation]).all()
        bad = np.array([t.score == penalty for t in found.trials])
        assert bad.any()
        assert mean[bad].max() < mean[~bad].max()
