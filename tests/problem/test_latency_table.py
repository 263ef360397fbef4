"""A budget of the latency: from the table of a device to what a study finds."""

import io
import itertools
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from fake_training import fake_train_fn
from latencies import fake_timings, nanoseconds
from rich.console import Console

from jointnas_jax.command_line import parse_config
from jointnas_jax.errors import ConfigError, DamagedError, SpaceError, StorageError, StudyError
from jointnas_jax.models.latency_profile import (
    compare,
    fit,
    profile_network,
    profile_space,
    random_archs,
)
from jointnas_jax.nets.latency import latency_of, pieces_of
from jointnas_jax.problem import latency_table as latency
from jointnas_jax.problem.latency_table import (
    Correction,
    DeviceLatencies,
    LatencyTable,
    measured_latencies,
)
from jointnas_jax.problem.problem import build_problem, open_space
from jointnas_jax.space import Candidate
from jointnas_jax.storage.study_reader import stored_trials
from jointnas_jax.study.budgets import BudgetSearch, print_budgets, search_budgets
from jointnas_jax.study.run import dry_run, run_study

TINY = str(Path(__file__).parent.parent / "support" / "tiny.py")
QUIET = Console(quiet=True)
# Half of the tiny space's architectures are below.
LIMIT = 26_000


def config(*arguments):
    quick = ("--noconfig.study.random_reference", "--config.budget.flops=")
    return parse_config(["run", *quick, *arguments], TINY, flags.FlagValues())


def limited(*arguments):
    return config(f"--config.budget.latency={LIMIT / 1000}us", *arguments)


def accuracy(job):
    """Wider is better."""
    arch, recipe = job.candidate.arch, job.candidate.recipe
    return 0.3 + arch.stages[0].channels / 100 + arch.head.channels / 200 + 4 * recipe.lr


def expected(arch):
    """Nanoseconds by the fake timings, rounded for each piece."""
    times = [(round(1.5 * nanoseconds(p)), p.kind, n) for p, n in pieces_of(arch) if n]
    return sum(t * n for t, _, n in times) + 5000


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A folder with the table of the tiny space, while this module's tests run."""
    folder = tmp_path_factory.mktemp("latency")
    with pytest.MonkeyPatch.context() as patch:
        fake_timings(patch, folder)
        profile_space(config(), QUIET, checked=5)
        yield folder


@pytest.fixture(scope="module")
def finished(cache, tmp_path_factory):
    """A finished study within the limit."""
    workdir = tmp_path_factory.mktemp("study")
    return workdir, run_study(limited(), workdir, QUIET, train_fn=fake_train_fn(accuracy))


# -- the table of a device ------------------------------------------------------------------------


def test_the_table_of_a_space_is_corrected_and_in_whole_nanoseconds(cache):
    _, space, _ = open_space(config())
    table = measured_latencies(space)
    assert all(isinstance(t, int) for t in table.times.values())
    for arch in random_archs(space, 8):
        assert latency_of(arch, table.times) == pytest.approx(expected(arch), abs=5)


def test_each_distinct_piece_is_timed_once_and_a_partial_table_goes_on(tmp_path, monkeypatch):
    from jointnas_jax.models import latency_profile as profiling

    timed = fake_timings(monkeypatch, tmp_path / "cache")
    monkeypatch.setattr(profiling, "_GROUP", 4)
    first = profile_space(config(), QUIET, 5, minutes=1e-9)
    assert (first["timed"], len(timed)) == (4, 4)
    assert first["left"] == first["pieces"] - 4 > 0
    assert "check" not in first
    with pytest.raises(ConfigError, match=rf"{first['left']} of {first['pieces']} distinct"):
        build_problem(limited())
    second = profile_space(config(), QUIET, 5)
    assert second["left"] == 0
    assert len(timed) == len(set(timed)) == first["pieces"]
    third = profile_space(config(), QUIET, 5)
    assert (third["timed"], len(timed)) == (0, first["pieces"])
    profile_space(config(), QUIET, 5, again=True)
    assert len(timed) == 2 * first["pieces"]


def test_how_many_pieces_there_are_is_told_before_any_is_timed(tmp_path, monkeypatch, capsys):
    from jointnas_jax.models import latency_profile as profiling

    fake_timings(monkeypatch, tmp_path / "cache")

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(profiling, "time_pieces", stop)
    with pytest.raises(KeyboardInterrupt):
        profile_space(config(), Console(width=200), 5)
    told = capsys.readouterr().out
    assert "distinct blocks" in told
    assert re.search(r"9 of them, about \d+\.\d s", told)


