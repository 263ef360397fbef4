"""What every executor promises, for each of them."""

import contextlib
import dataclasses
import threading
import time

import pytest
from executors import content, make

from jointnas_jax.execution.local import LocalExecutor

EXECUTORS = ["local", "pod", pytest.param("ray", marks=pytest.mark.slow)]


@pytest.fixture(scope="module", params=EXECUTORS)
def executor(request, small_problem):
    if request.param == "ray":
        pytest.importorskip("ray")
    with contextlib.closing(make(small_problem, request.param, devices=2)) as made:
        yield made
    for thread in threading.enumerate():  # a process may not end while XLA compiles in a thread
        if thread.name.endswith("(work)"):
            thread.join(timeout=120)


def test_every_job_has_one_outcome_and_it_is_that_of_one_process(executor, expected):
    some, outcomes = expected
    done = list(executor.train(some))
    assert sorted(i for i, _ in done) == list(range(len(some)))
    assert [content(outcome) for _, outcome in sorted(done, key=lambda d: d[0])] == outcomes
    assert len(executor.schedules[-1].jobs) == len(some)


def test_stored_positions_are_skipped_and_change_nothing(executor, expected):
    some, outcomes = expected
    done = dict(executor.train(some, stored=[0, 3]))
    assert {i: content(outcome) for i, outcome in done.items()} == {
        i: outcomes[i] for i in (1, 2, 4, 5)
    }


def test_all_stored_is_nothing_to_do(executor, expected):
    some, _ = expected
    assert list(executor.train(some, stored=range(len(some)))) == []


def test_a_training_that_pauses_goes_on_to_the_same_weights(executor, expected):
    some, outcomes = expected
    first = [dataclasses.replace(job, epochs=1, full_epochs=2, pauses=True) for job in some[:5]]
    paused = dict(executor.train(first))
    rest = [
        dataclasses.replace(job, resumed=paused[i].paused, full_epochs=2)
        for i, job in enumerate(some[:5])
    ]
    done = dict(executor.train(rest))
    for i, outcome in done.items():
        accuracies, *others = content(outcome)
        assert (accuracies, others) == (outcomes[i][0][1:], [*outcomes[i][1:]])


def test_a_job_that_fails_does_not_spoil_its_neighbours(executor, expected):
    some, outcomes = expected
    candidate = some[1].candidate
    recipe = dataclasses.replace(candidate.recipe, lr=1e30)
    bad = dataclasses.replace(some[1], candidate=dataclasses.replace(candidate, recipe=recipe))
    done = dict(executor.train([some[0], bad, *some[2:]]))
    assert "not finite" in done.pop(1).reason
    assert {i: content(outcome) for i, outcome in done.items()} == {
        i: outcomes[i] for i in (0, 2, 3, 4, 5)
    }


def test_closing_the_generator_stops_the_work(executor, expected):
    some, _ = expected
    endless = dataclasses.replace(some[1], epochs=10**6)  # the other worker has it
    results = executor.train([some[0], endless])
    assert next(results)[1].reason is None
    start = time.monotonic()
    results.close()
    # Whoever comes next need not wait for a million epochs.
    assert next(executor.train(some[:1]))[1].reason is None
    assert time.monotonic() - start < 120


def test_the_config_names_the_executor(small_problem):
    assert isinstance(make(small_problem, "local", devices=1), LocalExecutor)
