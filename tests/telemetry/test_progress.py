"""What a run tells of itself, on a terminal, in lines, to TensorBoard and to other processes."""

import contextlib
import io
import json
import re
import resource
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import types
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from absl import flags
from rich.console import Console

from jointnas_jax.command_line import parse_config
from jointnas_jax.errors import ConfigError, InterruptedStudyError, StudyError, WorkdirError
from jointnas_jax.files import read_json
from jointnas_jax.runtime.interrupt import Interrupt
from jointnas_jax.storage import lock
from jointnas_jax.storage import workdir as workdirs
from jointnas_jax.storage.study_reader import stored_trials
from jointnas_jax.strategy.report_card import ReportCard
from jointnas_jax.study.run import run_study
from jointnas_jax.telemetry import progress, status, tensorboard
from jointnas_jax.telemetry.console import Lines
from jointnas_jax.telemetry.progress import Listener, Progress, Snapshot
from jointnas_jax.telemetry.tensorboard import Scalars
from jointnas_jax.telemetry.time_left import Lanes, Part

ROOT = Path(__file__).parent.parent.parent
TINY = str(Path(__file__).parent.parent / "support" / "tiny.py")


def config(*arguments):
    return parse_config(["run", *arguments], TINY, flags.FlagValues())


class Recorder(Listener):
    """Remembers what it is told, and looks at every number that is."""

    def __init__(self):
        self.milestones, self.scalars, self.seen = [], [], []

    def start(self, look):
        self.look = look

    def milestone(self, now):
        self.milestones.append(now)

    def scalar(self, name, value, step):
        self.scalars.append((name, value, step))
        self.seen.append(self.look())


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A small finished study that was watched in every way: workdir, recorder, what it printed."""
    workdir, recorder = tmp_path_factory.mktemp("watched"), Recorder()
    console = Console(file=io.StringIO(), width=300)
    watch = Progress(console, [Lines(console), Scalars(), recorder], "python run.py")
    interrupt = Interrupt()
    run_study(
        config("--noconfig.study.random_reference"),
        workdir,
        console,
        interrupt=interrupt,
        progress=watch,
    )
    assert interrupt.command == "python run.py"
    return workdir, recorder, console.file.getvalue()


# -- numbers -------------------------------------------------------------------------------------


def test_at_the_end_of_a_study_all_that_was_planned_is_done(study):
    workdir, *_ = study
    last, stored = Snapshot.read(workdir), stored_trials(workdir)
    assert (last.done, last.planned, last.failed) == (len(stored), len(stored), 0)
    stages = [trial.stage for trial in stored]
    assert last.stages == {s: [stages.count(s)] * 2 for s in stages}
    assert last.seconds_left == 0
    assert (last.rounds, last.stopped, last.command) == (3, None, "python run.py")
    result = read_json(workdir / "result.json")
    best = max((t for t in stored if t.stage == "coarse"), key=lambda trial: trial.score)
    assert last.best == best.accuracies[-1]
    assert last.spearman == result["rounds"][-1]["report_card"]["spearman"]


def test_each_round_and_batch_is_a_milestone_with_its_numbers(study):
    _, recorder, _ = study
    stages = [(m.stage, m.round) for m in recorder.milestones]
    coarse = [("coarse stage", 1), ("coarse stage", 2), ("coarse stage", 3)]
    assert stages == [*coarse, ("finalists", None), ("retraining", None)]
    done = [m.done for m in recorder.milestones]
    assert done == sorted(done)
    assert done[:3] == [3, 6, 9]
    for m in recorder.milestones:
        assert 0 < m.useful <= 1
        assert m.images_per_second is None or m.images_per_second > 0
        assert m.best is not None
    left = [m.seconds_left for m in recorder.milestones]
    assert left[0] > 0 == left[-1]


def test_while_packs_train_their_epochs_are_seen(study):
    _, recorder, _ = study
    groups = [group for now in recorder.seen for group in now.groups]
    for pack, trainings, epoch, epochs in groups:
        assert pack == "exact" or pack.startswith("envelope-")
        assert trainings >= 1
        assert 0 <= epoch < epochs <= 3


def test_lines_are_few_and_say_what_is_left(study):
    workdir, recorder, printed = study
    lines = [line for line in printed.splitlines() if re.match(r"    \d+ of \d+ trainings", line)]
    assert len(lines) == len(recorder.milestones) < len(stored_trials(workdir)) / 2
    assert re.fullmatch(r"    3 of \d+ trainings;.* about .* left", lines[0])


def test_a_resumed_run_counts_what_is_stored():
    trial = lambda stage, score: types.SimpleNamespace(
        stage=stage, score=score, score_curve=[score], accuracies=[0.9 - (score or 0)]
    )
    stored = [trial("coarse", 0.5), trial("coarse", None), trial("coarse", 0.7)]
    watch = Progress()
    plan = [Part("coarse", 2, 0, 1), Part("coarse", 2, 0, 1), Part("validate", 2, 0, 1)]
    watch.begin(Path("/nowhere"), plan, stored=stored)
    now = watch.look()
    assert (now.done, now.planned, now.failed) == (3, 6, 1)
    assert now.best == pytest.approx(0.2)  # accuracy of the best score
    for trainings in (0, 1):  # the first round is known, of the second one half
        watch.batch("coarse", 1)
        watch.batch_begins(trainings, 0.0, 1.0, 1.0)
        watch.batch_ends()
    assert watch.look().planned == 6


def test_reports_from_many_threads_are_all_counted():
    watch = Progress()
    watch.begin(Path("/nowhere"), [Part("coarse", 64, 0, 1)])
    watch.batch("coarse", 1)
    watch.batch_begins(64, 0.0, 1.0, 1.0)

    def work():
        for _ in range(8):
            epoch = watch.lanes_begin(Lanes("exact", 1, 20), 100)
            for number in range(1, 21):
                epoch(number)
                watch.look()
            watch.trained("coarse")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    now = watch.look()
    assert (now.done, now.groups, now.seconds_left) == (64, (), 0)


def test_progress_is_written_seldom_and_whole_when_the_run_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "_SECONDS", 0.1)
    written, write = [], progress.write_json
    monkeypatch.setattr(progress, "write_json", lambda *a, **k: written.append(1) or write(*a, **k))
    watch = Progress()
    with watch.shown():
        watch.begin(tmp_path, [Part("coarse", 500, 0, 1)])
        for _ in range(500):
            watch.trained("coarse")
            time.sleep(0.001)
    assert 1 <= len(written) < 100
    assert Snapshot.read(tmp_path).done == 500


def test_a_folder_that_cannot_be_written_does_not_end_the_run(tmp_path):
    watch = Progress()
    with watch.shown():
        watch.begin(tmp_path / "gone", [])
    assert watch.look().done == 0


# -- TensorBoard ---------------------------------------------------------------------------------


def scalars(folder):
    """(name, step, value) of all event files, which are records with a length before each."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for file in sorted(folder.glob("events.*")):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            found += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
    return found


