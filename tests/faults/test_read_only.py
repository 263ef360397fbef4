"""What only reads a study works in a folder that may not be written, and leaves it as it was."""

import os
import shutil
import subprocess
import sys

import pytest
from runs import ROOT, study
from test_store import TYPES, open_store, trial

# Root may write everywhere, unless it gives that up.
RIGHTS = "-dac_override,-dac_read_search"
UNPRIVILEGED = ["setpriv", f"--bounding-set={RIGHTS}", f"--inh-caps={RIGHTS}"]


def read(code, folder):
    """Runs code, with the variable `folder`, as a user who may not write into the folder."""
    prefix = UNPRIVILEGED if os.geteuid() == 0 else []
    if prefix and not shutil.which(prefix[0]):
        pytest.skip("root may write everywhere, and setpriv is not there")
    before = look(folder)
    subprocess.run(["chmod", "-R", "a-w", folder], check=True)
    try:
        start = f"from pathlib import Path\nfolder = Path({str(folder)!r})\n"
        done = subprocess.run(
            [*prefix, sys.executable, "-c", start + code],
            env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'faults'}"},
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
    finally:
        subprocess.run(["chmod", "-R", "u+w", folder], check=True)
    assert done.returncode == 0, done.stderr[-1500:]
    assert look(folder) == before
    return done.stdout


def look(folder):
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


LOAD = """
from jointnas_jax.storage.trial_store import TrialStore
store = TrialStore(f"sqlite:///{folder}/trials.db", "digits", read_only=True)
print(len(store.load()))
store.close()
"""


@pytest.mark.parametrize("gone", [(), ("-shm",), ("-shm", "-wal")], ids=str)
def test_trials_are_read_where_nothing_can_be_written_whatever_a_killed_run_left(tmp_path, gone):
    store = open_store(tmp_path)
    store.create()
    store.append(trial(0), TYPES)
    if "-wal" in gone:
        store.close()
    shutil.copytree(tmp_path, copy := tmp_path / "copy")  # as a kill would leave it
    for end in gone:
        (copy / f"trials.db{end}").unlink(missing_ok=True)
    assert (copy / "trials.db-wal").exists() == ("-wal" not in gone)
    assert read(LOAD, copy) == "1\n"


def test_a_reader_sees_what_a_writer_adds_and_makes_no_file(tmp_path):
    store = open_store(tmp_path)
    store.create()
    for number in range(2):
        store.append(trial(number), TYPES)
        assert read(LOAD, tmp_path) == f"{number + 1}\n"
    store.close()


ALL = """
from jointnas_jax.report.page import write_report
from jointnas_jax.simulation.recorded import recorded
from jointnas_jax.storage.study_reader import read_record
from jointnas_jax.study.budgets import search_budgets, write_budgets
from jointnas_jax.telemetry.status import look_at
assert write_report(read_record(folder), folder.parent / "report")
assert look_at(folder)["state"] == "finished"
assert write_budgets(search_budgets(folder, [{"flops": 50_000}], 0), folder.parent / "budgets")
assert recorded(folder, False)
"""


def test_a_finished_study_that_may_only_be_read_has_a_report_status_budgets_and_times(tmp_path):
    """Models are read from it in `tests/models`, which write nowhere."""
    study(tmp_path / "study")
    read(ALL, tmp_path / "study")
    assert (tmp_path / "report" / "index.html").is_file()
    assert (tmp_path / "budgets" / "budgets.json").is_file()


def test_where_a_report_cannot_be_written_another_folder_is_asked_for(tmp_path):
    code = """
from jointnas_jax.errors import StorageError
from jointnas_jax.report.page import write_report
class Record: workdir = folder
(folder.parent / "x").mkdir()
try:
    write_report(Record(), folder)
except StorageError as error:
    print(error)
"""
    (tmp_path / "study").mkdir()
    assert "give another --out" in read(code, tmp_path / "study")
