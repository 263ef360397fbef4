"""Checks 1, 2 and 5: whatever ends a run, the same command ends with the same result."""

import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runs import REAL, ROOT, TABLE, TINY, content, finish, run, start, stored, wait_until


def killed_and_resumed(script, workdir, flags, kills, trials):
    """Kills a run as often as said, after random trials; starts it again each time."""
    seed = random.randrange(2**32)
    print(f"seed of the kills: {seed}")
    rng = random.Random(seed)
    moments = sorted(rng.randrange(trials) for _ in range(kills))
    for moment in moments:
        process = start(script, workdir, *flags)
        assert wait_until(lambda moment=moment: stored(workdir) >= moment, process)
        time.sleep(rng.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert stored(workdir) >= moment
    out, _ = run(script, workdir, *flags)
    assert "goes on with" in out or "finished" in out
    return content(workdir)


@pytest.mark.slow
def test_three_kills_change_nothing(undisturbed, tmp_path):
    trials = stored(undisturbed)
    ours = killed_and_resumed(TABLE, tmp_path, [TINY], kills=3, trials=trials)
    assert ours == content(undisturbed)


# Killed by itself, as by another at that very moment: after something was done, not yet used.
KILLED = """
import signal
from {module} import {owner}
real = {owner}.{name}
def killed(*args, **more):
    real(*args, **more)
    os.kill(os.getpid(), signal.SIGKILL)
{owner}.{name} = killed
"""
PHASES = {
    "pool": ("jointnas_jax.problem.problem", "Problem", "pool"),
    "pretraining": ("jointnas_jax.study.stages", "Stages", "pretrain"),
    "predictor": ("jointnas_jax.study.study_files", "StudyFiles", "predictor"),
    "retraining": ("jointnas_jax.study.stages", "Stages", "retrain"),
    "report": ("matplotlib.figure", "Figure", "savefig"),
}


def test_a_kill_in_each_phase_changes_nothing(undisturbed, tmp_path):
    """All of one run, one after the other."""
    for phase in PHASES.values():
        fault = KILLED.format(**dict(zip(("module", "owner", "name"), phase, strict=True)))
        process = start(
            TABLE, tmp_path, TINY, JOINTNAS_TABLE_SECONDS="0", JOINTNAS_TABLE_FAULT=fault
        )
        finish(process, code=-signal.SIGKILL)
    run(TABLE, tmp_path, TINY)
    assert content(tmp_path) == content(undisturbed)


@pytest.mark.slow
def test_ten_kills_of_the_digits_run_change_nothing(tmp_path):
    run(REAL, tmp_path / "whole")
    trials = stored(tmp_path / "whole")
    ours = killed_and_resumed(REAL, tmp_path / "killed", [], kills=10, trials=trials)
    assert ours == content(tmp_path / "whole")


def test_sigterm_saves_what_trains_and_the_run_goes_on(tmp_path):
    """In real training: the state of a candidate is saved after the epoch that runs."""
    flags = [TINY, "--noconfig.study.random_reference", "--config.study.seeds=1"]
    # So long that the signal meets the first trainings.
    flags += ["--config.train.epochs=4000", "--config.train.winner_epochs=2"]
    flags += ["--config.search.rounds=1", "--config.search.per_round=2"]
    flags += ["--config.study.checkpoint_minutes=0.1"]
    process = start(REAL, tmp_path, *flags)
    states = lambda: [int(p.stem) for p in tmp_path.glob("state/*/*.sha256")]
    assert wait_until(states, process)
    before = max(states())
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, err = finish(process, code=3)
    assert time.monotonic() - asked < 20
    command = shlex.join(["python", str(REAL), f"--workdir={tmp_path}", *flags])
    assert err.endswith(f"interrupted; to go on from what is saved:\n  {command}\n")
    assert max(states()) > before


@pytest.mark.slow
def test_the_command_that_ctrl_c_prints_goes_on_and_quietly_tells_the_result_alone(
    undisturbed, tmp_path
):
    """The study began with --overwrite, which must not begin again."""
    process = start(TABLE, tmp_path, TINY, "--overwrite", JOINTNAS_TABLE_SECONDS="0.5")
    assert wait_until(lambda: stored(tmp_path) >= 2, process)
    process.send_signal(signal.SIGINT)
    _, err = finish(process, code=3)
    command = err.splitlines()[-1].strip()
    look = [sys.executable, ROOT / "scripts" / "status.py", f"--workdir={tmp_path}", "--json"]
    seen = json.loads(subprocess.run(look, capture_output=True, check=True).stdout)
    assert (seen["state"], seen["command"]) == ("interrupted", command)
    assert 2 <= seen["progress"]["done"] == stored(tmp_path) < stored(undisturbed)
    python, script, *arguments = shlex.split(command)
    assert (python, script) == ("python", str(REAL))
    workdir = Path(arguments.pop(0).removeprefix("--workdir="))
    out, _ = run(TABLE, workdir, *arguments, "--quiet", JOINTNAS_TABLE_SECONDS="0")
    assert content(tmp_path) == content(undisturbed)
    assert out.startswith("tiny on digits")
    assert "round" not in out


@pytest.mark.slow
def test_a_training_that_was_disturbed_ends_like_an_undisturbed_one(tmp_path):
    """By a kill, which leaves the last state, and by a signal, which leaves that of the moment."""
    flags = [TINY, "--noconfig.study.random_reference", "--config.study.seeds=1"]
    flags += ["--config.train.epochs=60", "--config.study.checkpoint_minutes=0"]
    flags += ["--config.search.rounds=1", "--config.train.winner_epochs=2"]
    run(REAL, tmp_path / "whole", *flags)
    disturbed = tmp_path / "disturbed"
    states = lambda: list(disturbed.glob("state/*/*.sha256"))
    for signals, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 3)):
        process = start(REAL, disturbed, *flags)
        before = stored(disturbed), states()
        assert wait_until(lambda known=before: (stored(disturbed), states()) != known, process)
        assert wait_until(states, process)
        process.send_signal(signals)
        finish(process, code)
        assert states()
    run(REAL, disturbed, *flags)
    assert content(disturbed) == content(tmp_path / "whole")
    assert not (disturbed / "state").exists()


