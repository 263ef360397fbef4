"""Two processes of two devices each: they do what one with four does, and end as one."""

import json
import signal
import socket
import time

import jax
import numpy as np
import pytest
from runs import REAL, ROOT, TABLE, TINY, content, finish, run, start, stored, study, wait_until

from jointnas_jax.models.model import load

TRAIN = ROOT / "scripts" / "train_candidate.py"
SMALL = ("--config.search.rounds=2", "--noconfig.study.random_reference")
# Seconds without a heartbeat after which a process is dead. Only who waits for that wants few: on a
# busy machine a process may say nothing for a while.
PATIENT, QUICK = 120, 10
# Seconds that an end may take besides.
SLACK = 60


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def process(script, workdir, port, number, *flags, timeout=PATIENT, **environment):
    """Starts one of two processes."""
    who = (f"coordinator=127.0.0.1:{port}", "processes=2", f"process={number}")
    settings = [f"--config.pod.{setting}" for setting in (*who, f"timeout={timeout}")]
    flags = (TINY, "--config.executor=pod", *settings, *flags)
    return start(script, workdir, *flags, **environment)


def pod(script, workdir, *flags, **more):
    """Starts both, process 0 first."""
    port = free_port()
    return [process(script, workdir, port, i, *flags, **more) for i in (0, 1)]


def printed(text):
    """Without what Gloo and JAX say of themselves; ranks of a process interrupt each other."""
    # The last one is said by jaxlib 0.10.0 of every program from its cache.
    theirs = ("[Gloo]", "peer ranks", "preemption_notifier.cc", "cpu_aot_loader.cc")
    lines = text.splitlines(keepends=True)
    return "".join(line for line in lines if not any(word in line for word in theirs))


def finished(both, code=0):
    """What both print to standard output; nothing to the other stream."""
    outputs = [finish(process, code) for process in both]
    assert [printed(err) for _, err in outputs] == ["", ""]
    return [printed(out) for out, _ in outputs]


def refused(first, second, code=2):
    """What both print as the reason to end, each on one line."""
    errors = [printed(finish(process, code)[1]) for process in (first, second)]
    assert [err.count("\n") for err in errors] == [1, 1]
    return errors


def test_two_processes_of_two_devices_are_one_study(tmp_path):
    """Their hosts need not share a folder."""
    workdir, other, alone = tmp_path / "pod", tmp_path / "other", tmp_path / "alone"
    port, quick = free_port(), {"JOINTNAS_TABLE_SECONDS": "0"}
    first = process(TABLE, workdir, port, 0, *SMALL, **quick)
    second = process(TABLE, other, port, 1, *SMALL, "--tensorboard", **quick)
    study(alone, *SMALL)  # on four devices
    shown, nothing = finished([first, second])
    assert "winner" in shown
    assert nothing == ""
    (alone / "report").mkdir()
    assert content(workdir)[:-1] == content(alone)[:-1]
    assert (workdir / "report" / "index.html").exists()
    assert not (workdir / "processes").exists()
    assert not other.exists()


@pytest.mark.slow
def test_trainings_that_pause_go_on_in_the_other_process(tmp_path):
    """Process 0 keeps their states, and hands them out."""
    rungs = ("--config.search.stopping=curve", "--config.train.epochs=4", *SMALL)
    study(tmp_path / "alone", *rungs)
    both = pod(TABLE, tmp_path / "pod", *rungs, JOINTNAS_TABLE_SECONDS="0")
    finished(both)
    (tmp_path / "alone" / "report").mkdir()
    ours, theirs = (content(tmp_path / name)[:-1] for name in ("pod", "alone"))
    assert any(trial["resumed"] is not None for trial in ours[1])
    assert ours == theirs


@pytest.mark.slow
def test_one_network_trains_on_the_devices_of_both(tmp_path):
    """To float rounding, and only process 0 writes."""
    workdir, other, alone = tmp_path / "pod", tmp_path / "other", tmp_path / "alone"
    port = free_port()
    both = [process(TRAIN, folder, port, i) for i, folder in enumerate((workdir, other))]
    together = ("--config.train.data_parallel=always", "--quiet")
    run(TRAIN, alone, TINY, *together, JAX_NUM_CPU_DEVICES="4")
    shown, nothing = finished(both)
    assert "epoch 3 of 3" in shown
    assert nothing == ""
    assert not other.exists()
    assert_alike(workdir, alone)


