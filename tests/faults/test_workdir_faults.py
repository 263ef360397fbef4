"""Checks 4, 10, 12, 13, 19 and 20: the workdir."""

import dataclasses
import io
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from absl import flags
from rich.console import Console
from runs import REAL, ROOT, TABLE, TINY, content, run, start, wait_until
from table_study import train_lanes

from jointnas_jax.command_line import parse_config
from jointnas_jax.errors import BusyError, ConfigError, DamagedError, StorageError, WorkdirError
from jointnas_jax.files import read_json, write_json
from jointnas_jax.nets.init import initial_variables
from jointnas_jax.space import ArchSpec, Head, Stage, Stem
from jointnas_jax.study import lock, main, origin
from jointnas_jax.study.checkpoint import load_variables, save_variables
from jointnas_jax.study.evaluator import Evaluator
from jointnas_jax.study.interrupt import Interrupt
from jointnas_jax.study.lock import locked
from jointnas_jax.study.model import Model, save_model
from jointnas_jax.study.run import run_study
from jointnas_jax.train.checkpoints import Checkpoints


def config(*arguments):
    return parse_config(["run", TINY, *arguments], "", flags.FlagValues())


def study(workdir, *arguments, console=None, **more):
    return run_study(config(*arguments), workdir, console or Console(quiet=True), **more)


@pytest.fixture
def table(monkeypatch):
    """Trainings are looked up."""
    monkeypatch.setenv("JOINTNAS_TABLE_SECONDS", "0")
    monkeypatch.setattr(Evaluator, "_train_lanes", train_lanes)


class Stopped(BaseException):
    """Ends a study in the middle."""


@pytest.fixture(scope="module")
def unfinished_study(tmp_path_factory):
    """A study that ended after its first trial."""
    workdir = tmp_path_factory.mktemp("unfinished")
    with pytest.MonkeyPatch.context() as patch:
        calls = []

        def stop(self, shape, jobs, *rest):
            calls.append(jobs)
            if len(calls) == 2:
                raise Stopped
            return train_lanes(self, shape, jobs, *rest)

        patch.setattr(Evaluator, "_train_lanes", stop)
        with pytest.raises(Stopped):
            study(workdir, "--config.train.program=exact")
    return workdir


@pytest.fixture
def unfinished(unfinished_study, tmp_path):
    return shutil.copytree(unfinished_study, tmp_path / "unfinished")


EXACT = "--config.train.program=exact"


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.seed=1", r"`config\.seed` is 0 there, 1 here"),
        ("--config.train.epochs=7", r"`config\.train\.epochs` is 3 there, 7 here"),
        ("--config.space.resolution=4", r"`config\.space\.resolution` is 8 there, 4 here"),
        ("--config.study.resume=never", "holds an unfinished study; give another --workdir"),
    ],
)
def test_another_study_does_not_go_on(unfinished, argument, message):
    with pytest.raises(WorkdirError, match=message) as raised:
        study(unfinished, EXACT, argument)
    assert raised.value.exit_code == 2


def test_a_study_that_must_go_on_has_to_be_there(tmp_path, table):
    with pytest.raises(WorkdirError, match="is `must`, but workdir"):
        study(tmp_path / "none", "--config.study.resume=must")
    assert not (tmp_path / "none").exists()


def test_a_study_that_must_go_on_does(unfinished, table):
    console = Console(record=True, width=500, file=io.StringIO())
    study(unfinished, EXACT, "--config.study.resume=must", console=console)
    assert "goes on with 1 stored trials" in console.export_text()


def test_another_machine_is_told_and_only_goes_on_if_allowed(unfinished, monkeypatch, table):
    here = origin._machine
    monkeypatch.setattr(origin, "_machine", lambda n: here(n) | {"features": "others"})
    with pytest.raises(ConfigError, match=r"another machine: features \d+ there, others here"):
        study(unfinished, EXACT)
    console = Console(record=True, width=500, file=io.StringIO())
    study(unfinished, EXACT, "--config.study.other_machine", console=console)
    assert "warning: the study began on another machine" in console.export_text()


