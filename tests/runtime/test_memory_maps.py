"""A process that has no memory maps left is told so, before XLA ends it."""

import os
import subprocess
import sys
import threading

import pytest
from calls import ROOT, TINY

from jointnas_jax.errors import StudyError
from jointnas_jax.runtime.memory_maps import devices_with_room, room_for_a_program


def system(folder, limit, used=0):
    (folder / "sys" / "vm").mkdir(parents=True)
    (folder / "self").mkdir()
    (folder / "sys" / "vm" / "max_map_count").write_text(f"{limit}\n")
    (folder / "self" / "maps").write_bytes(b"00-01 rw-p\n" * used)
    return folder


@pytest.mark.parametrize(
    ("limit", "cores", "devices"),
    [(65_530, 4, 4), (65_530, 64, 8), (1_000_000, 64, 64), (100, 64, 1), ("no number", 64, 64)],
)
def test_a_cpu_has_as_many_devices_as_programs_have_room(tmp_path, limit, cores, devices):
    assert devices_with_room(cores, system(tmp_path, limit)) == devices


def test_systems_that_do_not_say_have_no_limit(tmp_path):
    assert devices_with_room(64, tmp_path) == 64
    with room_for_a_program(tmp_path):
        pass


def test_a_process_without_room_is_told_what_to_do(tmp_path):
    with room_for_a_program(system(tmp_path / "enough", 65_530, used=59_000)):
        pass
    full = system(tmp_path / "full", 65_530, used=60_000)
    message = r"60,000 of the 65,530 .*JAX_NUM_CPU_DEVICES=4.*sysctl"
    with pytest.raises(StudyError, match=message), room_for_a_program(full):
        pass


def test_programs_that_load_at_once_wait_for_each_other(tmp_path):
    """There is room for two; a third waits until one of them is there."""
    proc = system(tmp_path, 65_530, used=53_000)
    entered, leave = threading.Semaphore(0), threading.Semaphore(0)

    def load():
        with room_for_a_program(proc):
            entered.release()
            leave.acquire()

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert entered.acquire(timeout=10)
    assert entered.acquire(timeout=10)
    assert not entered.acquire(timeout=0.2)
    leave.release()
    assert entered.acquire(timeout=10)
    leave.release(2)
    for thread in threads:
        thread.join()


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/sys/vm/max_map_count"), reason="needs Linux")
def test_a_study_on_too_many_devices_ends_with_that_line_and_goes_on_with_fewer(tmp_path):
    """On 120 devices the programs of one envelope are too many; an abort has no line."""

    def run(devices, *flags):
        return subprocess.run(
            [
                *(sys.executable, "scripts/run_joint.py", TINY, *flags),
                f"--workdir={tmp_path / 'study'}",
            ],
            cwd=ROOT,
            env=os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)},
            capture_output=True,
            text=True,
            check=False,
        )

    done = run(120)
    assert done.returncode == 1, done.stderr
    assert "memory maps that Linux admits" in done.stderr
    assert "Traceback" not in done.stderr
    assert run(2, "--config.study.other_machine").returncode == 0
