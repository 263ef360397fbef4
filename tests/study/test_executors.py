"""What every executor promises, for each of them."""

import contextlib
import dataclasses
import os
import signal
import threading
import time

import jax
import numpy as np
import pytest
import tiny

from jointnas_jax.config import RayConfig, check_config
from jointnas_jax.study.evaluator import Evaluator
from jointnas_jax.study.executor import make_executor
from jointnas_jax.study.jobs import Job, Keeping
from jointnas_jax.study.problem import build_problem

EXECUTORS = ["local", pytest.param("ray", marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def problem():
    return build_problem(check_config(tiny.get_config()))


def make(problem, name, devices):
    """An executor of so many devices in all."""
    study = dataclasses.replace(problem.config.study, devices=devices if name == "local" else 1)
    ray = RayConfig(workers=devices, cpus=1)
    config = dataclasses.replace(problem.config, study=study, executor=name, ray=ray)
    keeping = Keeping(scales=(1.0, 1.0))
    return make_executor(config, problem.space, problem.divided_images(), (), keeping)


@pytest.fixture(scope="module", params=EXECUTORS)
def executor(request, problem):
    if request.param == "ray":
        pytest.importorskip("ray")
    with contextlib.closing(make(problem, request.param, devices=2)) as made:
        yield made


def jobs(problem, count, epochs=1, seed=0):
    vectors = problem.space.sample(np.random.default_rng(seed), count)
    return [
        Job(problem.space.decode(v), jax.random.key(1000 * seed + i), epochs)
        for i, v in enumerate(vectors)
    ]


def content(outcome):
    leaves = jax.tree_util.tree_leaves_with_path(outcome.variables)
    weights = [(jax.tree_util.keystr(path), np.asarray(leaf).tobytes()) for path, leaf in leaves]
    return outcome.accuracies, outcome.reason, outcome.pack, weights


@pytest.fixture(scope="module")
def expected(problem):
    """What one process on one device gives for the same plan."""
    some = [*jobs(problem, 5, epochs=2), dataclasses.replace(jobs(problem, 1, seed=9)[0])]
    with contextlib.closing(make(problem, "local", devices=2)) as local:
        return some, [content(outcome) for outcome in local.run(some)]


def test_every_job_has_one_outcome_and_it_is_that_of_one_process(executor, expected):
    some, outcomes = expected
    done = list(executor.completed(some))
    assert sorted(i for i, _ in done) == list(range(len(some)))
    assert [content(outcome) for _, outcome in sorted(done, key=lambda d: d[0])] == outcomes
    assert executor.packings[-1].candidates == len(some)


def test_known_positions_are_skipped_and_change_nothing(executor, expected):
    some, outcomes = expected
    done = dict(executor.completed(some, known=[0, 3]))
    assert {i: content(outcome) for i, outcome in done.items()} == {
        i: outcomes[i] for i in (1, 2, 4, 5)
    }


def test_all_known_is_nothing_to_do(executor, expected):
    some, _ = expected
    assert list(executor.completed(some, known=range(len(some)))) == []


def test_a_job_that_fails_does_not_spoil_its_neighbours(executor, expected):
    some, outcomes = expected
    candidate = some[1].candidate
    recipe = dataclasses.replace(candidate.recipe, lr=1e30)
    bad = dataclasses.replace(some[1], candidate=dataclasses.replace(candidate, recipe=recipe))
    done = dict(executor.completed([some[0], bad, *some[2:]]))
    assert "not finite" in done.pop(1).reason
    assert {i: content(outcome) for i, outcome in done.items()} == {
        i: outcomes[i] for i in (0, 2, 3, 4, 5)
    }


def test_closing_the_generator_stops_the_work(executor, expected):
    some, _ = expected
    endless = dataclasses.replace(some[1], epochs=10**6)  # the other worker has it
    completed = executor.completed([some[0], endless])
    assert next(completed)[1].reason is None
    start = time.monotonic()
    completed.close()
    # Whoever comes next need not wait for a million epochs.
    assert next(executor.completed(some[:1]))[1].reason is None
    assert time.monotonic() - start < 120


def test_the_local_executor_is_the_evaluator(problem):
    assert isinstance(make(problem, "local", devices=1), Evaluator)


@pytest.mark.slow
@pytest.mark.parametrize("deaths", [1, 3])
def test_what_a_killed_actor_trained_is_given_to_another_or_fails_in_the_end(
    problem, expected, deaths
):
    ray = pytest.importorskip("ray")
    some, outcomes = expected
    with contextlib.closing(make(problem, "ray", devices=2)) as fleet:
        given = fleet._hand_out
        killed = []

        def kill_whoever_has_the_first_job(waiting, running):
            given(waiting, running)
            for worker, unit in running.values():
                if 0 in unit.positions and len(killed) < deaths and worker not in killed:
                    killed.append(worker)
                    ray.kill(worker)

        fleet._hand_out = kill_whoever_has_the_first_job
        done = dict(fleet.completed(some))
    assert len(killed) == deaths
    if deaths == 3:
        assert done.pop(0).reason.startswith("actor_died: 3 actors died")
    assert {i: content(outcome) for i, outcome in done.items()} == {i: outcomes[i] for i in done}
    assert len(done) == len(some) - (deaths == 3)


@pytest.mark.slow
def test_a_process_killed_while_it_trains_changes_nothing(problem, expected):
    ray = pytest.importorskip("ray")
    some, outcomes = expected
    with contextlib.closing(make(problem, "ray", devices=2)) as fleet:
        process = ray.get(fleet.workers[0].process.remote())
        completed = fleet.completed(some)
        timer = threading.Timer(1.0, os.kill, (process, signal.SIGKILL))
        timer.start()
        done = dict(completed)
        timer.join()
        assert ray.get(fleet.workers[0].process.remote()) != process
    assert [content(done[i]) for i in range(len(some))] == outcomes
