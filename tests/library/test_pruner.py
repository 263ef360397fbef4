"""The pruner in studies of Optuna's, of one objective and of a front."""

import math

import numpy as np
import optuna
import pytest

import jointnas_jax as jn
from jointnas_jax.errors import InputError

EPOCHS = 8


def curve(quality, epoch, rng):
    """From epoch 3 on it tells of the end, before that of nothing."""
    if epoch < 3:
        return rng.normal()
    return quality * epoch / EPOCHS + 0.02 * rng.normal()


def size(params):
    return params["width"] * 10.0


def single(pruner, trials=40, direction="maximize", seed=0):
    """A study of one objective; returns it, and the steps at which trials were stopped."""
    study = optuna.create_study(
        direction=direction, sampler=optuna.samplers.RandomSampler(seed=seed), pruner=pruner
    )
    rng, sign = np.random.default_rng(seed), 1 if direction == "maximize" else -1

    def objective(trial):
        quality = trial.suggest_float("x", 0, 1)
        for epoch in range(1, EPOCHS + 1):
            trial.report(sign * curve(quality, epoch, rng), epoch)
            if trial.should_prune():
                raise optuna.TrialPruned()
        return sign * quality

    study.optimize(objective, n_trials=trials)
    return study


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_bad_trials_stop_and_the_best_do_not(direction):
    study = single(jn.JointNASPruner(), direction=direction)
    pruned = [t for t in study.trials if t.state is optuna.trial.TrialState.PRUNED]
    every = [t.params["x"] for t in study.trials]
    assert len(pruned) >= 15
    assert study.best_trial.params["x"] == max(every)
    assert max(t.params["x"] for t in pruned) < max(every)


def test_a_step_that_says_nothing_stops_few():
    study = single(jn.JointNASPruner())
    last = [t.last_step for t in study.trials if t.state is optuna.trial.TrialState.PRUNED]
    assert sum(step < 3 for step in last) <= 0.2 * len(last)


def test_nobody_stops_before_enough_trials_are_complete():
    study = single(jn.JointNASPruner(n_startup_trials=10))
    states = [t.state for t in study.trials]
    assert states.index(optuna.trial.TrialState.PRUNED) >= 10


def test_steps_before_the_warm_up_and_between_stop_nobody():
    study = single(jn.JointNASPruner(n_warmup_steps=4, interval_steps=2))
    last = {t.last_step for t in study.trials if t.state is optuna.trial.TrialState.PRUNED}
    assert last
    assert last <= {4, 6, 8}


def test_a_value_that_is_no_number_stops_a_trial():
    study = optuna.create_study(pruner=jn.JointNASPruner())
    trial = study.ask()
    trial.report(math.nan, 1)
    assert trial.should_prune()


def front(trials=40, sampler=None, prune=True, bad=0):
    """A study of two objectives: larger ones are better, and dearer; `bad` trials at its end."""
    pruner = jn.JointNASPruner(cost=size)
    sampler = sampler or optuna.samplers.RandomSampler(seed=0)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    rng = np.random.default_rng(0)

    def objective(trial):
        width = trial.suggest_int("width", 1, 8)
        quality = 0.1 * width + trial.suggest_float("x", 0, 1)
        for epoch in range(1, EPOCHS + 1):
            pruner.report(trial, curve(quality, epoch, rng), epoch)
            if prune and pruner.should_prune(trial):
                raise optuna.TrialPruned()
        return quality, size(trial.params)

    study.optimize(objective, n_trials=trials)
    for number in range(bad):
        study.enqueue_trial({"width": 8, "x": 0.02 * number})
    study.optimize(objective, n_trials=bad + (1 if bad else 0))
    return study


def test_a_trial_of_a_front_is_compared_with_what_is_as_cheap():
    stopped, whole = front(), front(prune=False)
    pruned = [t for t in stopped.trials if t.state is optuna.trial.TrialState.PRUNED]
    assert len(pruned) >= 10
    # Random search draws the same trials: what is on the front is still there.
    members = lambda study: {t.number for t in study.best_trials}
    assert len(members(whole) & members(stopped)) >= len(members(whole)) - 1
    # A cheap trial is worse than dear ones, and goes on all the same.
    assert min(t.values[1] for t in stopped.best_trials) <= 20


def test_the_sampler_learns_from_what_was_stopped():
    sampler = jn.JointNASSampler(seed=0, cost=size)
    study = front(trials=14, sampler=sampler, bad=3)
    states = [t.state for t in study.trials]
    assert optuna.trial.TrialState.PRUNED in states[14:17]
    # What it proposes then is nowhere near.
    assert study.trials[-1].params["x"] > 0.1


def test_other_numbers_of_objectives_are_named():
    two = optuna.create_study(directions=["maximize", "minimize"])
    trial = two.ask()
    trial.suggest_int("width", 1, 8)
    pruner = jn.JointNASPruner()
    pruner.report(trial, 0.5, 1)
    with pytest.raises(InputError, match="this study has 2, and the pruner no `cost`"):
        pruner.should_prune(trial)
    with pytest.raises(InputError, match="`value` must be a number, got 'good'"):
        pruner.report(trial, "good", 1)
