"""A coarse stage without rounds: what it asks for follows from the order in which results came."""

import functools
import random

import pytest
from rich.console import Console
from runs import REAL, TINY, config, finish, run, start, stored, wait_until
from table_study import look_up

from jointnas_jax.errors import ConfigError, InterruptedStudyError
from jointnas_jax.execution.local import LocalExecutor
from jointnas_jax.storage.study_reader import stored_trials
from jointnas_jax.study.run import run_study

FLAGS = ("--config.executor=ray", "--config.search.asynchronous", "--config.search.rounds=4")
FIRST, ALL = 3, 12  # candidates of the first round, and of all
WORKERS = 3


class Fastest:
    """All actors are busy, and a random one is ready first."""

    def __init__(self, seed, stop=None):
        self.chance, self.stop = random.Random(seed), stop

    def asks(self, number, asked, running):
        return len(running) < WORKERS

    def ends(self, number, running):
        if number == self.stop:
            raise InterruptedStudyError
        return self.chance.choice(sorted(running))


class Recorded:
    """As those trials arrived."""

    def __init__(self, trials):
        arrived = sorted((t.arrived[1], t.arrived[0], t.number) for t in trials if t.arrived)
        self.arrived = [(asked, position) for _, asked, position in arrived]

    def asks(self, number, asked, running):
        return number < len(self.arrived) and asked < self.arrived[number][0]

    def ends(self, number, running):
        return self.arrived[number][1]


class Actors(LocalExecutor):
    """Stands in for a fleet whose trainings end in some order."""

    def __init__(self, order, config, space, images, **more):
        super().__init__(config, space, images, **more)
        self.order, self.running, self.asked, self.results = order, {}, 0, 0

    def free_lanes(self):
        return int(self.order.asks(self.results, self.asked, self.running))

    def submit(self, position, job, *, later, stored=False):
        self.asked = position + 1 - FIRST
        if not stored:
            self.running[position] = job

    def next_result(self):
        if not self.running:
            return None
        position = self.order.ends(self.results, self.running)
        self.results += 1
        return position, self.run([self.running.pop(position)])[0]


@pytest.fixture
def study(monkeypatch):
    """Runs studies whose trainings are looked up; returns their result and trials."""
    looked_up = []

    def noting(assignment, jobs, stop):
        looked_up.extend(repr((job.candidate, job.on_full_split, job.epochs)) for job in jobs)
        return look_up(assignment, jobs, stop)

    def run(workdir, order):
        make = functools.partial(Actors, order)
        looked_up.clear()
        try:
            result = run_study(
                config(*FLAGS), workdir, Console(quiet=True), make=make, train_fn=noting
            )
        except InterruptedStudyError:
            return None, [], list(looked_up)
        return result, stored_trials(workdir), list(looked_up)

    return run


def coarse(trials):
    return [(t.number, t.knobs, t.accuracies, t.round, t.predicted, t.arrived) for t in trials]


def test_the_order_of_arrivals_is_kept_and_decides(study, tmp_path):
    result, trials, _ = study(tmp_path / "one", Fastest(0))
    asked = [t for t in trials if t.stage == "coarse"]
    assert [t.arrived is None for t in asked] == [True] * FIRST + [False] * (ALL - FIRST)
    assert [t.round for t in asked] == [1 + i // FIRST for i in range(ALL)]
    assert len({str(t.knobs) for t in asked}) == ALL
    assert [entry["trained"] for entry in result["rounds"]] == [FIRST] * 4
    assert all(entry["report_card"] for entry in result["rounds"])
    # In another order another search; in the recorded one the same to the bit.
    _, others, _ = study(tmp_path / "other", Fastest(1))
    assert coarse(others) != coarse(trials)
    again, same, _ = study(tmp_path / "same", Recorded(trials))
    assert coarse(same) == coarse(trials)
    assert again["winners"] == result["winners"]
    assert again["rounds"] == result["rounds"]


@pytest.mark.slow
@pytest.mark.parametrize("arrivals", [1, 8])
def test_a_study_that_goes_on_asks_for_what_it_asked_for(study, tmp_path, arrivals):
    study(tmp_path, Fastest(0, stop=arrivals))
    before = {t.number: t for t in stored_trials_so_far(tmp_path)}
    assert len(before) == FIRST + arrivals
    result, trials, looked_up = study(tmp_path, Fastest(1))
    after = {t.number: t for t in trials}
    assert all(after[number] == trial for number, trial in before.items())
    assert result["trials"] == len(trials)
    # What was stored did not train again.
    assert len(looked_up) == len(trials) - len(before)
    # The whole is one search: its arrivals, played again, give it once more.
    again, same, _ = study(tmp_path / "again", Recorded(trials))
    assert coarse(same) == coarse(trials)
    assert again["winners"] == result["winners"]


def stored_trials_so_far(workdir):
    from jointnas_jax.storage.provenance import Provenance
    from jointnas_jax.storage.study_reader import open_store

    return open_store(workdir, "", Provenance.read(workdir)).load()


def test_one_process_trains_in_rounds(tmp_path):
    with pytest.raises(ConfigError, match="`config.executor` must be `ray`, got `local`"):
        run_study(config("--config.search.asynchronous"), tmp_path / "w", Console(quiet=True))
    assert not (tmp_path / "w").exists()


@pytest.mark.slow
def test_real_actors_stopped_in_the_middle_go_on(tmp_path):
    pytest.importorskip("ray")
    flags = (TINY, *FLAGS, "--config.ray.workers=2", "--config.search.rounds=5")
    first = start(REAL, tmp_path, *flags)
    assert wait_until(lambda: stored(tmp_path) >= FIRST + 3, first)
    first.terminate()
    finish(first, code=3)
    before = {t.number: t for t in stored_trials_so_far(tmp_path)}
    assert len(before) < 5 * FIRST
    run(REAL, tmp_path, *flags)
    trials = stored_trials(tmp_path)
    assert {t.number: t for t in trials if t.number in before} == before
    asked = [t for t in trials if t.stage == "coarse"]
    assert len(asked) == len({str(t.knobs) for t in asked}) == 5 * FIRST
    assert all(t.status == "COMPLETED" for t in asked)
