"""Checks 4, 13, 19 and 20: the workdir."""

import dataclasses
import io
import json
import os
import shutil
import signal
import stat
import subprocess
import sys

import pytest
from rich.console import Console
from runs import REAL, ROOT, TABLE, TINY, config, run, start, stored, study, wait_until
from table_study import look_up

from jointnas_jax.errors import BusyError, ConfigError, DamagedError, WorkdirError
from jointnas_jax.execution import local
from jointnas_jax.files import read_json, write_json
from jointnas_jax.runtime import jax_setup
from jointnas_jax.runtime.interrupt import Interrupt
from jointnas_jax.storage.lock import locked
from jointnas_jax.storage.workdir import SCHEMA
from jointnas_jax.study import entry


class Stopped(BaseException):
    """Ends a study in the middle."""


@pytest.fixture(scope="module")
def unfinished_study(tmp_path_factory):
    """A study that ended after its first trial."""
    workdir, calls = tmp_path_factory.mktemp("unfinished"), []

    def ends(assignment, jobs, stop):
        calls.append(jobs)
        if len(calls) == 2:
            raise Stopped
        return look_up(assignment, jobs, stop)

    with pytest.raises(Stopped):
        study(workdir, "--config.train.program=exact", train_fn=ends)
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


def test_a_study_that_must_go_on_has_to_be_there(tmp_path):
    with pytest.raises(WorkdirError, match="is `must`, but workdir"):
        study(tmp_path / "none", "--config.study.resume=must")
    assert not (tmp_path / "none").exists()


def test_another_machine_is_told_and_only_goes_on_if_allowed(unfinished, monkeypatch):
    here = local.environment
    monkeypatch.setattr(local, "environment", lambda n: here(n) | {"features": "others"})
    with pytest.raises(ConfigError, match=r"another machine: features \d+ there, others here"):
        study(unfinished, EXACT)
    console = Console(record=True, width=500, file=io.StringIO())
    flags = ("--config.study.other_machine", "--config.study.resume=must")
    study(unfinished, EXACT, *flags, console=console)
    text = console.export_text()
    assert "warning: the study began on another machine" in text
    assert "goes on with 1 stored trials" in text


def test_a_workdir_of_another_schema_is_refused(unfinished):
    data = read_json(unfinished / "provenance.json", SCHEMA)
    write_json(unfinished / "provenance.json", data | {"schema": 0}, digest=True)
    with pytest.raises(WorkdirError, match="schema 0, this version reads schema 3"):
        study(unfinished, EXACT)


def test_classes_without_validation_images_are_named(tmp_path):
    console = Console(record=True, width=500, file=io.StringIO())
    study(tmp_path, EXACT, "--config.data.val_images=9", console=console)
    (line,) = [x for x in console.export_text().splitlines() if "no validation image" in x]
    assert line.startswith("  warning: no validation image of class '")


@pytest.mark.parametrize("name", ["config.json", "provenance.json"])
def test_a_file_of_before_schemas_is_refused_as_such(unfinished, name):
    data = read_json(unfinished / name, SCHEMA)
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


@pytest.mark.parametrize("name", ["config.json", "provenance.json"])
def test_a_flipped_digit_in_a_file_is_seen(unfinished, name):
    file = unfinished / name
    text = file.read_text()
    digit = next(i for i, c in enumerate(text) if c.isdigit())
    file.write_text(text[:digit] + str((int(text[digit]) + 1) % 10) + text[digit + 1 :])
    with pytest.raises(DamagedError, match=f"{name}` is damaged"):
        study(unfinished, EXACT)


def test_a_stored_trial_of_another_candidate_is_seen(unfinished, monkeypatch):
    """As of a version that searches in another way."""
    from jointnas_jax.problem.problem import Problem

    pool = Problem.pool
    monkeypatch.setattr(Problem, "pool", lambda self: pool(self)[::-1])
    with pytest.raises(DamagedError, match="trial 0 .* of another candidate"):
        study(unfinished, EXACT)


# -- two runs, names, modes ----------------------------------------------------------------------

OWNER = """
import sys, time
from pathlib import Path
from jointnas_jax.storage.lock import locked
from jointnas_jax.models.model import Model, save_model
with locked(Path(sys.argv[1])):
    print("owned", flush=True)
    time.sleep(100)
"""


def test_a_workdir_has_one_run_and_is_free_after_a_kill(tmp_path):
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
def test_a_workdir_that_cannot_be_is_named_in_one_line(tmp_path, name):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(WorkdirError, match="workdir") as raised:
        study(tmp_path / name)
    assert "\n" not in str(raised.value)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_workdir_may_have_any_name(tmp_path, monkeypatch, capsys):
    """What is printed, the database and all else take it as it is."""
    monkeypatch.setattr(entry, "prepare_jax", lambda devices: None)
    monkeypatch.setenv("COLUMNS", "500")
    workdir = tmp_path / "a?b#c%41 :smile: {x} [" / "y]"
    few = ["--config.search.rounds=1", "--noconfig.study.random_reference"]
    for said in (f"wrote {workdir}/result.json", f"`{workdir}` holds this study, finished"):
        options = entry.Options(workdir)
        assert entry.run(config(*few), options, Interrupt(), train_fn=look_up) == 0
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


@pytest.mark.slow
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
    assert jax_setup._is_private(cache)
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(os, "getuid", lambda: cache.stat().st_uid + 1)
    assert not jax_setup._is_private(cache)
    (tmp_path / "file").write_text("mine")
    assert not jax_setup._is_private(tmp_path / "file" / "compiled")
    assert capsys.readouterr().err.count("it is not used") == 2


@pytest.mark.slow
def test_trials_can_be_read_while_a_study_runs(tmp_path):
    """As a dashboard does, again and again."""
    from jointnas_jax.storage.trial_store import TrialStore

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
