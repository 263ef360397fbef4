"""The command line as a user meets it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "scripts" / "run_joint.py"
TINY = ROOT / "tests" / "support" / "tiny.py"


def command(*arguments, cwd=ROOT, cache=None):
    environment = dict(os.environ) | ({"XDG_CACHE_HOME": str(cache)} if cache else {})
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.search.pol_size=7"], "did you mean `pool_size`?"),
        (["--config.search.rounds=zero"], "config.search.rounds"),
        (["--config.train.epochs=0"], "must be from 1"),
        (["--config.default.lr=7.0"], "`lr` allows"),
        (["--config.space.stages[0].depth=(3,1)"], "`stage1_depth`"),
        (["--config=missing.py"], "does not exist"),
        (["--workdri=x"], "workdir"),
    ],
)
def test_a_config_error_is_one_line_exit_2_and_loads_nothing_slow(arguments, message):
    """Without JAX and TFDS an error takes a fifth of a second."""
    check = (
        "import runpy, sys\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally: assert not {'jax', 'tensorflow_datasets'} & set(sys.modules)\n"
    )
    script = f"import sys; sys.argv = {[str(SCRIPT), *arguments]!r}\n{check}"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


def test_help_names_the_flags():
    done = command("--help")
    assert done.returncode == 0
    assert all(flag in done.stdout for flag in ("--config", "--workdir", "dry_run", "overwrite"))


def test_a_dry_run_plans_and_trains_nothing(tmp_path):
    done = command(f"--config={TINY}", "--dry_run", cwd=tmp_path)
    assert done.returncode == 0
    for line in (
        "space",
        "budget",
        "pool",
        "trainings",
        "programs",
        "training FLOPs",
        "estimated time",
    ):
        assert f"  {line}" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_chip_to_plan_for_cannot_be_trained_on(tmp_path):
    done = command(f"--config={TINY}", "--target=v5e", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: `--target` is a chip to forecast for and needs")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.smoke
def test_a_study_runs_is_recognised_and_protected(tmp_path):
    tiny = [f"--config={TINY}", "--noconfig.study.random_reference", "--config.search.rounds=2"]
    first = command(*tiny, cwd=tmp_path, cache=tmp_path / "cache")
    assert first.returncode == 0, first.stderr
    workdir = tmp_path / "runs" / "tiny"
    files = {"config.json", "lock", "provenance.json", "predictor.sha256", "result.json"}
    files |= {"progress.json", "trials.db", "trials.csv", "winner0.json"}
    files |= {"data.json", "contact_sheet.png"}
    folders = {"predictor", "report", "weights"}
    assert {p.name for p in workdir.iterdir()} == files | folders
    assert (workdir / "report" / "index.html").stat().st_size > 50_000
    assert "default candidate" in first.stdout
    assert (tmp_path / "cache" / "jointnas_jax" / "compiled").stat().st_mode & 0o777 == 0o700

    before = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}
    again = command(*tiny, cwd=tmp_path, cache=tmp_path / "cache")
    assert (again.returncode, "finished" in again.stdout) == (0, True)
    other = command(*tiny, "--config.seed=3", cwd=tmp_path)
    assert (other.returncode, "another config" in other.stderr) == (2, True)
    after = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}
    assert {p for p in before if before[p] != after.get(p)} == {workdir / "lock"}
    assert before.keys() == after.keys()


@pytest.mark.slow
def test_the_default_run_reaches_98_percent(tmp_path):
    import json

    done = command("--workdir", str(tmp_path / "digits"), cache=tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    winner = json.loads((tmp_path / "digits" / "result.json").read_text())["winners"][0]
    assert winner["test"]["mean"] >= 0.98
    assert winner["within_budget"]
