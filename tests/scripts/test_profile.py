"""`scripts/profile.py` as a user meets it, and beside the standard library's module."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jointnas_jax.command_line import parse_budgets
from jointnas_jax.errors import ConfigError

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "scripts" / "profile.py"
TINY = ROOT / "tests" / "support" / "tiny.py"


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


def test_a_script_beside_it_still_gets_the_standard_librarys_module():
    """Else whatever imports cProfile there would run this script's first lines, and fail."""
    code = (
        f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r})\n"
        "import cProfile, profile\n"
        "cProfile.run('1 + 1'); profile.run('1 + 1')\n"
        "assert 'scripts' not in profile.__file__, profile.__file__\n"
        "assert 'absl' not in sys.modules\n"
    )
    done = run("-c", code)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("function calls") == 2


@pytest.mark.parametrize("script", ["scripts/profile.py", str(SCRIPT)])
def test_within_it_too(script, tmp_path):
    """`sitecustomize` runs before the script, so it asks at the end."""
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit\n"
        "def ask():\n"
        "    import cProfile, profile\n"
        "    print(profile.Profile.__name__, profile.__file__)\n"
        "atexit.register(ask)\n"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = run(script, "--help", PYTHONPATH=path)
    assert (done.returncode, done.stderr) == (0, "")
    last = done.stdout.splitlines()[-1]
    assert last.startswith("Profile ")
    assert "scripts" not in last


def test_help_names_the_flags_and_loads_nothing_slow():
    code = (
        f"import runpy, sys; sys.argv = [{str(SCRIPT)!r}, '--help']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally: assert 'jax' not in sys.modules\n"
    )
    done = run("-c", code)
    assert done.returncode == 0
    wanted = ("--batch", "--repeats", "--[no]json", "--check", "--minutes", "--out", "table")
    assert all(flag in done.stdout for flag in wanted)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name one network or workdir, or `table`, got []"),
        (["a", "b"], "name one network"),
        (["fbnetv3_a", "--batch=0"], "batch"),
        (["fbnetv3_a", "--lowering=x"], "lowering"),
        (["fbnetv3_a", "--config.seed=1"], "config"),
        (["table", "--config.seeed=1"], "did you mean `seed`?"),
        (["table", "--config=missing.py"], "does not exist"),
        (["table", "stray"], "unexpected argument 'stray'"),
        (["table", "--minutes=-1"], "minutes"),
        (["table", "--out=missing/a.json"], "existing folder"),
        (["fbnetv3_x"], "did you mean"),
        (["missing.json"], "not a readable JSON file"),
    ],
)
def test_bad_flags_are_one_line_exit_2_and_load_nothing_slow(arguments, message):
    code = (
        f"import runpy, sys; sys.argv = {[str(SCRIPT), *arguments]!r}\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally: assert 'jax' not in sys.modules\n"
    )
    assert_refused(run("-c", code), message)


def test_a_folder_without_a_model_is_one_line_and_exit_2():
    assert_refused(run(SCRIPT, ROOT / "tests"), "holds no model")


def assert_refused(done, message):
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert message in done.stderr


def test_limits_of_the_latency_go_with_the_others():
    assert parse_budgets([], [], ["2.5ms", "900us"]) == [
        {"latency": 2_500_000},
        {"latency": 900_000},
    ]
    assert parse_budgets(["1M"], [], ["1s", "0.5 ms"]) == [
        {"flops": 10**6, "latency": 10**9},
        {"flops": 10**6, "latency": 500_000},
    ]
    for text in ("2.5", "0ms", "1h", "-1ms", "", "1e3us", "1001s"):
        with pytest.raises(ConfigError, match=r"`--latency` must be a time above 0 such as"):
            parse_budgets([], [], [text])
    with pytest.raises(ConfigError, match="`--params` and `--latency` must have as many"):
        parse_budgets([], ["1M", "2M", "3M"], ["1s", "2s"])


WIDE = """
import runpy
def get_config():
    config = runpy.run_path({tiny!r})["get_config"]()
    config.space = config.space.to_dict() | dict(resolution=[8, 64])
    config.default = config.default.to_dict() | dict(resolution=8)
    return config
"""


@pytest.mark.slow
def test_a_table_of_a_space_is_made_and_the_report_is_json(tmp_path):
    """With real timings, of the few pieces of a space of small and of large images.

    They differ by so much that it shows on a machine that does something else as well.
    """
    config, out = tmp_path / "wide.py", tmp_path / "table.json"
    config.write_text(WIDE.format(tiny=str(TINY)))
    cache = {"XDG_CACHE_HOME": str(tmp_path)}
    command = (SCRIPT, "table", f"--config={config}", "--json", f"--out={out}", "--check=4")
    done = run(*command, **cache)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report == json.loads(out.read_text())
    assert report["timed"] == report["pieces"] == 18
    assert report["check"]["networks"] == 10  # of 16; the others teach the correction
    assert "distinct blocks" in done.stderr
    assert len([*(tmp_path / "jointnas_jax" / "latency").glob("*.json")]) == 1


@pytest.mark.slow
def test_the_table_of_the_digits_ranks_30_networks_as_they_rank_whole(tmp_path):
    """On a machine with nothing else to do: some minutes."""
    cache = {"XDG_CACHE_HOME": str(tmp_path)}
    done = run(SCRIPT, "table", "--json", **cache)
    check = json.loads(done.stdout)["check"]
    assert check["networks"] == 30
    assert check["spearman"] >= 0.9