def assert_alike(workdir, alone):
    """Two trainings of one network differ in float rounding only."""
    results = [json.loads((folder / "result.json").read_text()) for folder in (workdir, alone)]
    for result in results:
        del result["seconds"], result["digest"]
    assert results[0].pop("accuracy") == pytest.approx(results[1].pop("accuracy"), abs=0.01)
    assert results[0] == results[1]
    models = [load(folder).variables for folder in (workdir, alone)]
    for a, b in zip(*map(jax.tree.leaves, models), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_two_configs_are_no_study(tmp_path):
    port = free_port()
    both = [process(TABLE, tmp_path / "pod", port, i, f"--config.seed={i}") for i in (0, 1)]
    what = "all processes must have the same config, but `config.seed` is 0 in process 0, 1 in"
    for err in refused(*both):
        assert err.startswith(f"error: {what} process 1")
    assert not (tmp_path / "pod").exists()


def test_a_port_in_use_is_bad_input(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as used:
        port = used.getsockname()[1]
        _, err = finish(process(TABLE, tmp_path / "pod", port, 0), code=2)
    assert "error: `config.executor` = `pod`: the processes cannot be connected" in err


def test_nobody_says_who_the_processes_are(tmp_path):
    _, err = run(TABLE, tmp_path / "pod", TINY, "--config.executor=pod", code=2)
    assert "`processes` and `process` in `config.pod`" in err
    assert err.count("\n") == 1


@pytest.mark.slow
def test_other_devices_on_one_host_are_no_study(tmp_path):
    port = free_port()
    both = [process(TABLE, tmp_path, port, i, JAX_NUM_CPU_DEVICES=str(i + 1)) for i in (0, 1)]
    for err in refused(*both):
        assert "same machine, but `machine.devices` is 1 in process 0, 2 in process 1" in err
    assert stored(tmp_path) == 0


@pytest.mark.slow
def test_one_that_cannot_read_its_images_ends_both(tmp_path):
    fault = (
        "import jointnas_jax.data.source as s\n"
        "def load(*_): raise s.DataError('no images here')\n"
        "s.ImageDataset.load = load"
    )
    port = free_port()
    first = process(TABLE, tmp_path, port, 0)
    second = process(TABLE, tmp_path, port, 1, JOINTNAS_TABLE_FAULT=fault)
    assert refused(first, second) == [
        "error: process 1: no images here\n",
        "error: no images here\n",
    ]
    assert stored(tmp_path) == 0


@pytest.mark.slow
def test_a_workdir_in_use_ends_both(tmp_path):
    both = pod(TABLE, tmp_path, JOINTNAS_TABLE_SECONDS="1")
    assert wait_until(lambda: stored(tmp_path) >= 1, both[0])
    first, second = refused(*pod(TABLE, tmp_path), code=5)
    assert "is in use by process" in first
    assert second == f"error: process 0: {first.removeprefix('error: ')}"
    for one in both:
        one.kill()
        finish(one, code=-signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_one_that_dies_ends_both_and_the_same_commands_go_on(tmp_path, undisturbed, number, victim):
    both = pod(TABLE, tmp_path, timeout=QUICK, JOINTNAS_TABLE_SECONDS="0.3")
    assert wait_until(lambda: stored(tmp_path) >= 5, both[0])
    both[victim].send_signal(number)
    start = time.monotonic()
    if number == signal.SIGKILL:
        finish(both[victim], code=-signal.SIGKILL)
        out, err = both[1 - victim].communicate(timeout=280)
        assert both[1 - victim].returncode not in (0, 3), (out, err)
        assert "another process is lost" in err or "another task died" in err
    else:
        for one in both:
            assert "interrupted; to go on from what is saved" in finish(one, code=3)[1]
    assert time.monotonic() - start < QUICK + SLACK
    assert stored(tmp_path) < 33
    shown, _ = finished(pod(TABLE, tmp_path, JOINTNAS_TABLE_SECONDS="0"))
    assert "goes on with" in shown
    assert content(tmp_path) == content(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("memory", [8, 0])
def test_real_trainings_are_those_of_one_process_also_where_they_go_on(tmp_path, memory):
    # Many epochs, so that both are in the middle of a training when one is told to end.
    flags = (*SMALL, f"--config.data.memory_gb={memory}", "--config.train.epochs=40")
    run(REAL, tmp_path / "alone", TINY, *flags, JAX_NUM_CPU_DEVICES="4")
    after_an_epoch = tmp_path / "after_an_epoch"
    both = interrupted(tmp_path / "pod", after_an_epoch, *flags)
    states = tmp_path / "pod" / "processes" / "1" / "state"
    assert any(states.glob("*/*.sha256"))  # saved for the signal: it was not yet time
    finished(pod(REAL, tmp_path / "pod", *flags))
    assert content(tmp_path / "pod") == content(tmp_path / "alone")
    assert not states.parent.parent.exists()
    assert all("interrupted" in err for _, err in both)


def interrupted(workdir, after_an_epoch, *flags, script="run_joint"):
    """Ends a run by a signal to process 1 in the middle of its first training."""
    real = {"JOINTNAS_TABLE_SECONDS": "real", "JOINTNAS_TABLE_SCRIPT": script}
    touch = (
        "import pathlib, time, jointnas_jax.telemetry.progress as p\n"
        "begin = p.Progress.lanes_begin\n"
        "def lanes_begin(self, lanes, images):\n"
        "    epoch = begin(self, lanes, images)\n"
        "    def epoch_ends(number):\n"
        f"        pathlib.Path({str(after_an_epoch)!r}).touch()\n"
        "        time.sleep(0.2)\n"
        "        epoch(number)\n"
        "    return epoch_ends\n"
        "p.Progress.lanes_begin = lanes_begin"
    )
    both = pod(TABLE, workdir, *flags, **real, JOINTNAS_TABLE_FAULT=touch)
    assert wait_until(after_an_epoch.exists, both[0])
    both[1].terminate()
    return [finish(one, code=3) for one in both]


@pytest.mark.slow
@pytest.mark.parametrize("memory", [8, 0])
def test_one_network_of_both_goes_on_where_a_signal_ended_it(tmp_path, memory):
    flags = (f"--config.data.memory_gb={memory}", "--config.train.winner_epochs=40")
    finished(pod(TRAIN, tmp_path / "whole", *flags))
    interrupted(tmp_path / "pod", tmp_path / "epoch", *flags, script="train_candidate")
    assert any((tmp_path / "pod" / "state").glob("*/*.sha256"))
    assert not (tmp_path / "pod" / "result.json").exists()
    shown, _ = finished(pod(TRAIN, tmp_path / "pod", *flags))
    assert "epoch 40 of 40" in shown
    assert "epoch 1 of 40" not in shown
    assert_alike(tmp_path / "pod", tmp_path / "whole")


@pytest.mark.slow
def test_a_finished_study_is_told_again(tmp_path):
    finished(pod(TABLE, tmp_path, *SMALL, JOINTNAS_TABLE_SECONDS="0"))
    shown, nothing = finished(pod(TABLE, tmp_path, *SMALL))
    assert "holds this study, finished" in " ".join(shown.split())
    assert nothing == ""
    for err in refused(*pod(TABLE, tmp_path, *SMALL, "--config.seed=1")):
        assert "holds a finished study with another config" in err


@pytest.mark.slow
def test_slurm_says_who_the_processes_are(tmp_path):
    """By its variables, which need no flags."""
    job = {"SLURM_JOB_ID": str(free_port()), "SLURM_STEP_NODELIST": "127.0.0.1"}
    flags = (TINY, *SMALL, "--config.executor=pod")
    both = [
        start(
            TABLE,
            tmp_path,
            *flags,
            **(job | {"SLURM_NTASKS": "2", "SLURM_PROCID": number, "SLURM_LOCALID": number}),
            JOINTNAS_TABLE_SECONDS="0",
        )
        for number in "01"
    ]
    shown, nothing = finished(both)
    assert "winner" in shown
    assert nothing == ""
