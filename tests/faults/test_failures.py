"""Checks 6 to 9: failures stay local."""

import dataclasses

import jax
import numpy as np
import pytest
from absl import flags
from rich.console import Console
from runs import TINY
from table_study import train_lanes

from jointnas_jax.command_line import parse_config
from jointnas_jax.errors import SpaceError, StorageError, StudyError
from jointnas_jax.study import evaluator
from jointnas_jax.study.evaluator import Evaluator
from jointnas_jax.study.jobs import Job
from jointnas_jax.study.problem import build_problem
from jointnas_jax.study.run import run_study
from jointnas_jax.study.trials import stored_trials

CONSOLE = Console(quiet=True)


def config(*arguments):
    return parse_config(["run", TINY, *arguments], "", flags.FlagValues())


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Runs a study on a table in which a training may go wrong: `spoil(job)` raises."""

    def run(spoil, *arguments):
        def lanes(self, shape, jobs, *rest):
            for job in jobs:
                spoil(job)
            return train_lanes(self, shape, jobs, *rest)

        monkeypatch.setenv("JOINTNAS_TABLE_SECONDS", "0")
        monkeypatch.setattr(Evaluator, "_train_lanes", lanes)
        flags = ("--config.train.program=exact", "--config.study.devices=1", *arguments)
        return run_study(config(*flags), tmp_path, CONSOLE), stored_trials(tmp_path)

    return run


def is_sgd(job):
    return job.candidate.recipe.optimizer == "sgd"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("no such thing\nat all"), "ValueError: no such thing"),
        (MemoryError("cannot allocate"), "out_of_memory: cannot allocate"),
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"),
            "out_of_memory: RESOURCE_EXHAUSTED: Out of memory",
        ),
    ],
    ids=["raises", "host memory", "device memory"],
)
def test_a_candidate_that_fails_is_a_failed_trial_and_never_wins(study, error, reason):
    def spoil(job):
        if is_sgd(job):
            raise error

    result, trials = study(spoil)
    failed = [t for t in trials if t.status == "FAILED"]
    assert failed
    for trial in failed:
        assert (trial.score, trial.accuracies, trial.reason) == (None, (), reason)
    assert {t.knobs["optimizer"] for t in trials if t.status == "COMPLETED"} == {"rmsprop"}
    assert result["winners"][0]["knobs"]["optimizer"] == "rmsprop"
    assert sum(r["failed"] for r in result["rounds"]) == len(
        [t for t in failed if t.stage == "coarse"]
    )


def test_the_predictor_learns_nothing_from_a_failure(study, monkeypatch):
    from jointnas_jax.predictor.predictor import Predictor

    seen, fit = [], Predictor.fit
    monkeypatch.setattr(
        Predictor, "fit", lambda self, p, v, s, k: seen.append(s) or fit(self, p, v, s, k)
    )

    def spoil(job):
        if is_sgd(job):
            raise ValueError("broken")

    _, trials = study(spoil)
    # At whatever epoch the early-stop rule chose.
    scores = {round(a, 4) for t in trials if t.stage == "coarse" for a in t.accuracies}
    assert seen
    for fitted in seen:
        assert {round(float(s), 4) for s in fitted} <= scores


@pytest.mark.parametrize(
    "error", [StorageError("`a` cannot be written: No space left"), KeyboardInterrupt()]
)
def test_a_full_disk_and_ctrl_c_are_not_taken_for_a_bad_candidate(study, error):
    def spoil(job):
        raise error

    with pytest.raises(type(error)):
        study(spoil)


def test_everything_failing_ends_the_run_with_the_reasons(study):
    def spoil(job):
        raise ValueError("sgd breaks" if is_sgd(job) else "rmsprop breaks")

    with pytest.raises(StudyError, match="ValueError: rmsprop breaks; ValueError: sgd breaks"):
        study(spoil)


def test_a_budget_below_the_smallest_network_names_the_nearest(study):
    with pytest.raises(SpaceError, match=r"no candidate satisfies the budget.*at least [\d,]+"):
        study(lambda job: None, "--config.budget.flops=100")


# -- real training -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def problem():
    return build_problem(config())


def worker(problem, *arguments):
    split = problem.dataset.load("train[:96]")
    return Evaluator(config(*arguments), problem.space, split, np.arange(96) < 32, split)


def job(problem, lr=0.02, epochs=3, key=0, **knobs):
    vector = problem.space.vector_from_values(dict(config().default) | knobs | {"lr": 0.02})
    candidate = problem.space.decode(vector)
    recipe = dataclasses.replace(candidate.recipe, lr=lr)
    candidate = dataclasses.replace(candidate, recipe=recipe)
    return Job(candidate, jax.random.key(key), epochs)


@pytest.mark.parametrize("program", ["envelope", "exact"])
def test_a_lane_that_diverges_leaves_the_others_as_they_are(problem, program):
    flag = f"--config.train.program={program}"
    wide = dict(stage1_channels=16)
    good = [job(problem, key=1), job(problem, key=2, **wide)]
    mixed = [good[0], job(problem, lr=1e30, key=3), good[1], job(problem, lr=1e30, key=4, **wide)]
    first, lost, second, other = worker(problem, flag).run(mixed)
    for failed in (lost, other):
        assert failed.reason.startswith("loss was not finite at step")
        assert failed.variables is None
    for together, alone in zip((first, second), worker(problem, flag).run(good), strict=True):
        assert together.accuracies == alone.accuracies
        jax.tree.map(np.testing.assert_array_equal, together.variables, alone.variables)


def test_a_candidate_that_takes_too_long_fails(problem):
    slow, quick = worker(problem, "--config.study.trial_minutes=1e-6").run(
        [job(problem, epochs=500), job(problem, epochs=1)]
    )
    assert "TimeoutError: took longer than `config.study.trial_minutes` = 1e-06" in slow.reason
    assert "epoch 1 of 500" in slow.reason
    assert quick.reason is None


def test_a_pack_that_does_not_fit_is_split(problem, monkeypatch):
    """As a device says it that has no memory for more than two lanes."""
    sizes, real = [], evaluator.TrainProgram.train

    def train(self, candidates, *arguments, **more):
        sizes.append(len(candidates))
        if self.lanes > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return real(self, candidates, *arguments, **more)

    monkeypatch.setattr(evaluator.TrainProgram, "train", train)
    flags = [
        "--config.train.program=envelope",
        "--config.train.lanes=4",
        "--config.study.devices=1",
    ]
    outcomes = worker(problem, *flags).run([job(problem, epochs=1, key=i) for i in range(4)])
    assert [o.reason for o in outcomes] == [None] * 4
    assert sizes == [4, 2, 2]


def test_a_trial_says_in_which_pack_it_trained(problem):
    (exact,) = worker(problem, "--config.train.program=exact").run([job(problem, epochs=1)])
    (shared,) = worker(problem, "--config.train.program=envelope").run([job(problem, epochs=1)])
    assert exact.pack == "exact"
    assert shared.pack.startswith("envelope-")