def test_tensorboard_gets_every_learning_curve_and_the_studys_numbers(study):
    workdir, recorder, _ = study
    written = scalars(workdir / "tensorboard")
    assert [(n, s) for n, s, _ in written] == [(n, s) for n, _, s in recorder.scalars]
    assert [v for *_, v in written] == pytest.approx([v for _, v, _ in recorder.scalars], rel=1e-6)
    for trial in stored_trials(workdir):
        name = f"{trial.stage}/trial_{trial.number:04}"
        curve = {step: value for n, step, value in written if n == name}
        assert list(curve.values()) == pytest.approx(trial.accuracies, rel=1e-6)
        assert max(curve) == trial.epochs
    names = {name for name, *_ in written if name.startswith("study/")}
    assert names >= {"study/best", "study/spearman", "study/images_per_second"}


def test_where_the_writer_is_not_installed_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(tensorboard.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs the package `tensorboardX`.*\[tensorboard\]"):
        Scalars()


def test_what_could_not_be_measured_is_no_scalar():
    recorder = Recorder()
    watch = Progress(listeners=[recorder])
    recorder.start(watch.look)
    watch.round_ends(1, None, ReportCard(2, *[float("nan")] * 5))
    assert recorder.scalars == []
    assert watch.look().spearman is None


# -- from another terminal -----------------------------------------------------------------------


def ended(workdir, error):
    """A study that ended with an error after the first of two trainings."""
    workdir.mkdir(exist_ok=True)
    workdirs.start(workdir, config())
    watch = Progress(command="python run.py --x")
    with contextlib.suppress(Exception), watch.shown():
        watch.begin(workdir, [Part("coarse", 2, 0, 1)])
        watch.stage("coarse stage")
        watch.trained("coarse")
        if error:
            raise error
    return status.look_at(workdir)


def printed(found):
    console = Console(file=io.StringIO(), width=200, markup=False)
    status.print_status(found, console)
    return console.file.getvalue()


def test_a_finished_study_shows_what_came_out(study):
    workdir, *_ = study
    result, found = read_json(workdir / "result.json"), status.look_at(workdir)
    assert (found["state"], found["name"], found["command"]) == ("finished", "tiny", None)
    winner = found["result"]["candidates"]["winner"]
    assert winner["test"] == result["winners"][0]["test"]["mean"]
    text = printed(found)
    assert f"{winner['test']:.2%} test" in text
    assert "Spearman" in text


def test_an_interrupted_study_shows_how_to_go_on(tmp_path):
    found = ended(tmp_path, InterruptedStudyError())
    assert (found["state"], found["owner"]) == ("interrupted", None)
    assert found["command"] == "python run.py --x"
    assert "1 of 2 trainings" in printed(found)
    assert "left" not in printed(found)


def test_the_command_to_go_on_leads_into_its_folder(tmp_path, monkeypatch):
    ended(tmp_path / "work", InterruptedStudyError())
    folder = Path.cwd()
    monkeypatch.chdir(tmp_path)
    found = status.look_at(Path("work"))
    assert found["command"] == f"cd {folder} && python run.py --x"


def test_a_study_that_failed_says_why(tmp_path):
    found = ended(tmp_path, StudyError("every candidate failed: made to fail"))
    assert found["state"] == "failed"
    assert "every candidate failed: made to fail" in printed(found)


def test_a_study_that_was_killed_counts_as_interrupted(tmp_path):
    workdirs.start(tmp_path, config())
    found = status.look_at(tmp_path)
    assert (found["state"], found["progress"], found["command"]) == ("interrupted", None, None)
    assert "the command that began it" in printed(found)


def test_a_running_study_shows_its_owner_and_looking_does_not_disturb_it(tmp_path):
    with lock.locked(tmp_path):
        found = status.look_at(tmp_path)
        assert found["state"] == "starting"
        ended(tmp_path, None)
        found = status.look_at(tmp_path)
        assert found["state"] == "running"
        assert found["owner"].startswith("process ")
        assert "running, by process" in printed(found)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    assert status.look_at(tmp_path)["owner"] is None
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}