def test_a_workdir_of_another_schema_is_refused(unfinished):
    data = read_json(unfinished / "origin.json")
    write_json(unfinished / "origin.json", data | {"schema": 0}, digest=True)
    with pytest.raises(WorkdirError, match="schema 0, this version reads schema 1"):
        study(unfinished, EXACT)


@pytest.mark.parametrize("name", ["config.json", "origin.json"])
def test_a_file_of_before_schemas_is_refused_as_such(unfinished, name):
    data = read_json(unfinished / name)
    del data["schema"]
    (unfinished / name).write_text(json.dumps(data))
    with pytest.raises(WorkdirError, match=f"{name}` is without a schema, this version reads") as e:
        study(unfinished, EXACT)
    assert e.value.exit_code == 2


def test_a_lost_digest_is_damage_all_the_same(unfinished):
    file = unfinished / "config.json"
    file.write_text(file.read_text().replace('"digest"', '"dihest"'))
    with pytest.raises(DamagedError, match=r"config\.json` is damaged"):
        study(unfinished, EXACT)


@pytest.mark.parametrize("name", ["config.json", "origin.json"])
def test_a_flipped_digit_in_a_file_is_seen(unfinished, name):
    file = unfinished / name
    text = file.read_text()
    digit = next(i for i, c in enumerate(text) if c.isdigit())
    file.write_text(text[:digit] + str((int(text[digit]) + 1) % 10) + text[digit + 1 :])
    with pytest.raises(DamagedError, match=f"{name}` is damaged"):
        study(unfinished, EXACT)


def test_a_stored_trial_of_another_candidate_is_seen(unfinished, monkeypatch, table):
    """As of a version that searches in another way."""
    from jointnas_jax.study.problem import Problem

    pool = Problem.pool
    monkeypatch.setattr(Problem, "pool", lambda self: pool(self)[::-1])
    with pytest.raises(DamagedError, match="trial 0 .* of another candidate"):
        study(unfinished, EXACT)


# -- weights and states --------------------------------------------------------------------------

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
    kept.close()
    flip(tmp_path / "3")
    again = states(tmp_path, said)
    state, epochs, notes = again.restore(STATE)
    assert (int(state["step"]), epochs, notes) == (2, 2, {"epoch": 2})
    assert len(said) == 1
    assert "skipped" in said[0]
    # What follows is saved in its place.
    again.save(3, STATE, {"epoch": 3})
    again.close()
    last = states(tmp_path, said)
    assert last.restore(STATE)[1] == 3
    last.close()


def test_without_a_sound_state_a_training_starts_again(tmp_path):
    said = []
    kept = states(tmp_path, said)
    for epoch in (1, 2):
        kept.save(epoch, STATE, {})
    kept.close()
    flip(tmp_path / "1")
    (tmp_path / "2.sha256").unlink()
    again = states(tmp_path, said)
    state, epochs, notes = again.restore(STATE)
    assert (state is STATE, epochs, notes) == (True, 0, {})
    assert len(said) == 2
    again.close()


def test_a_state_of_other_shapes_is_not_taken(tmp_path):
    """As of another number of lanes; Orbax would give it without a word."""
    said = []
    kept = states(tmp_path, said)
    kept.save(1, STATE, {})
    kept.close()
    wanted = STATE | {"w": np.zeros((10, 100), np.float32)}
    again = states(tmp_path, said)
    assert again.restore(wanted) == (wanted, 0, {})
    assert "has not the shapes" in said[0]
    again.close()


