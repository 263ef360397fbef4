"""A study of two processes: it is that of one, and ends as one."""

import signal
import socket
import time

import pytest
from runs import REAL, TABLE, TINY, content, finish, run, start, stored, study, wait_until

TIMEOUT = 4  # seconds without a word of a process, after which it is dead
SMALL = ("--config.search.rounds=2", "--noconfig.study.random_reference")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def process(script, workdir, port, number, *flags, **environment):
    """Starts one of two processes, with two devices."""
    who = (f"coordinator=127.0.0.1:{port}", "processes=2", f"process={number}")
    settings = [f"--config.pod.{setting}" for setting in (*who, f"timeout={TIMEOUT}")]
    flags = (TINY, "--config.executor=pod", *settings, *flags)
    return start(script, workdir, *flags, **environment)


def pod(script, workdir, *flags, **environment):
    """Starts both, process 0 first."""
    port = free_port()
    return [process(script, workdir, port, i, *flags, **environment) for i in (0, 1)]


def finished(both):
    """What both print to standard output."""
    told = [finish(process) for process in both]
    assert [err for _, err in told] == ["", ""]
    return [out for out, _ in told]


def test_two_processes_of_two_devices_are_one_study(tmp_path, table):
    workdir, alone = tmp_path / "pod", tmp_path / "alone"
    both = pod(TABLE, workdir, *SMALL, JOINTNAS_TABLE_SECONDS="0")
    study(alone, *SMALL)  # on four devices
    told, nothing = finished(both)
    assert "winner" in told
    assert nothing == ""
    (alone / "report").mkdir()
    assert content(workdir)[:-1] == content(alone)[:-1]
    assert (workdir / "report" / "index.html").exists()
    assert not list(workdir.glob("process*"))


def test_a_port_in_use_is_bad_input(tmp_path):
    with socket.create_server(("", 0)) as used:
        port = used.getsockname()[1]
        _, err = finish(process(TABLE, tmp_path / "pod", port, 0), code=2)
    assert err.startswith(f"error: port {port} of `config.pod.coordinator` cannot be used")
    assert err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_one_that_dies_ends_both_and_the_same_commands_go_on(tmp_path, undisturbed, number, victim):
    both = pod(TABLE, tmp_path, JOINTNAS_TABLE_SECONDS="0.3")
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
    assert time.monotonic() - start < TIMEOUT + 3
    assert stored(tmp_path) < 33
    told, _ = finished(pod(TABLE, tmp_path, JOINTNAS_TABLE_SECONDS="0"))
    assert "goes on with" in told
    assert content(tmp_path) == content(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--config.data.memory_gb=8", "--config.data.memory_gb=0"])
def test_real_trainings_are_those_of_one_process_also_where_they_go_on(tmp_path, flag):
    flags = (flag, "--config.study.checkpoint_minutes=0")
    run(REAL, tmp_path / "alone", TINY, *flags, JAX_NUM_CPU_DEVICES="4")
    both = pod(REAL, tmp_path / "pod", *flags)
    states = tmp_path / "pod" / "process1" / "state"
    assert wait_until(lambda: any(states.glob("*/1.sha256")), both[0])
    both[1].terminate()
    for process in both:
        finish(process, code=3)
    assert any(states.glob("*/*.sha256"))
    finished(pod(REAL, tmp_path / "pod", *flags))
    assert content(tmp_path / "pod") == content(tmp_path / "alone")


@pytest.mark.slow
def test_a_finished_study_is_told_again(tmp_path, undisturbed):
    finished(pod(TABLE, tmp_path, *SMALL, JOINTNAS_TABLE_SECONDS="0"))
    told, nothing = finished(pod(TABLE, tmp_path, *SMALL))
    assert "holds this study, finished" in told
    assert nothing == ""
    both = pod(TABLE, tmp_path, *SMALL, "--config.seed=1")
    errors = [finish(process, code=2)[1] for process in both]
    assert all("holds a finished study with another config" in err for err in errors)
