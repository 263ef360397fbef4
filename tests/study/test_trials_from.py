"""Trials of earlier studies, and priors, inform a study; failed trials train again."""

import dataclasses
import io
import json
import shutil
from pathlib import Path

import pytest
from absl import flags
from fake_training import fake_train_fn
from rich.console import Console

from jointnas_jax.command_line import parse_config
from jointnas_jax.errors import ConfigError, DamagedError, InterruptedStudyError
from jointnas_jax.files import read_json
from jointnas_jax.storage.database import sqlite_url
from jointnas_jax.storage.study_reader import read_trials, stored_trials
from jointnas_jax.study.budgets import BudgetSearch
from jointnas_jax.study.run import dry_run, run_study

TINY = str(Path(__file__).parent.parent / "support" / "tiny.py")
QUICK = (
    "--config.search.rounds=2",
    "--config.train.epochs=2",
    "--config.study.seeds=1",
    "--noconfig.study.random_reference",
)


def config(*arguments):
    return parse_config(["run", *QUICK, *arguments], TINY, flags.FlagValues())


def accuracy_of(job):
    return job.candidate.recipe.lr + 0.001 * job.candidate.arch.head.channels


def run(workdir, *arguments, accuracy=accuracy_of, console=None):
    """A study whose trainings are functions."""
    console = console or Console(quiet=True)
    return run_study(config(*arguments), workdir, console, train_fn=fake_train_fn(accuracy))


def trials(workdir):
    return [dataclasses.replace(trial, seconds=0.0) for trial in stored_trials(workdir)]


def stops_after(count):
    """An accuracy that ends the run after so many trainings."""
    left = [count]

    def accuracy(job):
        left[0] -= 1
        if left[0] < 0:
            raise InterruptedStudyError
        return accuracy_of(job)

    return accuracy


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("earlier")
    run(workdir, "--config.seed=1")
    return workdir


@pytest.fixture(scope="module")
def informed(tmp_path_factory, earlier):
    """A study that learns from the earlier one; its workdir and its result."""
    workdir = tmp_path_factory.mktemp("informed")
    return workdir, run(workdir, f"--config.search.trials_from={earlier}")


def test_foreign_trials_inform_the_predictor_and_are_no_trials_of_the_study(earlier, informed):
    workdir, result = informed
    (expected,) = result["expectations"]
    assert expected["source"] == str(earlier)
    assert expected["correlation"] > 0.5
    assert result["trials"] == len(trials(workdir))
    kept = read_json(workdir / "foreign_trials.json")["studies"]
    searched = {json.dumps(t.knobs) for t in trials(earlier) if t.stage == "coarse"}
    assert {json.dumps(one["knobs"]) for one in kept[0]["trials"]} == searched
    # What is asked for is told apart by the predictor alone: the first round has none.
    assert all(t.predicted is None for t in trials(workdir)[:3])


def test_it_goes_on_to_the_same_bits_when_the_earlier_study_is_gone(earlier, informed, tmp_path):
    gone = tmp_path / "gone"
    shutil.copytree(earlier, gone)
    flag = f"--config.search.trials_from={gone}"
    with pytest.raises(InterruptedStudyError):
        run(tmp_path / "study", flag, accuracy=stops_after(4))
    shutil.rmtree(gone)
    result = run(tmp_path / "study", flag)
    assert trials(tmp_path / "study") == trials(informed[0])
    expected = [{**e, "source": str(gone)} for e in informed[1]["expectations"]]
    assert result["expectations"] == expected


@pytest.mark.slow
def test_what_was_kept_of_it_has_a_digest(earlier, tmp_path):
    flag = f"--config.search.trials_from={earlier}"
    with pytest.raises(InterruptedStudyError):
        run(tmp_path, flag, accuracy=stops_after(1))
    file = tmp_path / "foreign_trials.json"
    file.write_text(file.read_text().replace("sgd", "rmsprop", 1))
    with pytest.raises(DamagedError, match="foreign_trials"):
        run(tmp_path, flag)


@pytest.mark.slow
def test_a_database_names_a_study_and_other_budgets_know_what_it_learnt(
    earlier, informed, tmp_path
):
    url = sqlite_url(earlier).render_as_string()
    for name in (url, f"{url}#tiny"):
        study = run(tmp_path / name[-4:], f"--config.search.trials_from={name}")
        assert study["expectations"][0]["source"] == f"{url}#tiny"
        assert study["winners"] == informed[1]["winners"]
    for name, message in ((f"{url}#other", "tiny.*other"), (f"{url}x", "no database")):
        with pytest.raises(ConfigError, match=message):
            run(tmp_path / "x", f"--config.search.trials_from={name}")
    search = BudgetSearch(informed[0])
    winner = informed[1]["winners"][0]
    vector = search.problem.space.vector_from_values(winner["knobs"])
    again = search.predictor.predict(search.fitted, vector[None])[0][0]
    assert again == pytest.approx(winner["predicted"], abs=1e-5)


