"""Check 10: a full disk, and files that are written whole or not at all."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from runs import ROOT, TABLE, TINY, content, run

from jointnas_jax.errors import StorageError, WorkdirError
from jointnas_jax.files import write_json
from jointnas_jax.models.model import Model, save_model
from jointnas_jax.nets.init import initial_variables
from jointnas_jax.space import ArchSpec, Head, Stage, Stem
from jointnas_jax.storage import lock
from jointnas_jax.storage.lock import locked

FULL = """
mount -t tmpfs -o size={size} none {mount} || exit 99
JOINTNAS_TABLE_FAULT="$FAULT" {command} > {out}/first 2>&1
echo $? > {out}/code
rm -f {mount}/filler
mount -o remount,size=256m {mount}
{command} > {out}/second 2>&1 || exit 1
cp -r {mount}/study {out}/study
"""


def full_disk(tmp_path, size, *flags, fault="", **environment):
    """Runs a study on a full disk, then with room: what both printed.

    On a file system of its own, in a namespace where it may be mounted.
    """
    mount, out = tmp_path / "mount", tmp_path / "out"
    mount.mkdir()
    out.mkdir()
    command = f"{sys.executable} {TABLE} --workdir={mount}/study {TINY} {' '.join(flags)}"
    script = FULL.format(size=size, mount=mount, out=out, command=command)
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script],
        env=dict(os.environ) | {"JAX_NUM_CPU_DEVICES": "2", "FAULT": fault} | environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    if done.returncode == 99 or "unshare" in done.stderr:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    first, second = ((out / name).read_text() for name in ("first", "second"))
    assert (out / "code").read_text() == "1\n", first[-1500:]
    assert f"error: `{mount}/study" in first
    assert done.returncode == 0, second[-1500:]
    return first, second


QUICK = {"JOINTNAS_TABLE_SECONDS": "0"}


@pytest.mark.parametrize("size", ["200k", pytest.param("350k", marks=pytest.mark.slow)])
def test_a_full_disk_ends_the_run_and_with_room_it_goes_on(undisturbed, tmp_path, size):
    full_disk(tmp_path, size, **QUICK)
    assert content(tmp_path / "out" / "study") == content(undisturbed)


# Another program fills the disk just before the {calls}-th call of something.
FILLED = """
from {module} import {owner}
real, calls = {owner}.{name}, []
def on_a_full_disk(*args, **more):
    calls.append(args)
    if len(calls) == {calls}:
        workdir = next(a for a in sys.argv if a.startswith("--workdir=")).split("=", 1)[1]
        with open(os.path.dirname(workdir) + "/filler", "wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                print("FULL", flush=True)
    return real(*args, **more)
{owner}.{name} = on_a_full_disk
"""


@pytest.mark.slow
def test_what_was_stored_before_the_disk_was_full_stays(undisturbed, tmp_path):
    fault = FILLED.format(
        module="jointnas_jax.storage.trial_store", owner="TrialStore", name="append", calls=5
    )
    first, second = full_disk(tmp_path, "16m", fault=fault, **QUICK)
    assert "FULL" in first
    assert "goes on with 4 stored trials" in second
    assert content(tmp_path / "out" / "study") == content(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "owner", "name"),
    [
        ("jointnas_jax.train.checkpoints", "Checkpoints", "save"),
        ("jointnas_jax.study", "trial_runner", "save_variables"),
    ],
)
def test_a_disk_that_is_full_at_a_state_or_at_weights_costs_nothing(tmp_path, module, owner, name):
    """In real training."""
    flags = ["--noconfig.study.random_reference", "--config.study.seeds=1"]
    flags += ["--config.study.checkpoint_minutes=0", "--config.search.rounds=1"]
    fault = FILLED.format(module=module, owner=owner, name=name, calls=1)
    real = {"JOINTNAS_TABLE_SECONDS": "real"}
    first, _ = full_disk(tmp_path, "64m", *flags, fault=fault, **real)
    assert "FULL" in first
    run(TABLE, tmp_path / "whole", TINY, *flags, **real)
    assert content(tmp_path / "out" / "study") == content(tmp_path / "whole")


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    write_json(tmp_path / "a.json", {"a": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"a\.json` cannot be written: No space left"):
        write_json(tmp_path / "a.json", {"a": 2})
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert '"a": 1' in (tmp_path / "a.json").read_text()


def test_what_a_kill_left_of_a_file_is_removed(tmp_path):
    left = Path(write_and_die(tmp_path / "model.json"))
    assert left.exists()
    with locked(tmp_path):
        assert not left.exists()
    left = Path(write_and_die(tmp_path / "model" / "model.json"))
    save_model(a_model(), tmp_path / "model")
    assert not left.exists()


def write_and_die(path):
    """Writes a JSON file and is killed before it has its name; returns what is left."""
    path.parent.mkdir(exist_ok=True)
    code = (
        "import os, sys; from pathlib import Path; from jointnas_jax.files import write_json\n"
        "os.replace = lambda a, b: (print(a, flush=True), os.kill(os.getpid(), 9))\n"
        "write_json(Path(sys.argv[1]), {})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    return done.stdout.strip()


def a_model():
    arch = ArchSpec(8, 1, 2, Stem(8), (Stage(8, 1, expand_first=2),), Head(8, expand=1))
    variables = initial_variables(arch, jax.random.key(0))
    return Model(
        arch=arch,
        image_size=(8, 8),
        crop=1.0,
        labels=("a", "b"),
        variables=variables,
        mean=(1.0,),
        std=(1.0,),
    )


def test_a_lock_that_cannot_be_written_or_had_is_named(tmp_path, monkeypatch):
    def fail(error):
        def raises(*_):
            raise error

        return raises

    with monkeypatch.context() as patch:
        patch.setattr(lock.fcntl, "flock", fail(OSError(37, "No locks available")))
        with pytest.raises(WorkdirError, match="cannot be locked: .*No locks available"):
            locked(tmp_path).__enter__()
    monkeypatch.setattr(lock.os, "getpid", fail(OSError(28, "No space left on device")))
    with pytest.raises(StorageError, match=r"lock` cannot be written: .*No space left"):
        locked(tmp_path).__enter__()
