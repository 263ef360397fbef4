"""The command `jointnas` is the scripts, from a checkout and from a wheel."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from PIL import Image

from jointnas_jax import __version__
from jointnas_jax.cli import VERBS, main
from jointnas_jax.command_line import parse_config

ROOT = Path(__file__).parent.parent


def test_the_help_has_a_line_for_each_verb_and_fits_a_screen(capsys):
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2 : 2 + len(VERBS)]] == list(VERBS)
    assert len(lines) <= 24


def test_an_unknown_verb_is_one_line_and_exit_2(capsys):
    assert main(["trian"]) == 2
    assert capsys.readouterr().err == (
        "error: `jointnas` has no verb `trian`; did you mean `train`?\n"
    )


def test_its_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__


def test_a_shell_completes_the_verbs():
    code = "import sys; from jointnas_jax.cli import main; sys.exit(main(sys.argv[1:]))"
    script = f'source <({sys.executable} -c "{code}" completion bash); complete -p jointnas'
    done = subprocess.run(
        ["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "run train budgets" in done.stdout


def test_every_script_of_users_is_a_verb():
    scripts = {file.stem for file in (ROOT / "scripts").glob("*.py")}
    assert scripts - {"make_stand_in"} == set(VERBS.values())


@pytest.mark.parametrize("text", ["--config=digits", "--config digits"])
def test_our_configs_have_names(text):
    assert parse_config(["x", *text.split()], "", flags.FlagValues()).name == "digits"


def test_a_file_of_that_name_goes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = (ROOT / "configs" / "digits.py").read_text(encoding="utf-8")
    (tmp_path / "digits").write_text(config.replace('"digits"', '"mine"', 1))
    assert parse_config(["x", "--config=digits"], "", flags.FlagValues()).name == "mine"


def test_a_verb_is_its_script():
    code = "import sys; from jointnas_jax.cli import main; sys.exit(main(sys.argv[1:]))"
    for arguments, returned in ((["--workdir=nowhere"], 2), (["--help"], 0)):
        command = [sys.executable, "-c", code, "status", *arguments]
        ours = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        script = [sys.executable, "scripts/status.py", *arguments]
        theirs = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, check=False)
        assert ours.returncode == theirs.returncode == returned
        assert ours.stderr == theirs.stderr


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["--config=digits"], ["../photos"]])
def test_a_wheel_runs_in_an_empty_folder(tmp_path, arguments):
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(20):
            image = Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8))
            image.save(tmp_path / "photos" / name / f"{i}.png")
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", tmp_path / "wheel", ROOT], check=True)
    (wheel,) = (tmp_path / "wheel").glob("*.whl")
    target = tmp_path / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", target, wheel], check=True)
    (tmp_path / "empty").mkdir()
    command = [sys.executable, target / "bin" / "jointnas", "run", *arguments, "--dry_run"]
    done = subprocess.run(
        command,
        cwd=tmp_path / "empty",
        env={"PYTHONPATH": str(target), "HOME": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "estimated time" in done.stdout
    assert not any((tmp_path / "empty").iterdir())
