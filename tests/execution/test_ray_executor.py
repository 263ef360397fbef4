"""What a fleet does when an actor dies."""

import contextlib
import os
import signal
import threading

import pytest
from executors import content, make

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("deaths", [1, 3])
def test_what_a_killed_actor_trained_is_given_to_another_or_fails_in_the_end(
    small_problem, expected, deaths
):
    ray = pytest.importorskip("ray")
    some, outcomes = expected
    with contextlib.closing(make(small_problem, "ray", devices=2)) as fleet:
        given = fleet._hand_out
        killed = []

        def kill_whoever_has_the_first_job():
            given()
            for worker, unit in fleet._running.values():
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


def test_a_process_killed_while_it_trains_changes_nothing(small_problem, expected):
    ray = pytest.importorskip("ray")
    some, outcomes = expected
    with contextlib.closing(make(small_problem, "ray", devices=2)) as fleet:
        process = ray.get(fleet.workers[0].process.remote())
        completed = fleet.completed(some)
        timer = threading.Timer(1.0, os.kill, (process, signal.SIGKILL))
        timer.start()
        done = dict(completed)
        timer.join()
        assert ray.get(fleet.workers[0].process.remote()) != process
    assert [content(done[i]) for i in range(len(some))] == outcomes
