"""The time that keeping takes is counted, and once."""

from jointnas_jax.bench import keeping
from jointnas_jax.study import ledger, trials
from jointnas_jax.study.store import TrialStore


def test_everything_that_keeps_is_there():
    for owner, name in keeping._KEEPING:
        assert callable(getattr(owner, name)), (owner, name)


def test_time_is_counted_once_and_in_the_end_all_is_as_before(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(keeping.time, "perf_counter", lambda: clock[0])

    def write_digest():
        clock[0] += 1

    monkeypatch.setattr(ledger, "write_digest", write_digest)
    monkeypatch.setattr(trials, "save_variables", lambda: ledger.write_digest())
    before, spent = TrialStore.append, {}
    with keeping._timed(spent):
        trials.save_variables()
        ledger.write_digest()
    assert spent == {"trials.save_variables": 1.0, "ledger.write_digest": 1.0}
    assert TrialStore.append is before
