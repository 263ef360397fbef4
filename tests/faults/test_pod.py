"""A study of two processes: it is that of one, and ends as one."""

import os
import signal
import socket
import time

import pytest
from runs import REAL, TABLE, TINY, content, finish, run, start, stored, study, wait_until

SMALL = ("--config.search.rounds=2", "--noconfig.study.random_reference")
# Seconds without a word of a process, after which it is dead. Only who waits for that wants few:
# on a busy machine a process may say nothing for a while.
PATIENT, QUICK = 120, 6
# Seconds that an end may take besides.
SLACK = 30


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def process(script, workdir, port, number, *flags, timeout=PATIENT, **environment):
    """Starts one of two processes, with two devices."""
    who = (f"coordinator=127.0.0.1:{port}", "processes=2", f"process={number}")
    settings = [f"--config.pod.{setting}" for setting in (*who, f"timeout={timeout}")]
    flags = (TINY, "--config.executor=pod", *settings, *flags)
    return start(script, workdir, *flags, **environment)


def pod(script, workdir, *flags, **more):
    """Starts both, process 0 first."""
    port = free_port()
    return [process(script, workdir, port, i, *flags, **more) for i in (0, 1)]


def finished(both):
    """What both print to standard output."""
    told = [finish(process) for process in both]
    assert [err for _, err in told] == ["", ""]
    return [out for out, _ in told]


def refused(first, second, code=2):
    """What both print as the reason to end, each on one line."""
    errors = [finish(process, code)[1] for process in (first, second)]
    assert [err.count("\n") for err in errors] == [1, 1]
    return errors


def test_two_processes_of_two_devices_are_one_study(tmp_path, table):
    """Their hosts need not share a folder."""
    workdir, other, alone = tmp_path / "pod", tmp_path / "other", tmp_path / "alone"
    port, quick = free_port(), {"JOINTNAS_TABLE_SECONDS": "0"}
    first = process(TABLE, workdir, port, 0, *SMALL, **quick)
    second = process(TABLE, other, port, 1, *SMALL, "--tensorboard", **quick)
    study(alone, *SMALL)  # on four devices
    told, nothing = finished([first, second])
    assert "winner" in told
    assert nothing == ""
    (alone / "report").mkdir()
    assert content(workdir)[:-1] == content(alone)[:-1]
    assert (workdir / "report" / "index.html").exists()
    assert not (workdir / "processes").exists()
    assert not other.exists()


def test_two_configs_are_no_study(tmp_path):
    port = free_port()
    both = [process(TABLE, tmp_path / "pod", port, i, f"--config.seed={i}") for i in (0, 1)]
    first, second = refused(*both)
    what = "all processes must have the same config, but `config.seed` is 0 in process 0, 1 in"
    assert first.startswith(f"error: {what} process 1")
    assert second.startswith(f"error: process 0: {what}")
    assert not (tmp_path / "pod").exists()


def test_a_port_in_use_is_bad_input(tmp_path):
    with socket.create_server(("", 0)) as used:
        port = used.getsockname()[1]
        _, err = finish(process(TABLE, tmp_path / "pod", port, 0), code=2)
    assert err.startswith(f"error: port {port} of `config.pod.coordinator` cannot be used")
    assert err.count("\n") == 1


def test_nobody_says_who_the_processes_are(tmp_path):
    _, err = run(TABLE, tmp_path / "pod", TINY, "--config.executor=pod", code=2)
    assert "name `coordinator`, `processes` and `process` in `config.pod`" in err
    assert err.count("\n") == 1