def test_the_check_is_of_other_networks_than_the_correction(tmp_path, monkeypatch):
    fake_timings(monkeypatch, tmp_path / "cache")
    report = profile_space(config(), QUIET, checked=5)
    check = report["check"]
    assert (check["networks"], report["correction"]["networks"]) == (5, 3)
    assert len(set(check["whole"])) == 5
    assert (check["kendall"], check["spearman"]) == (pytest.approx(1), pytest.approx(1))
    assert check["median_error"] < 1e-3
    assert report["correction"]["factor"] == pytest.approx(1.5)
    assert report["correction"]["overhead"] == pytest.approx(5000)
    assert report["latencies"]["p5"] <= report["latencies"]["p50"] <= report["latencies"]["p95"]


@pytest.mark.parametrize("damage", ["", "{}", "[1]", '{"schema": 1, "times": {"x": "y"}}'])
def test_a_broken_table_is_measured_again(tmp_path, monkeypatch, damage):
    timed = fake_timings(monkeypatch, tmp_path / "cache")
    profile_space(config(), QUIET, 5)
    (file,) = (tmp_path / "cache").glob("*.json")
    file.write_text(damage)
    with pytest.raises(ConfigError, match="scripts/profile.py table"):
        build_problem(limited())
    before = len(timed)
    profile_space(config(), QUIET, 5)
    assert len(timed) == 2 * before


def test_a_table_of_another_setting_does_not_count(cache):
    setting = DeviceLatencies.read("another device")
    assert (setting.times, setting.corrections) == ({}, {})


def test_a_cache_that_cannot_be_written_is_told_before_anything_is_timed(monkeypatch, tmp_path):
    timed = fake_timings(monkeypatch, tmp_path / "cache")
    monkeypatch.setattr(latency, "cache_folder", lambda name: None)
    with pytest.raises(StorageError, match="XDG_CACHE_HOME"):
        profile_space(config(), QUIET, 5)
    assert not timed


def test_the_correction_of_networks_is_found_again():
    rng = np.random.default_rng(0)
    sums = rng.uniform(1e4, 1e6, 12)
    found = fit(sums, 3000 + 1.25 * sums)
    assert (found.overhead, found.factor) == (pytest.approx(3000), pytest.approx(1.25))
    assert fit(sums, 0.9 * sums - 500).overhead == 0  # no network takes less than nothing
    assert fit(sums[:1], 2 * sums[:1]) == Correction(0.0, pytest.approx(2.0))


def test_timings_that_say_nothing_are_refused():
    with pytest.raises(StudyError, match="idle"):
        fit(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1e4, 100.0, 10.0, 1.0]))


def test_a_poor_rank_correlation_shows():
    rng = np.random.default_rng(0)
    whole = rng.uniform(size=30)
    told = compare(rng.uniform(size=30), whole)
    assert told["kendall"] < 0.5
    assert compare([1, 2], whole[:2])["kendall"] is None


# -- a study --------------------------------------------------------------------------------------


def test_without_a_table_a_study_names_the_command_and_leaves_no_trace(tmp_path, monkeypatch):
    fake_timings(monkeypatch, tmp_path / "empty")
    with pytest.raises(ConfigError, match=r"python scripts/profile.py table") as error:
        run_study(limited(), tmp_path / "work", QUIET)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "work").exists()
    with pytest.raises(ConfigError, match="needs measurements on this device"):
        dry_run(limited(), QUIET)


def test_nothing_over_the_limit_is_drawn_proposed_or_trained(finished):
    workdir, result = finished
    problem = build_problem(limited())
    pool = problem.pool()
    column = problem.costs.names.index("latency")
    assert problem.costs(pool)[:, column].max() <= LIMIT
    every = np.array([*itertools.product(*map(range, problem.space.cardinalities))])
    assert (problem.costs(every)[:, column] > LIMIT).mean() > 0.2  # the limit does limit
    for trial in stored_trials(workdir):
        if trial.stage == "coarse":
            vector = problem.space.vector_from_values(trial.knobs)
            assert problem.costs(vector[None])[0, column] <= LIMIT
    for entry in (*result["finalists"], *result["winners"]):
        assert entry["within_budget"]


def test_a_result_says_the_latency_in_nanoseconds(finished):
    workdir, result = finished
    times = LatencyTable.of_study(limited(), workdir).times
    assert result["budget"] == {"latency": LIMIT}
    for entry in (*result["winners"], *result["references"].values()):
        arch = Candidate.from_dict(entry["candidate"]).arch
        assert entry["costs"]["latency"] == latency_of(arch, times)
        assert entry["within_budget"] == (entry["costs"]["latency"] <= LIMIT)


def test_a_limit_below_all_candidates_names_the_closest(cache):
    problem = build_problem(config("--config.budget.latency=1us"))
    with pytest.raises(SpaceError, match=r"latency \(ns\) of at least [\d,]+ where the limit is"):
        problem.pool()