@pytest.mark.parametrize(
    ("error", "raised"),
    [(OSError(5, "Input/output error"), StorageError), (MemoryError(), MemoryError)],
)
@pytest.mark.parametrize("where", ["digest", "arrays"])
def test_a_sound_state_that_cannot_be_read_now_is_kept(tmp_path, monkeypatch, error, raised, where):
    kept = states(tmp_path, [])
    kept.save(1, STATE, {})
    kept.close()

    def fail(*_, **__):
        raise error

    again = states(tmp_path, [])
    with monkeypatch.context() as patch:
        if where == "digest":
            patch.setattr(Path, "read_bytes", fail)
        else:
            patch.setattr(type(again._open()), "load", fail)
        with pytest.raises(raised):
            again.restore(STATE)
    assert again.restore(STATE)[1] == 1
    again.close()


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


def test_weights_lost_after_their_trial_are_trained_again(tmp_path, table):
    """The run ends between the retraining and the result."""
    result = study(tmp_path)
    before = content_without_figures(tmp_path)
    (tmp_path / "result.json").unlink()
    flip(tmp_path / "weights" / "winner0" / "seed1")
    again = study(tmp_path)
    for measured in ("seconds", "compilations"):
        result.pop(measured)
        again.pop(measured)
    assert again == result
    assert content_without_figures(tmp_path) == before


def content_without_figures(workdir):
    (workdir / "figures").mkdir(exist_ok=True)
    return content(workdir)


# -- a full disk ---------------------------------------------------------------------------------

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


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A whole study on a table."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    run(TABLE, workdir, TINY, **QUICK)
    return workdir


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


def test_what_was_stored_before_the_disk_was_full_stays(undisturbed, tmp_path):
    fault = FILLED.format(
        module="jointnas_jax.study.store", owner="TrialStore", name="append", calls=5
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
        ("jointnas_jax.study", "trials", "save_variables"),
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
    return Model(arch, variables, (1.0,), (1.0,), (8, 8), 1.0, ("a", "b"))


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


# -- two runs, names, modes ----------------------------------------------------------------------

OWNER = """
import sys, time
from pathlib import Path
from jointnas_jax.study.lock import locked
from jointnas_jax.study.model import Model, save_model
with locked(Path(sys.argv[1])):
    print("owned", flush=True)
    time.sleep(100)
"""


def test_a_workdir_has_one_run_and_is_free_after_a_kill(tmp_path, table):
    workdir = tmp_path / "study"
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(workdir)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout.readline() == "owned\n"
    with pytest.raises(BusyError, match=f"in use by process {owner.pid} on ") as raised:
        study(workdir)
    assert raised.value.exit_code == 5
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    with locked(workdir):
        pass


def test_the_script_ends_with_the_codes_for_damage_and_for_a_workdir_in_use(unfinished):
    with locked(unfinished):
        _, err = run(REAL, unfinished, TINY, EXACT, code=5)
    assert err.startswith(f"error: workdir `{unfinished}` is in use by process {os.getpid()}")
    write_json(unfinished / "result.json", {"trials": 1}, digest=True)
    text = (unfinished / "result.json").read_text()
    (unfinished / "result.json").write_text(text.replace("1", "2", 1))
    _, err = run(REAL, unfinished, TINY, EXACT, code=4)
    assert err == (f"error: `{unfinished}/result.json` is damaged: it is not what was written\n")


@pytest.mark.parametrize("name", ["a\0b", "x" * 300, "file/inside"])
def test_a_workdir_that_cannot_be_is_named_in_one_line(tmp_path, name, table):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(WorkdirError, match="workdir") as raised:
        study(tmp_path / name)
    assert "\n" not in str(raised.value)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_workdir_may_have_any_name(tmp_path, table, monkeypatch, capsys):
    """What is printed, the database and all else take it as it is."""
    monkeypatch.setattr(main, "prepare_jax", lambda devices: None)
    monkeypatch.setenv("COLUMNS", "500")
    workdir = tmp_path / "a?b#c%41 :smile: {x} [" / "y]"
    few = ["--config.search.rounds=1", "--noconfig.study.random_reference"]
    for said in (f"wrote {workdir}/result.json", f"`{workdir}` holds this study, finished"):
        assert main.run(config(*few), workdir, False, False, Interrupt()) == 0
        assert said in capsys.readouterr().out
    assert list(tmp_path.rglob("*.db")) == [workdir / "trials.db"]
    assert [p.name for p in tmp_path.iterdir()] == [workdir.parent.name]


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "", "x" * 65, "a\0b", "a\nb"])
def test_a_name_stays_inside_of_the_workdir(name):
    with pytest.raises(ConfigError, match=r"`config\.name`"):
        dataclasses.replace(config(), name=name) and config(f"--config.name={name}")


