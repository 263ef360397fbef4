"""`scripts/search_budgets.py` as a user meets it; what it finds: `tests/study/test_budgets.py`."""

import subprocess
import sys
from pathlib import Path

import pytest

from jointnas_jax.command_line import parse_budgets
from jointnas_jax.errors import ConfigError

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "scripts" / "search_budgets.py"


def test_lists_of_limits_are_paired_or_one_goes_with_all():
    million = 1_000_000
    assert parse_budgets(["450M", "1.5G"], []) == [
        {"flops": 450 * million},
        {"flops": 1500 * million},
    ]
    assert parse_budgets([], ["8M"]) == [{"params": 8 * million}]
    assert parse_budgets(["1M", "2M"], ["3M", "4M"]) == [
        {"flops": million, "params": 3 * million},
        {"flops": 2 * million, "params": 4 * million},
    ]
    assert parse_budgets(["1M"], ["3M", "4M"]) == [
        {"flops": million, "params": 3 * million},
        {"flops": million, "params": 4 * million},
    ]


@pytest.mark.parametrize(
    ("flops", "params", "message"),
    [
        ([], [], "a budget is missing"),
        (["1M", "2M", "3M"], ["1M", "2M"], "as many limits as each other.*got 3 and 2"),
        (["1M", "x"], [], "`--flops` must be a number above 0 .*got 'x'"),
        (["1M"], ["0"], "`--params` must be a number above 0 .*got '0'"),
        (["1M", ""], [], "`--flops` must be a number above 0 .*got ''"),
        (["-1M"], [], "got '-1M'"),
        (["1T"], [], "got '1T'"),
    ],
)
def test_bad_limits_are_named(flops, params, message):
    with pytest.raises(ConfigError, match=message):
        parse_budgets(flops, params)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--workdir=runs/digits"),
        (["--workdir=w"], "give --flops=450M,550M"),
        (["--workdir=w", "--flops=450X"], "got '450X'"),
        (["--workdri=w"], "workdir"),
        (["--workdir=w", "--flops=1M", "--seed=x"], "seed"),
        (["--workdir=w", "stray"], "unexpected argument 'stray'"),
    ],
)
def test_bad_flags_are_one_line_exit_2_and_load_nothing_slow(arguments, message):
    code = (
        f"import runpy, sys; sys.argv = {[str(SCRIPT), *arguments]!r}\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally: assert 'jax' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert message in done.stderr


def test_a_folder_without_a_study_is_one_line_and_exit_2(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), f"--workdir={tmp_path}", "--flops=1M"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "holds no study" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_help_names_the_flags():
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert all(flag in done.stdout for flag in ("--workdir", "--flops", "--params", "--out"))
