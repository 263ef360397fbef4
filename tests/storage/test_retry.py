"""Failed trials are taken out of a store, with all others, and the sound ones are kept."""

import contextlib

import pytest

from jointnas_jax.errors import DamagedError
from jointnas_jax.space import Knob
from jointnas_jax.storage.database import sqlite_url
from jointnas_jax.storage.distributions import distributions
from jointnas_jax.storage.retry import begin_retry, retried_rows
from jointnas_jax.storage.trial_store import COMPLETED, FAILED, Trial, TrialStore

KNOBS = distributions([Knob.integer("x", 0, 9)])


def trial(number, stage="coarse", status=COMPLETED):
    sound = status == COMPLETED
    return Trial(
        number=number,
        stage=stage,
        round=1,
        seed=None,
        knobs={"x": number},
        costs={"flops": 1},
        predicted=None,
        epochs=2,
        accuracies=(0.1, 0.2) if sound else (),
        score=0.2 if sound else None,
        status=status,
        reason=None if sound else "made to fail",
        pack="exact",
        seconds=1.0,
    )


@pytest.fixture
def store(tmp_path):
    with contextlib.closing(TrialStore(sqlite_url(tmp_path), "s")) as made:
        made.create()
        yield made


def add(store, *trials):
    for one in trials:
        store.append(one, KNOBS)


def kept(workdir):
    return [Trial.from_dict(row) for row in retried_rows(workdir)]


def test_sound_trials_are_kept_in_a_file(store, tmp_path):
    add(store, trial(0), trial(1, status=FAILED), trial(2, "random"))
    begin_retry(tmp_path, store, wanted=True)
    assert store.load() == []
    assert kept(tmp_path) == [trial(0), trial(2, "random")]


@pytest.mark.parametrize(("wanted", "status"), [(False, FAILED), (True, COMPLETED)])
def test_nothing_happens_without_a_failure_or_a_wish(store, tmp_path, wanted, status):
    add(store, trial(0), trial(1, status=status))
    begin_retry(tmp_path, store, wanted=wanted)
    assert len(store.load()) == 2
    assert kept(tmp_path) == []


@pytest.mark.parametrize("wanted", [False, True])
def test_a_retry_that_ended_between_two_writes_goes_on(store, tmp_path, wanted):
    add(store, trial(0), trial(1, status=FAILED))

    class Ends(Exception):
        """The process dies."""

    def dies():
        raise Ends

    create, store.create = store.create, dies
    with pytest.raises(Ends):
        begin_retry(tmp_path, store, wanted=True)
    store.create = create
    begin_retry(tmp_path, store, wanted=wanted)
    assert store.load() == []
    assert kept(tmp_path) == [trial(0)]


def test_a_second_retry_keeps_what_the_first_one_kept(store, tmp_path):
    add(store, trial(0), trial(1, status=FAILED), trial(2))
    begin_retry(tmp_path, store, wanted=True)
    add(store, trial(0), trial(1, status=FAILED))
    begin_retry(tmp_path, store, wanted=True)
    assert {one.number for one in kept(tmp_path)} == {0, 2}


def test_retrained_winners_are_kept_where_nothing_before_them_failed(store, tmp_path):
    add(store, trial(0), trial(1, "retrain"), trial(2, "retrain", FAILED))
    begin_retry(tmp_path, store, wanted=True)
    assert kept(tmp_path) == [trial(0), trial(1, "retrain")]
    add(store, trial(0, status=FAILED))
    begin_retry(tmp_path, store, wanted=True)
    assert kept(tmp_path) == [trial(0)]


def test_a_damaged_file_is_told(store, tmp_path):
    add(store, trial(0), trial(1, status=FAILED))
    begin_retry(tmp_path, store, wanted=True)
    file = tmp_path / "retried_trials.json"
    file.write_text(file.read_text().replace("0.2", "0.3"))
    with pytest.raises(DamagedError, match="retried_trials"):
        begin_retry(tmp_path, store, wanted=True)
