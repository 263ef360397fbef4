"""What people already have: candidates to try first, and trainings of an earlier study."""

import csv
import dataclasses
import json
from pathlib import Path

import pytest
from absl import flags
from fake_training import fake_train_fn
from rich.console import Console

import jointnas_jax as jn
from jointnas_jax.command_line import parse_config
from jointnas_jax.errors import ConfigError, InputError, WorkdirError
from jointnas_jax.problem.problem import build_problem
from jointnas_jax.storage.study_reader import stored_trials
from jointnas_jax.study.run import run_study

TINY = str(Path(__file__).parent.parent / "support" / "tiny.py")
QUICK = ("--config.search.rounds=2", "--config.train.epochs=2")


def config(*arguments):
    return parse_config(["run", *QUICK, *arguments], TINY, flags.FlagValues())


def run(workdir, *arguments, fails=lambda job: False):
    """A study whose trainings are functions; returns the jobs that trained."""
    jobs = []

    def accuracy_of(job):
        jobs.append(job)
        return None if fails(job) else job.candidate.recipe.lr

    train_fn = fake_train_fn(accuracy_of)
    run_study(config(*arguments), workdir, Console(quiet=True), train_fn=train_fn)
    return jobs


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    """Two rounds; candidates with RMSProp fail."""
    workdir = tmp_path_factory.mktemp("earlier")
    run(workdir, fails=lambda job: job.candidate.recipe.optimizer == "rmsprop")
    return workdir


def trials(workdir, *stages):
    strip = lambda trial: dataclasses.replace(trial, seconds=0.0, number=0)
    return [strip(t) for t in stored_trials(workdir) if t.stage in stages]


def test_a_study_goes_on_with_the_trainings_of_an_earlier_one(earlier, tmp_path):
    jobs = run(tmp_path / "more", "--config.search.rounds=3", f"--config.study.extend={earlier}")
    sound = [t for t in trials(earlier, "coarse", "random", "validate") if t.status != "FAILED"]
    stored = trials(tmp_path / "more", "coarse", "random", "validate")
    assert all(trial in stored for trial in sound if trial.stage == "random")
    trained = [job for job in jobs if not job.kept]
    assert len(trained) < len(stored)
    # What failed trains again, and is sound now.
    assert not any(trial.status == "FAILED" for trial in stored)
    again = {job.candidate.recipe.optimizer for job in trained}
    assert "rmsprop" in again


@pytest.mark.slow
def test_it_is_the_study_that_trains_everything(earlier, tmp_path):
    """Whatever is taken from elsewhere: the same trials, in the same order."""
    run(tmp_path / "whole", "--config.search.rounds=3")
    run(tmp_path / "half", "--config.search.rounds=2")
    run(
        tmp_path / "more",
        "--config.search.rounds=3",
        f"--config.study.extend={tmp_path / 'half'}",
    )
    every = ("coarse", "random", "validate", "retrain")
    assert trials(tmp_path / "more", *every) == trials(tmp_path / "whole", *every)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.seed=1", "are others: `config.seed` is 0 there, 1 here"),
        pytest.param(
            "--config.train.batch_size=16",
            "`config.train.batch_size` is 32 there, 16 here",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "--config.search.score=accuracy", "`config.search.score`", marks=pytest.mark.slow
        ),
    ],
)
def test_other_trainings_are_refused(earlier, tmp_path, flag, message):
    with pytest.raises(ConfigError, match=message):
        run(tmp_path / "other", flag, f"--config.study.extend={earlier}")
    assert not (tmp_path / "other").exists()


def test_a_workdir_without_a_study_is_one_line(tmp_path):
    with pytest.raises(WorkdirError, match="holds no study"):
        run(tmp_path / "x", f"--config.study.extend={tmp_path / 'nowhere'}")


def test_enqueued_candidates_train_first_even_more_than_a_round_has(tmp_path):
    problem = build_problem(config())
    names = []
    for i, vector in enumerate(problem.pool()[8:13]):
        names.append(tmp_path / f"{i}.json")
        names[-1].write_text(json.dumps(problem.candidate(vector).to_dict()))
    flag = f"--config.search.enqueue={','.join(map(str, names))}"
    run(tmp_path / "study", flag, "--noconfig.study.random_reference")
    first = [t.knobs for t in trials(tmp_path / "study", "coarse")][:5]
    assert first == [problem.space.values(vector) for vector in problem.pool()[8:13]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data["recipe"].update(lr=0.017), "cannot be tried.*lr"),
        (lambda data: data["arch"]["head"].update(channels=24), "cannot be tried"),
        (lambda data: data.clear(), "cannot be tried"),
    ],
)
def test_candidates_that_are_not_in_the_space_are_named(tmp_path, change, message):
    problem = build_problem(config())
    data = problem.default.to_dict()
    change(data)
    (tmp_path / "x.json").write_text(json.dumps(data))
    with pytest.raises(ConfigError, match=message):
        build_problem(config(f"--config.search.enqueue={tmp_path / 'x.json'}")).pool()


def test_candidates_over_the_budget_are_named(tmp_path):
    problem = build_problem(config())
    (tmp_path / "x.json").write_text(json.dumps(problem.default.to_dict()))
    flags_ = (f"--config.search.enqueue={tmp_path / 'x.json'}", "--config.budget.flops=1K")
    with pytest.raises(InputError, match="budget") as caught:
        build_problem(config(*flags_)).pool()
    assert "\n" not in str(caught.value)


def test_the_table_of_trials_is_a_frame(earlier):
    frame = jn.trials(earlier)
    stored = stored_trials(earlier)
    assert frame["number"].tolist() == [t.number for t in stored]
    assert frame["lr"].tolist() == [t.knobs["lr"] for t in stored]
    assert frame["cost_flops"].tolist() == [t.costs["flops"] for t in stored]
    failed = frame["status"] == "FAILED"
    assert frame["accuracy"].isna().tolist() == failed.tolist()
    with (earlier / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["number"]) for row in rows] == frame["number"].tolist()
    assert list(rows[0]) == list(frame.columns)
