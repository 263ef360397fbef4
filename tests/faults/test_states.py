"""Check 12: states of trainings and weights on disk."""

import random
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from runs import config, content, study
from table_study import look_up

from jointnas_jax.errors import DamagedError, StorageError
from jointnas_jax.storage.weights import load_variables, save_variables
from jointnas_jax.study.run import run_study
from jointnas_jax.telemetry.progress import Listener, Progress
from jointnas_jax.train import checkpoints
from jointnas_jax.train.checkpoints import Checkpoints

STATE = {"w": np.arange(1000.0, dtype=np.float32), "step": np.array(3)}


def flip(folder):
    """Flips a bit of the largest file of a folder, which holds the numbers."""
    file = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(file.read_bytes())
    content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    file.write_bytes(content)


def states(folder, said):
    return Checkpoints(folder, seconds=0, say=said.append)


def test_a_damaged_state_is_skipped_with_a_word(tmp_path):
    said = []
    kept = states(tmp_path, said)
    for epoch in (1, 2, 3):
        kept.save(epoch, STATE | {"step": np.array(epoch)}, {"epoch": epoch})
    flip(tmp_path / "3")
    again = states(tmp_path, said)
    state, epochs, notes = again.restore(STATE)
    assert (int(state["step"]), epochs, notes) == (2, 2, {"epoch": 2})
    assert len(said) == 1
    assert "skipped" in said[0]
    # What follows is saved in its place.
    again.save(3, STATE, {"epoch": 3})
    last = states(tmp_path, said)
    assert last.restore(STATE)[1] == 3


def test_trainings_that_are_saved_at_the_same_time_do_not_mix(tmp_path):
    """Orbax alone fails soon: see `files.saving`."""
    large = {f"w{i}": np.arange(1000.0, dtype=np.float32) for i in range(60)}
    together = threading.Barrier(2)

    def train(number):
        kept = states(tmp_path / str(number), [])
        for epoch in range(1, 11):
            together.wait(timeout=60)
            kept.save(epoch, large | {"step": np.array(number)}, {})
        again = states(tmp_path / str(number), [])
        state, epochs, _ = again.restore(large | {"step": np.array(number)})
        return int(state["step"]), epochs

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(train, range(2))) == [(0, 10), (1, 10)]


def test_without_a_sound_state_a_training_starts_again(tmp_path):
    said = []
    kept = states(tmp_path, said)
    for epoch in (1, 2):
        kept.save(epoch, STATE, {})
    flip(tmp_path / "1")
    (tmp_path / "2.sha256").unlink()
    again = states(tmp_path, said)
    state, epochs, notes = again.restore(STATE)
    assert (state is STATE, epochs, notes) == (True, 0, {})
    assert len(said) == 2


def test_a_state_of_other_shapes_is_not_taken(tmp_path):
    """As of another number of lanes; Orbax would give it without a word."""
    said = []
    kept = states(tmp_path, said)
    kept.save(1, STATE, {})
    wanted = STATE | {"w": np.zeros((10, 100), np.float32)}
    again = states(tmp_path, said)
    assert again.restore(wanted) == (wanted, 0, {})
    assert "has not the shapes" in said[0]


@pytest.mark.parametrize(
    ("error", "raised"),
    [(OSError(5, "Input/output error"), StorageError), (MemoryError(), MemoryError)],
)
@pytest.mark.parametrize("where", ["digest", "arrays"])
def test_a_sound_state_that_cannot_be_read_now_is_kept(tmp_path, monkeypatch, error, raised, where):
    kept = states(tmp_path, [])
    kept.save(1, STATE, {})

    def fail(*_, **__):
        raise error

    again = states(tmp_path, [])
    with monkeypatch.context() as patch:
        if where == "digest":
            patch.setattr(Path, "read_bytes", fail)
        else:
            patch.setattr(checkpoints, "load_arrays", fail)
        with pytest.raises(raised):
            again.restore(STATE)
    assert again.restore(STATE)[1] == 1


def not_text(path):
    path.with_name(f"{path.name}.sha256").write_bytes(b"\x80" * 64)


@pytest.mark.parametrize(
    "fault", [flip, not_text, lambda p: p.with_name(f"{p.name}.sha256").unlink()]
)
def test_damaged_weights_are_not_read(tmp_path, fault):
    save_variables(tmp_path / "w", STATE)
    np.testing.assert_array_equal(load_variables(tmp_path / "w")["w"], STATE["w"])
    fault(tmp_path / "w")
    with pytest.raises(DamagedError, match="w"):
        load_variables(tmp_path / "w")


@pytest.mark.slow
def test_weights_lost_after_their_trial_are_trained_again(tmp_path):
    """The run ends between the retraining and the result."""
    result = study(tmp_path)
    before = content_without_report(tmp_path)
    (tmp_path / "result.json").unlink()
    flip(tmp_path / "weights" / "winner0" / "seed1")
    again = study(tmp_path)
    for measured in ("seconds", "compilations"):
        result.pop(measured)
        again.pop(measured)
    assert again == result
    assert content_without_report(tmp_path) == before


def test_a_study_that_lost_what_it_wrote_is_not_done_and_can_go_on(tmp_path):
    lost = "weights/winner0/seed0"

    class Loss(Listener):
        def milestone(self, now):
            if now.stage == "retraining":
                shutil.rmtree(tmp_path / lost)

    console = Console(quiet=True)
    with pytest.raises(StorageError, match=f"{lost}` is missing; the same command"):
        run_study(
            config(), tmp_path, console, progress=Progress(console, [Loss()]), train_fn=look_up
        )
    assert not (tmp_path / "result.json").exists()
    assert study(tmp_path)["winners"]
    load_variables(tmp_path / lost)


def content_without_report(workdir):
    (workdir / "report").mkdir(exist_ok=True)
    return content(workdir)
