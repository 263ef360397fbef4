"""Checks 6 to 9: failures stay local."""

import dataclasses
import errno
import threading
import time
import types

import jax
import numpy as np
import pytest
from absl import flags
from rich.console import Console
from runs import TABLE, TINY, run
from table_study import look_up

from jointnas_jax.command_line import parse_config
from jointnas_jax.errors import DataError, SpaceError, StorageError, StudyError
from jointnas_jax.execution import local as evaluator
from jointnas_jax.execution.job import Job, RunContext
from jointnas_jax.execution.local import LocalExecutor
from jointnas_jax.execution.schedule import Assignment, Layout
from jointnas_jax.problem.problem import build_problem
from jointnas_jax.storage.study_reader import stored_trials
from jointnas_jax.storage.trial_store import TrialStore
from jointnas_jax.study.run import run_study

CONSOLE = Console(quiet=True)


def config(*arguments):
    return parse_config(["run", TINY, *arguments], "", flags.FlagValues())


@pytest.fixture
def study(tmp_path):
    """Runs a study on a table in which a training may go wrong: `spoil(job)` raises."""

    def run(spoil, *arguments):
        def train_fn(assignment, jobs, stop):
            for job in jobs:
                spoil(job)
            return look_up(assignment, jobs, stop)

        flags = ("--config.train.program=exact", "--config.study.devices=1", *arguments)
        result = run_study(config(*flags), tmp_path, CONSOLE, train_fn=train_fn)
        return result, stored_trials(tmp_path)

    return run


def is_sgd(job):
    return job.candidate.recipe.optimizer == "sgd"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        pytest.param(
            ValueError("no such thing\nat all"),
            "ValueError: no such thing",
            marks=pytest.mark.slow,
        ),
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

    def watched(self, pretrained, vectors, scores, **rest):
        seen.append(scores)
        return fit(self, pretrained, vectors, scores, **rest)

    monkeypatch.setattr(Predictor, "fit", watched)

    def spoil(job):
        if is_sgd(job):
            raise ValueError("broken")

    _, trials = study(spoil)
    # At whatever epoch the early-stop rule chose.
    scores = {round(a, 4) for t in trials if t.stage == "coarse" for a in t.accuracies}
    assert seen
    for fitted in seen:
        assert {round(float(s), 4) for s in fitted} <= scores


def caused(error, cause):
    error.__cause__ = cause
    return error


NO_SPACE = "RESOURCE_EXHAUSTED: mkdir: No space left on device"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (StorageError("`a` cannot be written: No space left"), StorageError),
        (OSError(errno.ENOSPC, "No space left on device"), StorageError),
        (OSError(errno.EIO, "Input/output error"), StorageError),
        (caused(ValueError("cannot read"), OSError(errno.EIO, "Input/output")), StorageError),
        (jax.errors.JaxRuntimeError(NO_SPACE), StorageError),
        (DataError("an example in 3..5 cannot be decoded"), StudyError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
    ids=repr,
)
def test_a_full_disk_unreadable_images_and_ctrl_c_are_no_fault_of_a_candidate(study, error, kind):
    def spoil(job):
        raise error

    with pytest.raises(kind) as raised:
        study(spoil)
    assert getattr(raised.value, "exit_code", 1) == 1
    assert "every candidate failed" not in str(raised.value)


TWO_WORKERS = [
    "--config.train.program=exact",
    "--config.study.devices=2",
    "--config.search.per_round=9",
]


def test_a_worker_that_cannot_write_ends_the_run_while_others_train(tmp_path):
    began, release, lock = [], threading.Event(), threading.Lock()

    def train_fn(assignment, jobs, stop):
        with lock:
            began.append(jobs)
            first = len(began) == 1
        if first:
            raise StorageError("`a` cannot be written: No space left")
        release.wait(60)
        return look_up(assignment, jobs, stop)

    asked = time.monotonic()
    with pytest.raises(StorageError):
        run_study(config(*TWO_WORKERS), tmp_path, CONSOLE, train_fn=train_fn)
    try:
        assert time.monotonic() - asked < 50
    finally:
        release.set()


BUSY = """
import time
from jointnas_jax.errors import StorageError
from jointnas_jax.storage.trial_store import TrialStore
began = []
def train_fn(assignment, jobs, stop):
    began.append(jobs)
    time.sleep(0 if len(began) == 1 else 1000)
    return look_up(assignment, jobs, stop)
def full(self, trial, knobs):
    raise StorageError("`a` cannot be written: No space left")
TrialStore.append = full
"""


def test_a_run_that_cannot_store_a_trial_does_not_wait_for_those_that_train(tmp_path):
    _, err = run(TABLE, tmp_path, TINY, *TWO_WORKERS, code=1, JOINTNAS_TABLE_FAULT=BUSY)
    assert "error: `a` cannot be written" in err


