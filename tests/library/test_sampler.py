"""The searcher in studies of Optuna's, with the predictor at work."""

import numpy as np
import optuna
import pytest
from compilations import compilations
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

import jointnas_jax as jn
from jointnas_jax.errors import InputError
from jointnas_jax.library.memory import remember
from jointnas_jax.library.parameters import Parameters

optuna.logging.set_verbosity(optuna.logging.WARNING)


def sampler(seed=0, **arguments):
    """Small: proposals take a fraction of a second."""
    return jn.JointNASSampler(seed=seed, **{"n_startup_trials": 4, "most_trials": 32} | arguments)


def study(direction="minimize", **arguments):
    return optuna.create_study(direction=direction, sampler=sampler(**arguments))


def loss(trial):
    """Least at x = 3, lr = 0.01, kind "b"."""
    x = trial.suggest_int("x", -10, 10)
    lr = trial.suggest_float("lr", 1e-4, 1.0, log=True)
    kind = trial.suggest_categorical("kind", ["a", "b", "c"])
    return 0.1 * (x - 3) ** 2 + (np.log10(lr) + 2) ** 2 + 2 * (kind != "b")


@pytest.fixture(scope="module")
def finished():
    found = study()
    found.optimize(loss, n_trials=24)
    return found


def test_it_finds_the_optimum(finished):
    assert finished.best_params["x"] in (2, 3, 4)
    assert finished.best_params["kind"] == "b"
    assert finished.best_value < 0.15


def test_it_beats_random_sampling(finished):
    best = []
    for seed in range(10):
        other = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed))
        other.optimize(loss, n_trials=24)
        best.append(other.best_value)
    assert finished.best_value < np.min(best)


def test_the_direction_is_a_sign(finished):
    other = study("maximize")
    other.optimize(lambda trial: -loss(trial), n_trials=10)
    assert [t.params for t in other.trials] == [t.params for t in finished.trials[:10]]


def test_the_seed_decides(finished):
    again, other = study(), study(seed=1)
    again.optimize(loss, n_trials=8)
    other.optimize(loss, n_trials=8)
    assert [t.params for t in again.trials] == [t.params for t in finished.trials[:8]]
    assert [t.params for t in other.trials] != [t.params for t in finished.trials[:8]]


def test_all_that_it_knows_is_in_the_storage(finished, tmp_path):
    """A study goes on in another process, with a sampler that has seen nothing."""
    storage = f"sqlite:///{tmp_path}/trials.db"
    for count in (5, 3):
        resumed = optuna.create_study(
            study_name="s", storage=storage, sampler=sampler(), load_if_exists=True
        )
        resumed.optimize(loss, n_trials=count)
    assert [t.params for t in resumed.trials] == [t.params for t in finished.trials[:8]]


def test_another_trial_or_another_study_of_as_many_parameters_compiles_nothing(finished):
    with compilations() as compiled:
        other = study(seed=3)
        other.optimize(
            lambda trial: sum(trial.suggest_float(name, 0, i + 1) for i, name in enumerate("xyz")),
            n_trials=40,
        )
    assert compiled == []
    assert len({str(t.params) for t in other.trials}) == 40


def test_trials_that_run_are_not_tried_twice(finished):
    asking = study()
    asking.add_trials(finished.trials[:10])
    space = finished.trials[0].distributions
    running = [asking.ask(space) for _ in range(5)]
    assert len({str(t.params) for t in running}) == 5
    # Only asked: nothing is suggested yet, but the others know.
    trial = asking.ask()
    trial.relative_params  # noqa: B018
    assert asking.ask(space).params != trial.relative_params


def test_workers_try_different_things():
    parallel = study()
    parallel.optimize(loss, n_trials=12, n_jobs=2)
    assert len({str(t.params) for t in parallel.trials}) == 12
    assert all(t.state is TrialState.COMPLETE for t in parallel.trials)


def test_the_neighbourhood_of_failures_is_left():
    def fails(trial):
        value = loss(trial)
        if trial.params["kind"] == "b":
            raise RuntimeError("no memory")
        return value

    broken = study()
    broken.optimize(fails, n_trials=16, catch=RuntimeError)
    failed = [t.state is TrialState.FAIL for t in broken.trials]
    assert any(failed)
    assert np.mean(failed[8:]) < 0.3


def test_values_that_are_not_finite_count_as_failed():
    endless = study()
    endless.optimize(
        lambda t: -np.inf if t.suggest_categorical("a", [0, 1, 2]) else t.suggest_float("x", 0, 1),
        n_trials=8,
    )
    assert len(endless.trials) == 8


def test_where_every_trial_fails_it_goes_on():
    broken = study()
    space = {"x": FloatDistribution(0, 1)}
    for _ in range(6):
        broken.tell(broken.ask(space), state=TrialState.FAIL)
    assert len({t.params["x"] for t in broken.trials}) == 6


@pytest.mark.parametrize("way", ["constraints_func", "set_constraint"])
def test_constraints_are_learnt(way):
    """Without the constraint x = 3 is best; with it the best is at x = 0."""
    excess = lambda x: x / 10
    arguments = {}
    if way == "constraints_func":
        arguments = {"constraints_func": lambda trial: (excess(trial.params["x"]),)}

    def objective(trial):
        value = loss(trial)
        if way == "set_constraint":
            trial.set_constraint("x", excess(trial.params["x"]))
        return value

    constrained = study(**arguments)
    constrained.optimize(objective, n_trials=18)
    inside = [t.params["x"] <= 0 for t in constrained.trials]
    assert np.mean(inside[9:]) > 0.5
    assert constrained.best_trial.params["x"] in (-1, 0)


