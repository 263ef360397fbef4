"""The time that keeping takes is counted, and once."""

from benchmarks import keeping
from jointnas_jax.storage.trial_store import TrialStore
from jointnas_jax.study import study_files, trial_runner


def test_everything_that_keeps_is_there():
    for owner, name in keeping._KEEPING:
        assert callable(getattr(owner, name)), (owner, name)


def test_time_is_counted_once_and_in_the_end_all_is_as_before(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(keeping.time, "perf_counter", lambda: clock[0])

    def write_digest():
        clock[0] += 1

    monkeypatch.setattr(study_files, "write_digest", write_digest)
    monkeypatch.setattr(trial_runner, "save_variables", lambda: study_files.write_digest())
    before, spent = TrialStore.append, {}
    with keeping._timed(spent):
        trial_runner.save_variables()
        study_files.write_digest()
    assert spent == {"trial_runner.save_variables": 1.0, "study_files.write_digest": 1.0}
    assert TrialStore.append is before