@pytest.mark.slow
def test_other_devices_on_one_host_are_no_study(tmp_path):
    port = free_port()
    both = [process(TABLE, tmp_path, port, i, JAX_NUM_CPU_DEVICES=str(i + 1)) for i in (0, 1)]
    for err in refused(*both):
        assert "same machine, but `machine.devices` is 1 in process 0, 2 in process 1" in err
    assert [path.name for path in tmp_path.iterdir()] in ([], ["lock"])


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
def test_a_number_twice_ends_the_study_with_a_reason(tmp_path):
    port = free_port()
    both = [process(TABLE, tmp_path, port, i, JOINTNAS_TABLE_SECONDS="1") for i in (0, 1)]
    assert wait_until(lambda: stored(tmp_path) >= 1, both[0])
    late = process(TABLE, tmp_path, port, 1)
    for one in both:
        _, err = finish(one, code=-signal.SIGABRT)
        assert "must be started once, with a number of its own" in err
    late.kill()  # it would wait for others
    finish(late, code=-signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_one_that_dies_ends_both_and_the_same_commands_go_on(tmp_path, undisturbed, number, victim):
    both = pod(TABLE, tmp_path, timeout=QUICK, JOINTNAS_TABLE_SECONDS="0.3")
    assert wait_until(lambda: stored(tmp_path) >= 5, both[0])
    both[victim].send_signal(number)
    start = time.monotonic()
    if number == signal.SIGKILL:
        _, err = finish(both[1 - victim], code=1)
        finish(both[victim], code=-signal.SIGKILL)
        assert err.splitlines()[-1] == (
            f"error: process {victim} of 2 is lost, which ends process {1 - victim}; the same "
            "command on every host goes on"
        )
    else:
        told = [finish(process, code=3)[1] for process in both]
        assert all("interrupted" in err for err in told)
    assert time.monotonic() - start < QUICK + SLACK  # JAX would take 72 seconds
    assert stored(tmp_path) < 33
    told, _ = finished(pod(TABLE, tmp_path, JOINTNAS_TABLE_SECONDS="0"))
    assert "goes on with" in told
    assert content(tmp_path) == content(undisturbed)


@pytest.mark.slow
def test_a_machine_that_stood_still_has_lost_nobody(tmp_path):
    both = pod(TABLE, tmp_path, *SMALL, timeout=QUICK, JOINTNAS_TABLE_SECONDS="0.3")
    assert wait_until(lambda: stored(tmp_path) >= 1, both[0])
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for one in both:
            os.kill(one.pid, number)
        time.sleep(QUICK + 4)
    finished(both)


@pytest.mark.slow
@pytest.mark.parametrize("memory", [8, 0])
def test_real_trainings_are_those_of_one_process_also_where_they_go_on(tmp_path, memory):
    # Many epochs, so that both are in the middle of a training when one is told to end.
    flags = (*SMALL, f"--config.data.memory_gb={memory}", "--config.train.epochs=40")
    run(REAL, tmp_path / "alone", TINY, *flags, JAX_NUM_CPU_DEVICES="4")
    port, after_an_epoch = free_port(), tmp_path / "after_an_epoch"
    tell = (
        "import pathlib, time, jointnas_jax.train.checkpoints as c\n"
        "due, save = c.Checkpoints.due, c.Checkpoints.save\n"
        f"c.Checkpoints.due = lambda s: pathlib.Path({str(after_an_epoch)!r}).touch() or due(s)\n"
        "c.Checkpoints.save = lambda *given: time.sleep(3) or save(*given)"
    )
    real = {"JOINTNAS_TABLE_SECONDS": "real"}
    first = process(TABLE, tmp_path / "pod", port, 0, *flags, **real)
    second = process(TABLE, tmp_path / "pod", port, 1, *flags, **real, JOINTNAS_TABLE_FAULT=tell)
    assert wait_until(after_an_epoch.exists, first)
    second.terminate()
    for one in (first, second):
        finish(one, code=3)
    states = tmp_path / "pod" / "processes" / "1" / "state"
    assert any(states.glob("*/*.sha256"))  # saved for the signal: it was not yet time
    finished(pod(REAL, tmp_path / "pod", *flags))
    assert content(tmp_path / "pod") == content(tmp_path / "alone")
    assert not states.parent.parent.exists()


@pytest.mark.slow
def test_a_finished_study_is_told_again(tmp_path):
    finished(pod(TABLE, tmp_path, *SMALL, JOINTNAS_TABLE_SECONDS="0"))
    told, nothing = finished(pod(TABLE, tmp_path, *SMALL))
    assert "holds this study, finished" in told
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
            *(TABLE, tmp_path, *flags),
            **(job | {"SLURM_NTASKS": "2", "SLURM_PROCID": number, "SLURM_LOCALID": number}),
            JOINTNAS_TABLE_SECONDS="0",
        )
        for number in "01"
    ]
    told, nothing = finished(both)
    assert "winner" in told
    assert nothing == ""