def test_after_an_error_in_the_main_thread_no_worker_takes_another_job(tmp_path, monkeypatch):
    began = []

    def train_fn(assignment, jobs, stop):
        began.append(jobs)
        time.sleep(0.05)
        return look_up(assignment, jobs, stop)

    def full(self, trial, knobs):
        raise StorageError("`a` cannot be written: No space left")

    monkeypatch.setattr(TrialStore, "append", full)
    with pytest.raises(StorageError):
        run_study(config(*TWO_WORKERS), tmp_path, CONSOLE, train_fn=train_fn)
    time.sleep(0.5)
    assert len(began) <= 4  # of 9: two that train, and two that were taken meanwhile


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


def worker(problem, *arguments, context=None):
    split = problem.dataset.load("train[:96]")
    images = (split, np.arange(96) < 32, split)
    return LocalExecutor(config(*arguments), problem.space, images, context=context)


def job(problem, lr=0.02, epochs=3, key=0, **knobs):
    vector = problem.space.vector_from_values(dict(config().default) | knobs | {"lr": 0.02})
    candidate = problem.space.decode(vector)
    recipe = dataclasses.replace(candidate.recipe, lr=lr)
    candidate = dataclasses.replace(candidate, recipe=recipe)
    return Job(candidate, jax.random.key(key), epochs)


@pytest.mark.parametrize("program", ["envelope", pytest.param("exact", marks=pytest.mark.slow)])
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


def test_a_candidate_that_raises_leaves_those_beside_it_as_they_are(problem, monkeypatch):
    real = evaluator.TrainProgram.train

    def train(self, candidates, *arguments, **more):
        if any(candidate.recipe.lr == 0.03 for candidate in candidates):
            raise error
        return real(self, candidates, *arguments, **more)

    monkeypatch.setattr(evaluator.TrainProgram, "train", train)
    good = [job(problem, key=1), job(problem, key=2, stage1_channels=16)]
    here = worker(problem, "--config.train.program=envelope")
    undisturbed = here.run(good)
    for error in (ValueError("broken"), MemoryError("none"), TimeoutError("slow")):
        first, lost, second = here.run([good[0], job(problem, lr=0.03), good[1]])
        assert lost.reason.endswith(str(error))
        assert (lost.accuracies, lost.variables) == ((), None)
        for mixed, alone in zip((first, second), undisturbed, strict=True):
            assert mixed.reason is None
            assert mixed.accuracies == alone.accuracies
            jax.tree.map(np.testing.assert_array_equal, mixed.variables, alone.variables)


def test_a_candidate_that_takes_too_long_fails(problem):
    slow, quick = worker(problem, "--config.study.trial_minutes=1e-6").run(
        [job(problem, epochs=500), job(problem, epochs=1)]
    )
    assert "TimeoutError: took longer than `config.study.trial_minutes` = 1e-06" in slow.reason
    assert "epoch 2 of 500" in slow.reason
    assert quick.reason is None


def test_compiling_takes_nothing_of_a_trials_time(problem, monkeypatch):
    """However long the first epoch is waited for."""
    now = 0.0
    monkeypatch.setattr(evaluator, "time", types.SimpleNamespace(monotonic=lambda: now))
    limited = worker(problem, "--config.study.trial_minutes=1")
    jobs = [job(problem, epochs=9)]
    alone = Assignment(problem.default.arch, {0: jobs[0]}, 1, Layout.ALL)
    progress = limited._after_epoch(alone, jobs, threading.Event())
    now = 3600.0
    progress(1, 0.1)
    now += 59.0
    progress(2, 0.1)
    now += 2.0
    with pytest.raises(TimeoutError, match="epoch 3 of 9"):
        progress(3, 0.1)


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
    split = worker(problem, *flags)
    for _ in range(2):  # the second round knows
        outcomes = split.run([job(problem, epochs=1, key=i) for i in range(4)])
        assert [o.reason for o in outcomes] == [None] * 4
    assert sizes == [4, 2, 2, 2, 2]


def test_a_group_that_was_stored_in_part_goes_on_from_its_state(problem, monkeypatch, tmp_path):
    """As after a kill between the trials of trainings that ended together."""
    epochs, real = [], evaluator.TrainProgram._one_epoch

    def one_epoch(self, lanes, data, epoch):
        epochs.append(epoch)
        return real(self, lanes, data, epoch)

    monkeypatch.setattr(evaluator.TrainProgram, "_one_epoch", one_epoch)
    flags = ["--config.train.program=envelope", "--config.study.checkpoint_minutes=0"]
    jobs = [job(problem, epochs=4, key=i) for i in range(4)]
    context = RunContext(tmp_path)
    monkeypatch.setattr(context.progress, "say", pytest.fail)
    here = worker(problem, *flags, context=context)
    whole = here.run(jobs)
    rest = dict(here.train(jobs, stored={0, 2}))
    assert epochs == [0, 1, 2, 3, 3]
    assert sorted(rest) == [1, 3]
    for i, outcome in rest.items():
        assert outcome.accuracies == whole[i].accuracies
        jax.tree.map(np.testing.assert_array_equal, outcome.variables, whole[i].variables)


def test_a_trial_says_in_which_pack_it_trained(problem):
    (exact,) = worker(problem, "--config.train.program=exact").run([job(problem, epochs=1)])
    (shared,) = worker(problem, "--config.train.program=envelope").run([job(problem, epochs=1)])
    assert exact.pack == "exact"
    assert shared.pack.startswith("envelope-")
