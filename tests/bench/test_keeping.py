"""The time that keeping takes is counted, and once."""

import time

from jointnas_jax.bench import keeping
from jointnas_jax.study import run, trials
from jointnas_jax.study.store import TrialStore


def test_everything_that_keeps_is_there():
    for owner, name in keeping._KEEPING:
        assert callable(getattr(owner, name)), (owner, name)


def test_time_is_counted_once_and_in_the_end_all_is_as_before(monkeypatch):
    monkeypatch.setattr(run, "write_digest", lambda: time.sleep(0.02))
    monkeypatch.setattr(trials, "save_variables", lambda: run.write_digest())
    before, spent = TrialStore.append, {}
    with keeping._timed(spent):
        trials.save_variables()
        run.write_digest()
    assert set(spent) == {"trials.save_variables", "run.write_digest"}
    assert 0.04 <= sum(spent.values()) < 0.06 + 0.02 * 5
    assert TrialStore.append is before