def test_the_fixed_architecture_must_be_within_the_limit(cache, tmp_path, monkeypatch):
    fake_timings(monkeypatch, tmp_path / "cache")
    profile_space(config("--config.mode=recipe"), QUIET, 5)
    fine = build_problem(config("--config.mode=recipe", "--config.budget.latency=1s"))
    assert fine.space.arch_size == 1
    message = r"costs latency of [\d.]+ us, over the budget of 1 us; .*--config.budget.latency=\"\""
    with pytest.raises(ConfigError, match=message):
        build_problem(config("--config.mode=recipe", "--config.budget.latency=1us"))


def test_the_plan_says_the_limit(cache, capsys):
    dry_run(limited("--config.budget.flops=60K"), Console(width=200))
    assert "flops <= 60,000, latency <= 26 us" in capsys.readouterr().out


def test_a_study_goes_on_with_the_latencies_that_it_began_with(finished, tmp_path, monkeypatch):
    """Whatever is measured, or lost, meanwhile."""
    workdir = shutil.copytree(finished[0], tmp_path / "study")
    (workdir / "result.json").unlink()
    fake_timings(monkeypatch, tmp_path / "other", salt="another day")
    again = run_study(limited(), workdir, QUIET, train_fn=fake_train_fn(accuracy))
    for name in ("seconds", "compilations"):
        again.pop(name)
    assert again == {name: finished[1][name] for name in again}


@pytest.mark.parametrize("change", [Path.unlink, lambda file: file.write_text('{"schema": 1}')])
def test_a_study_whose_latencies_are_damaged_is_refused(finished, tmp_path, change):
    workdir = shutil.copytree(finished[0], tmp_path / "study")
    (workdir / "result.json").unlink()
    change(workdir / "latency.json")
    with pytest.raises(DamagedError, match="latency.json"):
        run_study(limited(), workdir, QUIET)


# -- other budgets --------------------------------------------------------------------------------


def test_other_limits_find_the_best_candidate_within_them(finished, cache):
    workdir, _ = finished
    study = BudgetSearch(workdir, measured=True)
    space, costs = study.problem.space, study.problem.costs
    every = np.array([*itertools.product(*map(range, space.cardinalities))]).astype(np.int32)
    predicted = study.predictor.predict(study.fitted, every)[0]
    found = costs(every)
    names = ("flops", "latency")
    flops, times = (np.unique(found[:, costs.names.index(name)]) for name in names)
    budgets = [{"latency": int(times[i])} for i in (1, 3, 6)]
    budgets.append({"flops": int(flops[5]), "latency": int(times[5])})
    report = search_budgets(workdir, budgets)
    for entry, budget in zip(report["budgets"], budgets, strict=True):
        fits = np.all([found[:, costs.names.index(n)] <= v for n, v in budget.items()], axis=0)
        assert 0 < fits.sum() < len(every)
        assert all(entry["costs"][name] <= limit for name, limit in budget.items())
        assert entry["predicted"] == pytest.approx(predicted[fits].max(), abs=1e-6)
    assert report["budgets"][0]["name"].startswith("latency_")
    console = Console(width=200, file=io.StringIO())
    print_budgets(report, console)
    assert f"latency <= {times[1] / 1000:g}us" in console.file.getvalue()


@pytest.mark.slow
def test_a_study_without_such_a_budget_takes_what_is_known_of_the_device(
    finished, tmp_path, monkeypatch
):
    fake_timings(monkeypatch, tmp_path / "empty")
    workdir = shutil.copytree(finished[0], tmp_path / "study")
    train_fn = fake_train_fn(accuracy)
    run_study(config(), workdir, QUIET, overwrite=True, train_fn=train_fn)
    assert not (workdir / "latency.json").exists()  # of the study that was there before
    (plain,) = search_budgets(workdir, [{"flops": 10**6}])["budgets"]
    assert "latency" not in plain["costs"]
    with pytest.raises(ConfigError, match=r"scripts/profile.py table"):
        search_budgets(workdir, [{"latency": LIMIT}])
    profile_space(config(), QUIET, 5)
    (entry,) = search_budgets(workdir, [{"latency": LIMIT}])["budgets"]
    assert entry["costs"]["latency"] <= LIMIT


# -- one network ----------------------------------------------------------------------------------


def test_a_profile_has_median_spread_and_throughput(finished):
    file = str(finished[0] / "winner0.json")
    report = profile_network(file, batch=4, repeats=7)
    one, many = report["latency"], report["throughput"]
    assert (one["batch"], one["repeats"], many["batch"]) == (1, 7, 4)
    for spread in (one, many):
        assert 0 < spread["least"] <= spread["p10"] <= spread["median"] <= spread["p90"] < 1
    assert many["images_per_second"] == pytest.approx(4 / many["median"])
    assert report["costs"]["flops"] > 0