MODES = "import os; os.umask(0)"
LISTENS = """
import threading, time
def look():
    sockets = set()
    while True:
        for link in os.listdir("/proc/self/fd"):
            try:
                target = os.readlink(f"/proc/self/fd/{link}")
            except OSError:
                continue
            if target.startswith("socket:["):
                sockets.add(target[8:-1])
        for table in ("tcp", "tcp6", "udp", "udp6"):
            for line in open(f"/proc/self/net/{table}").read().splitlines()[1:]:
                fields = line.split()
                listening = fields[3] == "0A" or table.startswith("udp")
                local = fields[1].split(":")[0] in ("0100007F", "0" * 24 + "01000000")
                if listening and fields[9] in sockets and not local:
                    print("LISTENS", table, line, flush=True)
        time.sleep(0.01)
threading.Thread(target=look, daemon=True).start()
"""


def test_nothing_listens_and_nothing_may_be_changed_by_others(tmp_path):
    cache = tmp_path / "cache"
    compiled = cache / "jointnas_jax" / "compiled"
    compiled.mkdir(mode=0o777, parents=True)
    compiled.chmod(0o777)
    out, err = run(
        *(TABLE, tmp_path / "study", TINY),
        JOINTNAS_TABLE_FAULT=MODES + LISTENS,
        XDG_CACHE_HOME=str(cache),
    )
    assert "LISTENS" not in out + err
    for path in (tmp_path / "study").rglob("*"):
        assert not path.stat().st_mode & stat.S_IWOTH, path
    assert not (tmp_path / "study").stat().st_mode & stat.S_IWOTH
    assert stat.S_IMODE(compiled.stat().st_mode) == 0o700


def test_a_listener_would_be_seen():
    opens = "import os, socket, time\n" + LISTENS + "\nlistener = socket.create_server(('', 0))\n"
    done = subprocess.run(
        [sys.executable, "-c", opens + "time.sleep(0.5)"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "LISTENS tcp" in done.stdout


def test_a_workdir_that_everybody_may_change_is_told(tmp_path, capsys):
    workdir = tmp_path / "study"
    for mode, told in ((0o777, True), (0o755, False)):
        workdir.mkdir(exist_ok=True)
        workdir.chmod(mode)
        with locked(workdir):
            pass
        assert ("everybody may write to workdir" in capsys.readouterr().err) == told


def test_a_compile_cache_of_others_is_not_used(tmp_path, monkeypatch, capsys):
    cache = tmp_path / "compiled"
    cache.mkdir()
    cache.chmod(0o777)
    assert main._is_private(cache)
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(os, "getuid", lambda: cache.stat().st_uid + 1)
    assert not main._is_private(cache)
    (tmp_path / "file").write_text("mine")
    assert not main._is_private(tmp_path / "file" / "compiled")
    assert capsys.readouterr().err.count("it is not used") == 2


def test_trials_can_be_read_while_a_study_runs(tmp_path):
    """As a dashboard does, again and again."""
    from runs import stored

    from jointnas_jax.study.store import TrialStore

    process = start(TABLE, tmp_path, TINY, JOINTNAS_TABLE_SECONDS="0.2")
    assert wait_until(lambda: stored(tmp_path) >= 3, process)
    reader, lengths = TrialStore(f"sqlite:///{tmp_path}/trials.db", "tiny"), []
    while process.poll() is None:
        trials = reader.load()
        assert len({trial.number for trial in trials}) == len(trials)
        lengths.append(len(trials))
    reader.close()
    assert process.returncode == 0
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[-1]
    process.communicate()
