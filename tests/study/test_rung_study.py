"""Studies whose candidates stop at rungs, and go on."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from absl import flags
from compilations import compilations
from fake_training import fake_train_fn
from matplotlib.figure import Figure
from rich.console import Console

from jointnas_jax.command_line import parse_config
from jointnas_jax.errors import ConfigError, InterruptedStudyError
from jointnas_jax.execution.job import Job
from jointnas_jax.execution.local import LocalExecutor
from jointnas_jax.problem.problem import build_problem
from jointnas_jax.report.accuracy_figures import draw_learning_curves
from jointnas_jax.storage.study_reader import read_record, stored_trials
from jointnas_jax.study.run import run_study
from jointnas_jax.study.study_forecast import stand_in_batches
from jointnas_jax.telemetry.progress import Progress
from jointnas_jax.train.paused import Paused

TINY = str(Path(__file__).parent.parent / "support" / "tiny.py")
CONSOLE = Console(quiet=True)
TRAINING = "jit(on_one)"  # what JAX calls the programs of `train/parallel.py`
CURVE = ["--config.search.stopping=curve", "--config.train.epochs=4"]


def config(*arguments):
    return parse_config(["run", *CURVE, *arguments], TINY, flags.FlagValues())


def accuracy_of(job):
    """Better with the rate and at the end; what has 16 channels fails after the rung."""
    if job.resumed and job.candidate.arch.head.channels == 32:
        return None
    return job.candidate.recipe.lr + 0.01 * job.epochs


def run(workdir, *arguments, train_fn=None, **settings):
    return run_study(config(*arguments), workdir, CONSOLE, train_fn=train_fn, **settings)


class Batches(Progress):
    """Counts the batches of trainings that have begun."""

    begun = 0

    def batch_begins(self, *args):
        self.begun += 1
        super().batch_begins(*args)


@pytest.fixture(scope="module")
def finished_and_compiled(tmp_path_factory):
    """Real trainings, and what they compiled: name of a program, batches that had begun."""
    workdir, batches = tmp_path_factory.mktemp("rungs"), Batches()
    jax.clear_caches()  # what an earlier test or run compiled counts, too
    with compilations(lambda name: (name, batches.begun)) as compiled:
        result = run(workdir, progress=batches)
    assert batches.begun > 5
    return (workdir, result), compiled


@pytest.fixture(scope="module")
def finished(finished_and_compiled):
    return finished_and_compiled[0]


@pytest.fixture(scope="module")
def looked_up(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("looked_up")
    return workdir, run(workdir, train_fn=fake_train_fn(accuracy_of))


def by_number(workdir):
    return {trial.number: trial for trial in stored_trials(workdir)}


def test_what_goes_on_continues_the_curve_of_what_stopped(finished):
    workdir, result = finished
    trials = by_number(workdir)
    coarse = [t for t in trials.values() if t.stage == "coarse"]
    went_on = [t for t in coarse if t.resumed is not None]
    assert went_on
    for trial in went_on:
        before = trials[trial.resumed]
        assert (before.status, before.epochs) == ("PRUNED", 2)
        assert (trial.status, trial.epochs, trial.knobs) == ("COMPLETED", 4, before.knobs)
        assert trial.scores[:2] == before.scores
        assert len(trial.scores) == 4
    began = [t for t in coarse if t.resumed is None]
    assert {(t.status, t.epochs) for t in began} == {("PRUNED", 2)}
    assert len({tuple(t.knobs.items()) for t in began}) == len(began)
    assert result["rungs"] == [
        {"epochs": 2, "candidates": len(began)},
        {"epochs": 4, "candidates": len(went_on)},
    ]
    # Three rounds of three, in epochs.
    assert sum(t.epochs - 2 * (t.resumed is not None) for t in coarse) == 9 * 4


@pytest.mark.slow
def test_it_trains_as_if_it_had_never_stopped(finished):
    """But for the epoch at the rung, where averaged weights are judged."""
    workdir, _ = finished
    problem = build_problem(config())
    executor = LocalExecutor(problem.config, problem.space, problem.divided_images())
    trial = next(t for t in by_number(workdir).values() if t.resumed is not None)
    vector = problem.space.vector_from_values(trial.knobs)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 3), 0)
    (whole,) = executor.run([Job(problem.candidate(vector), key, 4)])
    np.testing.assert_allclose(whole.scores[2:], trial.scores[2:], atol=2e-3)
    np.testing.assert_allclose(whole.scores[0], trial.scores[0], atol=2e-3)


def test_nothing_compiles_after_the_first_rung(finished_and_compiled):
    """Not for what goes on, packs of other sizes, random search, finalists or winners.

    The search compiles what it learns and asks with when the first batch has ended, and no later.
    """
    _, compiled = finished_and_compiled
    training = [batch for name, batch in compiled if name == TRAINING]
    assert len(training) >= 2  # an epoch, a measurement; the plan may be that of an earlier test
    assert {*training} == {1}
    others = {batch for name, batch in compiled if name != TRAINING}
    assert others == {0, 1}


def test_nothing_of_what_paused_is_left(finished):
    workdir, _ = finished
    assert not (workdir / "paused").exists()


def test_random_search_trains_as_many_epochs(finished):
    workdir, result = finished
    random = [t for t in by_number(workdir).values() if t.stage == "random"]
    new = sum(f["source"] == "fine stage" for f in result["finalists"])
    assert {t.epochs for t in random} == {4}
    assert len(random) == 9 + new


def test_the_report_speaks_of_candidates_that_reached_the_end(finished):
    workdir, _ = finished
    record = read_record(workdir)
    ended = [t for t in record.trials if t["stage"] == "coarse" and t["status"] == "COMPLETED"]
    assert [t["number"] for t, _ in record.scored("coarse")] == [t["number"] for t in ended]
    assert sum(len(curve) == 4 for curve in record.curves) == len(ended)
    caption = draw_learning_curves(Figure(), record)
    assert f"{len(ended)} of {len(record.curves)} reached the end" in caption


def test_who_fails_after_a_rung_never_wins(looked_up):
    workdir, result = looked_up
    trials = by_number(workdir)
    failed = [t for t in trials.values() if t.status == "FAILED"]
    assert failed
    assert all(t.resumed is not None for t in failed)
    lost = [t.knobs for t in failed]
    assert not any(f["knobs"] in lost for f in result["finalists"])


@pytest.mark.parametrize(
    "moment", [7, *(pytest.param(m, marks=pytest.mark.slow) for m in (1, 4, 10, 13))]
)
def test_a_run_that_ends_anywhere_goes_on_to_the_same_trials(looked_up, tmp_path, moment):
    """States that paused are on disk before their trials are stored."""
    count = 0

    def interrupted(job):
        nonlocal count
        count += 1
        if count > moment:
            raise InterruptedStudyError
        return accuracy_of(job)

    with pytest.raises(InterruptedStudyError):
        run(tmp_path, train_fn=fake_train_fn(interrupted))
    result = run(tmp_path, train_fn=fake_train_fn(accuracy_of))
    strip = lambda t: dataclasses.replace(t, seconds=0.0)
    theirs, ours = by_number(looked_up[0]), by_number(tmp_path)
    assert {n: strip(t) for n, t in ours.items()} == {n: strip(t) for n, t in theirs.items()}
    assert result["winners"] == looked_up[1]["winners"]


@pytest.mark.slow
def test_a_damaged_state_trains_again_from_the_start(looked_up, tmp_path):
    seen = []

    def interrupted(job):
        if job.resumed:
            raise InterruptedStudyError
        return accuracy_of(job)

    with pytest.raises(InterruptedStudyError):
        run(tmp_path, train_fn=fake_train_fn(interrupted))
    for file in (tmp_path / "paused").rglob("*"):
        if file.is_file() and file.suffix != ".sha256":
            file.write_bytes(b"damaged")

    def watched(job):
        seen.append((job.first_epoch, job.epochs))
        return accuracy_of(dataclasses.replace(job, resumed=Paused(2)) if job.epochs == 4 else job)

    result = run(tmp_path, train_fn=fake_train_fn(watched))
    assert (0, 4) in seen
    assert result["winners"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.search.rungs=(.1,)"], "must lie inside of a training of 4 epochs"),
        (["--config.search.rungs=(.5,.2)"], "must be ascending shares of a training"),
        (["--config.search.acquisition=mean"], "needs the Gaussian process"),
        (
            ["--config.search.asynchronous=True", "--config.executor=ray"],
            "`config.search.asynchronous` must be false",
        ),
    ],
)
def test_bad_rungs_are_named(arguments, message):
    with pytest.raises(ConfigError, match=message.replace(".", r"\.").replace("(", r"\(")):
        config(*arguments)


@pytest.mark.parametrize("rungs", [(0.5,), (0.25, 0.5), (0.25, 0.75)])
def test_the_forecast_has_the_epochs_of_the_study(rungs):
    problem = build_problem(config(f"--config.search.rungs={rungs}"))
    batches = [b for b in stand_in_batches(problem, problem.pool()) if b.stage == "coarse"]
    epochs = sum(job.epochs - job.first_epoch for batch in batches for job in batch.jobs)
    assert abs(epochs - 9 * 4) <= 2
    for batch in batches:
        for job in batch.jobs:
            assert job.epochs in problem.config.rung_epochs
