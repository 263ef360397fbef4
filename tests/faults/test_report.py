"""`scripts/report.py` on studies that are sound, unfinished, damaged or not there."""

import json
import os
import re
import resource
import shutil
import subprocess
import sys

import pytest
from runs import ROOT, TABLE, TINY, run

from jointnas_jax.errors import DamagedError
from jointnas_jax.storage.study_reader import read_record

SCRIPT = ROOT / "scripts" / "report.py"


def report(*arguments):
    """Runs the script, which must not load JAX."""
    code = (
        f"import runpy, sys; sys.argv = {[str(SCRIPT), *map(str, arguments)]!r}\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally: assert 'jax' not in sys.modules\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.fixture
def finished(undisturbed, tmp_path):
    return shutil.copytree(undisturbed, tmp_path / "study")


def text_of(workdir):
    page = (workdir / "report" / "index.html").read_text(encoding="utf-8")
    return " ".join(re.sub("<[^>]*>", " ", page).split())


def test_a_run_ends_with_its_report_and_the_script_writes_the_same(finished):
    before = {p.name: p.read_bytes() for p in (finished / "report").iterdir()}
    assert "index.html" in before
    start = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = report(f"--workdir={finished}", f"--out={finished / 'again'}")
    end = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert end.ru_utime - start.ru_utime < 10  # seconds, however busy the machine is
    assert (done.returncode, done.stderr) == (0, "")
    assert f"wrote {finished / 'again' / 'index.html'}" in done.stdout
    after = {p.name: p.read_bytes() for p in (finished / "again").iterdir()}
    for files in (before, after):  # the page names where it lies
        files.pop("index.html")
    assert before == after


def test_what_the_page_says_is_what_the_study_found(finished):
    result = json.loads((finished / "result.json").read_text())
    text = text_of(finished)
    winner = result["winners"][0]
    assert f"{100 * winner['test']['mean']:.2f}" in text
    assert f"{winner['costs']['flops']:,}" in text
    for facts in result["rounds"][1:]:
        if facts["spearman"] is not None:
            assert f"{facts['spearman']:.2f} in round {facts['round']}" in text


def test_a_study_that_has_not_finished_has_a_report(finished):
    (finished / "result.json").unlink()
    assert report(f"--workdir={finished}").returncode == 0
    assert "This study is not finished" in text_of(finished)


FIRST_FAILS = """
table, calls = train_fn, []
def train_fn(assignment, jobs, stop):
    results = table(assignment, jobs, stop)
    calls.append(jobs)
    if len(calls) == 1:
        results[0] = type(results[0])((), "loss is <nan>", None)
    return results
"""


@pytest.mark.slow
def test_a_run_with_a_failed_trial_and_without_random_search_ends_with_its_report(tmp_path):
    flags = (TINY, "--noconfig.study.random_reference", "--config.search.rounds=2")
    faults = {"JOINTNAS_TABLE_FAULT": FIRST_FAILS, "JOINTNAS_TABLE_SECONDS": "0"}
    out, _ = run(TABLE, tmp_path, *flags, **faults)
    assert "report/index.html" in out
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert "loss is &lt;nan&gt;" in page
    assert "Random search was not run" in page


def damage_config(workdir):
    file = workdir / "config.json"
    file.write_text(file.read_text().replace('"seed": 0', '"seed": 1'))


def damage_result(workdir):
    file = workdir / "result.json"
    file.write_text(file.read_text()[:-100])


def damage_origin(workdir):
    (workdir / "provenance.json").write_text("[]")


def damage_trials(workdir):
    file = workdir / "trials.db"
    content = bytearray(file.read_bytes())
    place = content.index(b"COMPLETED")
    content[place : place + 9] = b"COMPLETEX"
    file.write_bytes(content)


def lose_trials(workdir):
    (workdir / "trials.db").unlink()


def damage_budgets(workdir):
    (workdir / "budgets.json").write_text('{"budgets": [{}]}')


@pytest.mark.parametrize(
    ("fault", "file"),
    [
        (damage_config, "config.json"),
        (damage_result, "result.json"),
        (damage_origin, "provenance.json"),
        (damage_trials, "trials.db"),
        (lose_trials, "trials.db"),
        (damage_budgets, "budgets.json"),
    ],
)
def test_damage_is_found_and_named_and_left_as_it_is(finished, fault, file):
    fault(finished)
    # SQLite's own files come and go.
    side = {finished / f"trials.db{end}" for end in ("-wal", "-shm")}
    content = lambda: {
        p: p.read_bytes() for p in finished.rglob("*") if p.is_file() and p not in side
    }
    before = content()
    with pytest.raises(DamagedError, match=file):
        read_record(finished)
    assert content() == before


def test_damage_is_one_line_and_exit_4(finished):
    damage_trials(finished)
    done = report(f"--workdir={finished}")
    assert (done.returncode, done.stdout) == (4, "")
    assert re.fullmatch(r"error: .*trials\.db.*\n", done.stderr)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--workdir=runs/digits"),
        (["--workdir={}/none"], "holds no study"),
        (["--workdir={}"], "holds no study"),
        (["--workdir={}/file"], "holds no study"),
        (["--workdri={}"], "workdir"),
        (["--workdir={}", "stray"], "unexpected argument 'stray'"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(tmp_path, arguments, message):
    (tmp_path / "file").write_text("")
    done = report(*(argument.format(tmp_path) for argument in arguments))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert message in done.stderr


@pytest.mark.parametrize("output", ["/dev/full", pytest.param("ascii", marks=pytest.mark.slow)])
def test_a_study_ends_with_its_report_where_nothing_can_be_printed(tmp_path, output):
    file = output if output == "/dev/full" else tmp_path / "out"
    workdir = tmp_path / os.fsdecode(b"study \xff [v2]")
    with open(file, "w", encoding="ascii") as out:
        done = subprocess.run(
            [sys.executable, TABLE, TINY, f"--workdir={workdir}"],
            env=os.environ | {"PYTHONIOENCODING": "ascii", "JOINTNAS_TABLE_SECONDS": "0"},
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-1500:]
    assert (workdir / "report" / "index.html").read_text(encoding="utf-8")
    if output == "ascii":
        assert b"+-" in file.read_bytes()
    else:
        assert "standard output cannot be written: [Errno 28]" in done.stderr