WAITING = """
import sys, time
from jointnas_jax.runtime import interrupt

interrupt.GRACE = float(sys.argv[1])
def work(asked):
    print("ready", flush=True)
    while not (asked.asked() and sys.argv[2] == "checks"):
        time.sleep(0.01)
    asked.check()
sys.exit(interrupt.run_interruptible(work))
"""


@pytest.mark.parametrize(
    ("grace", "checks", "signals"),
    [
        (100, "checks", 1),  # what runs stops by itself
        (0.2, "never", 1),  # what does not is stopped
        (100, "never", 2),  # at once, by a second signal
    ],
)
def test_one_signal_ends_a_run_in_time_and_two_at_once(grace, checks, signals):
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING, str(grace), checks],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout.readline() == "ready\n"
    for _ in range(signals):
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
    asked = time.monotonic()
    _, err = finish(process, code=3)
    assert time.monotonic() - asked < 10
    assert "the same command goes on" in err


def test_the_same_seed_is_the_same_study_elsewhere(undisturbed, tmp_path):
    """Another hash seed, folder and locale; many accuracies of the table are equal."""
    elsewhere = tmp_path / "cwd"
    elsewhere.mkdir()
    process = subprocess.run(
        [sys.executable, str(TABLE), f"--workdir={tmp_path / 'study'}", TINY],
        env=dict(os.environ)
        | {"JAX_NUM_CPU_DEVICES": "2", "PYTHONHASHSEED": "77", "LC_ALL": "C", "LANG": "C"}
        | {"TZ": "Asia/Tokyo", "JOINTNAS_TABLE_SECONDS": "0"},
        cwd=elsewhere,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-1500:]
    assert content(tmp_path / "study") == content(undisturbed)


def test_a_finished_study_says_so_and_changes_nothing(undisturbed):
    look = lambda: {p: p.stat().st_mtime_ns for p in undisturbed.rglob("*") if p.name != "lock"}
    before = look()
    out, _ = run(TABLE, undisturbed, TINY)
    assert "holds this study, finished" in " ".join(out.split())
    assert {p: t for p, t in look().items() if p.is_file()} == {
        p: t for p, t in before.items() if p.is_file()
    }