def test_a_dry_run_says_what_is_learnt_from(earlier, tmp_path):
    given = write_config(
        tmp_path,
        "config.space.recipe.lr = (0.03, 0.09, 0.01)",
        "config.default.lr = 0.03",
        "config.search.prior = dict(lr=[1, 1, 1, 1, 1, 1, 2])",
    )
    flag = f"--config.search.trials_from={earlier}"
    text = io.StringIO()
    checked = parse_config(["run", *QUICK, flag], given, flags.FlagValues())
    dry_run(checked, Console(file=text, width=400))
    said = text.getvalue()
    assert "expects good values of lr by a prior" in said
    rates = [t.knobs["lr"] for t in trials(earlier) if t.stage == "coarse"]
    inside = [rate for rate in rates if rate >= 0.03]
    shared = len(inside) >= len(rates) / 2
    count = len(inside) if shared else len(rates)
    assert f"learns from {count} trials of `{earlier}` on {4 + shared} of 5 knobs" in said


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.search.trials_from=NOWHERE", "trials_from.*holds no study"),
        ("--config.search.trials_from=gs://a/b", "trials_from"),
        ("--config.search.trials_from=postgresql://me:secret@host/x", "password"),
    ],
)
def test_what_is_no_study_is_one_line_before_anything_trains(tmp_path, flag, message):
    with pytest.raises(ConfigError, match=message) as caught:
        run(tmp_path / "x", flag.replace("NOWHERE", str(tmp_path / "nowhere")))
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert not (tmp_path / "x" / "config.json").exists()


def test_the_process_learns_from_it():
    with pytest.raises(ConfigError, match="needs the Gaussian process"):
        config("--config.search.trials_from=x", "--noconfig.predictor.process")


def write_config(folder, *lines):
    """The tiny config with more lines."""
    file = folder / "with_prior.py"
    body = [f"config = runpy.run_path({TINY!r})['get_config']()", *lines, "return config"]
    head = "import runpy\n\ndef get_config():\n"
    file.write_text(head + "".join(f"    {line}\n" for line in body))
    return str(file)


def test_a_prior_of_a_config_shapes_a_study(tmp_path):
    prior = "config.search.prior = dict(lr=dict(centre=0.05, width=0.2), optimizer=[1, 9])"
    parsed = parse_config(["run", *QUICK], write_config(tmp_path, prior), flags.FlagValues())
    train = fake_train_fn(accuracy_of)
    result = run_study(parsed, tmp_path / "study", Console(quiet=True), train_fn=train)
    (expected,) = result["expectations"]
    assert expected["source"] == "prior"
    assert expected["correlation"] is not None
    # Finished: read again, with the same config.
    assert run_study(parsed, tmp_path / "study", Console(quiet=True), train_fn=train) == result


@pytest.mark.parametrize("mode", ["recipe", "arch"])
def test_a_prior_of_knobs_that_the_mode_fixes_is_left_out(tmp_path, mode):
    from jointnas_jax.problem.problem import build_problem

    prior = "config.search.prior = dict(lr=dict(centre=0.05, width=0.2), head_channels=[1, 2])"
    given = write_config(tmp_path, prior)
    problem = build_problem(
        parse_config(["run", f"--config.mode={mode}"], given, flags.FlagValues())
    )
    assert len(problem.prior.weights) == len(problem.space.knobs)


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        ("dict(rate=[1])", "`config.search.prior` has the unknown knob `rate`"),
        ("dict(optimizer=[1, 2, 3])", "`config.search.prior.optimizer` must have a weight for"),
    ],
)
def test_a_wrong_prior_is_one_line(tmp_path, prior, message):
    given = write_config(tmp_path, f"config.search.prior = {prior}")
    with pytest.raises(ConfigError, match=message) as caught:
        parse_config(["run"], given, flags.FlagValues())
    assert "\n" not in str(caught.value)


def fails_with(optimizer):
    return lambda job: None if job.candidate.recipe.optimizer == optimizer else accuracy_of(job)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The study in which nothing fails."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, run(workdir)


def broken(workdir, after=5):
    """An unfinished study with sound and failed trials."""
    fails, left = fails_with("rmsprop"), stops_after(after)
    with pytest.raises(InterruptedStudyError):
        run(workdir, accuracy=lambda job: left(job) and fails(job))
    assert {trial.status for trial in read_trials(workdir)} == {"COMPLETED", "FAILED"}


RETRY = "--config.study.retry_failed"


def test_failed_trials_train_again_as_if_they_had_not_failed(whole, tmp_path):
    broken(tmp_path)
    jobs = []

    def accuracy(job):
        jobs.append(job)
        return accuracy_of(job)

    result = run(tmp_path, RETRY, accuracy=accuracy)
    assert trials(tmp_path) == trials(whole[0])
    assert result["winners"] == whole[1]["winners"]
    # Not all of them trained again.
    assert len(jobs) < len(trials(tmp_path))
    assert not (tmp_path / "retried_trials.json").exists()


def test_without_it_a_failed_trial_stays_one(tmp_path):
    broken(tmp_path)
    run(tmp_path)
    assert any(trial.status == "FAILED" for trial in trials(tmp_path))


@pytest.mark.slow
def test_what_fails_again_leaves_the_study_as_it_was(tmp_path):
    run(tmp_path / "one", accuracy=fails_with("rmsprop"))
    broken(tmp_path / "two")
    run(tmp_path / "two", RETRY, accuracy=fails_with("rmsprop"))
    assert trials(tmp_path / "two") == trials(tmp_path / "one")


@pytest.mark.slow
@pytest.mark.parametrize("moment", [0, 1, 2])
def test_a_retry_that_is_interrupted_loses_nothing(whole, tmp_path, moment):
    broken(tmp_path)
    with pytest.raises(InterruptedStudyError):
        run(tmp_path, RETRY, accuracy=stops_after(moment))
    jobs = []

    def accuracy(job):
        jobs.append(job)
        return accuracy_of(job)

    run(tmp_path, accuracy=accuracy)
    assert trials(tmp_path) == trials(whole[0])
    assert len(jobs) < len(trials(tmp_path))


def test_a_finished_study_says_how_its_failures_train_again(whole):
    text = io.StringIO()
    assert run(whole[0], RETRY, console=Console(file=text, width=400)) == whole[1]
    assert f"--config.study.extend={whole[0]}" in text.getvalue().replace("\n", "")