@pytest.mark.parametrize("name", ["", "none"])
def test_a_folder_without_a_study_is_refused(tmp_path, name):
    with pytest.raises(WorkdirError, match="is no folder|holds no study"):
        status.look_at(tmp_path / name)


def script(*arguments):
    """Runs the script; that it needs no JAX is a part of every run."""
    code = (
        "import runpy, sys\n"
        f"sys.argv = {['status.py', *map(str, arguments)]!r}\n"
        f"try: runpy.run_path({str(ROOT / 'scripts' / 'status.py')!r}, run_name='__main__')\n"
        "finally: assert not {'jax', 'optuna', 'tensorflow_datasets'} & set(sys.modules)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )


def cpu_seconds():
    """CPU time of all processes that were started and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_the_script_answers_in_lines_or_json_and_refuses_in_one_line(study, tmp_path):
    workdir, *_ = study
    before = cpu_seconds()
    done = script(f"--workdir={workdir}")
    assert cpu_seconds() - before < 2  # whatever else the machine does
    assert (done.returncode, "finished" in done.stdout) == (0, True), done.stderr
    done = script(f"--workdir={workdir}", "--json")
    assert json.loads(done.stdout) == status.look_at(workdir)
    for bad in ([f"--workdir={tmp_path}"], [], ["--workdir=/nowhere"], ["--wrkdir=x"], ["x"]):
        done = script(*bad)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1


def test_a_damaged_progress_file_is_told(study, tmp_path):
    workdir = shutil.copytree(study[0], tmp_path / "study")
    file = workdir / "progress.json"
    file.write_text(file.read_text().replace('"done"', '"gone"'))
    done = script(f"--workdir={workdir}")
    assert (done.returncode, done.stderr.count("\n")) == (4, 1)


# -- Optuna's dashboard --------------------------------------------------------------------------


@contextlib.contextmanager
def dashboard(database):
    """Serves a database on loopback; yields a function: path -> JSON."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", "from optuna_dashboard._cli import main; main()"]
    place = [f"sqlite:///{database}", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(
        [*command, *place], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    def get(path):
        url, end = f"http://127.0.0.1:{port}{path}", time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(url, timeout=30) as answer:
                    return json.loads(answer.read())
            except urllib.error.HTTPError:
                raise
            except OSError:  # it does not listen yet
                assert process.poll() is None, "the dashboard has ended"
                assert time.monotonic() < end, "the dashboard does not answer"
                time.sleep(0.1)

    try:
        yield get
    finally:
        process.kill()
        process.wait()


def test_optunas_dashboard_serves_trials_learning_curves_and_importances(study):
    workdir, *_ = study
    trials = [trial for trial in stored_trials(workdir) if trial.stage == "coarse"]
    with dashboard(workdir / "trials.db") as get:
        summaries = get("/api/studies")["study_summaries"]
        assert {s["study_name"] for s in summaries} >= {"tiny: coarse", "tiny: validate"}
        (number,) = [s["study_id"] for s in summaries if s["study_name"] == "tiny: coarse"]
        served = get(f"/api/studies/{number}?after=0")
        importances = get(f"/api/studies/{number}/param_importances")
    curves = [tuple(v["value"] for v in trial["intermediate_values"]) for trial in served["trials"]]
    assert sorted(curves) == sorted(trial.accuracies for trial in trials)
    assert [t["state"] for t in served["trials"]] == ["Complete"] * len(trials)
    (named,) = importances["param_importances"]
    assert {entry["name"] for entry in named} <= set(trials[0].knobs)
    assert sum(entry["importance"] for entry in named) == pytest.approx(1.0)