def test_as_long_as_no_trial_is_inside_it_looks_for_one():
    """One in a hundred is."""
    tight = study(constraints_func=lambda t: (abs(t.params["x"] - 0.7) - 0.005,), seed=2)
    tight.optimize(lambda t: t.suggest_float("x", 0, 1), n_trials=16)
    assert any(abs(t.params["x"] - 0.7) <= 0.005 for t in tight.trials)


def test_what_is_enqueued_is_tried():
    queue = study()
    queue.optimize(loss, n_trials=5)
    queue.enqueue_trial({"x": 3, "lr": 0.01, "kind": "b"})
    queue.enqueue_trial({"x": -10})
    queue.optimize(loss, n_trials=3)
    assert queue.trials[5].value == 0
    assert queue.trials[6].params["x"] == -10


def test_conditional_and_dynamic_parameters_are_drawn_at_random():
    def objective(trial):
        kind = trial.suggest_categorical("kind", ["a", "b"])
        inner = trial.suggest_float(f"only_{kind}", 0, 1)
        return inner + trial.suggest_int("range", 0, 10 + trial.number)

    dynamic = study()
    dynamic.optimize(objective, n_trials=10)
    space = dynamic.sampler.infer_relative_search_space(dynamic, dynamic.trials[0])
    assert list(space) == ["kind"]


SPACE = {
    "c": CategoricalDistribution(["a", None, 1, 0.5]),
    "pair": CategoricalDistribution(["a", "b"]),
    "i": IntDistribution(3, 9, step=3),
    "log": IntDistribution(1, 1000, log=True),
    "many": IntDistribution(0, 7 * 10**12, step=7),
    "huge": IntDistribution(-(2**60), 2**60),
    "f": FloatDistribution(-1.5, 2),
    "step": FloatDistribution(-10.2, 10.2, step=0.1),
    "small": FloatDistribution(1e-300, 1e300, log=True),
    "one": FloatDistribution(2, 2),
}


def test_every_value_is_in_its_range_and_comes_back():
    parameters = Parameters(SPACE)
    ends = np.array([[0] * len(SPACE), parameters.space.cardinalities - 1])
    drawn = parameters.space.sample(np.random.default_rng(0), 200)
    for vector in np.concatenate([ends, drawn]):
        values = parameters.values(vector)
        for name, value in values.items():
            assert SPACE[name]._contains(SPACE[name].to_internal_repr(value)), (name, value)
        np.testing.assert_array_equal(parameters.vector(values), vector)


def test_both_ends_of_a_range_are_tried():
    parameters = Parameters(SPACE)
    first = parameters.values(np.zeros(len(SPACE), np.int32))
    last = parameters.values(parameters.space.cardinalities - 1)
    for name in ("i", "log", "many", "huge", "f", "small"):
        assert (first[name], last[name]) == (SPACE[name].low, SPACE[name].high)


def test_values_of_others_count_as_their_nearest():
    parameters = Parameters({"f": FloatDistribution(0, 255), "c": CategoricalDistribution("ab")})
    assert parameters.vector({"f": 17.4, "c": "b"}).tolist() == [17, 1]
    assert parameters.vector({"f": 17.4, "c": "z"}) is None
    assert parameters.vector({"f": 17.4}) is None


def trials(*described):
    """Complete, pruned and failed trials of one parameter, from (x, value or state, reached)."""
    return [
        optuna.trial.create_trial(
            state=value if isinstance(value, TrialState) else TrialState.COMPLETE,
            value=None if isinstance(value, TrialState) else value,
            params={"x": x},
            distributions={"x": IntDistribution(0, 9)},
            intermediate_values=dict(enumerate(reached)),
        )
        for x, value, *reached in described
    ]


def memory(*described):
    parameters = Parameters({"x": IntDistribution(0, 9)})
    return remember(trials(*described), {}, parameters, sign=1.0)


def test_a_pruned_trial_counts_with_what_it_reached_but_never_as_a_good_one():
    pruned = TrialState.PRUNED
    found = memory((0, 1.0), (1, 3.0), (2, pruned, 0.5, 0.2), (3, pruned, 99.0), (4, pruned))
    assert found.measured[1].tolist() == [1.0, 3.0, 0.2, 2.0]
    assert found.failed.tolist() == [[4]]


def test_beyond_the_most_trials_the_best_and_the_latest_are_kept():
    found = memory(*[(x, float(-abs(x - 2))) for x in range(10)])
    seen = found.arrays(4)
    assert seen.vectors[:, 0].tolist() == [2, 1, 8, 9]
    assert seen.real == 4
    assert found.arrays(16).vectors[:10, 0].tolist() == [2, 1, 3, 0, 4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize(
    "arguments", [{"seed": -1}, {"n_startup_trials": 1.5}, {"most_trials": 0}, {"seed": "1"}]
)
def test_what_breaks_a_rule_is_one_line(arguments):
    with pytest.raises(InputError, match=f"`{next(iter(arguments))}` must be an integer"):
        jn.JointNASSampler(**arguments)
