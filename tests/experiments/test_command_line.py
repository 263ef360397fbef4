"""The experiments as a user meets them."""

import json

import pytest
from calls import TINY, assert_one_line_and_exit_2, module

NAMES = ("pretraining", "early_stop", "joint", "swapped_recipes")


@pytest.mark.parametrize("name", NAMES)
def test_help_names_the_flags(name):
    done = module(f"experiments.{name}", "--help")
    assert done.returncode == 0
    assert all(flag in done.stdout for flag in ("--out", "--seeds", f"experiments/{name}.py"))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("pretraining", ["--sizes=a"], "`--sizes` must be integers"),
        ("pretraining", ["--sizes=40", "--candidates=41"], "must be from 3 to 38"),
        ("pretraining", ["--seeds=0"], "seeds"),
        ("pretraining", ["--config.mode=arch"], "must be `joint`"),
        ("early_stop", ["--first=2"], "must be from 3 to 97"),
        ("early_stop", ["--out=missing/a.json"], "existing folder"),
        ("early_stop", ["--config.search.treshold=1"], "did you mean `threshold`?"),
        ("joint", ["--out=a.txt"], ".json file"),
        ("joint", ["--workdri=a"], "workdir"),
        ("swapped_recipes", ["--candidates=a.json"], "two files or more, got 1"),
        ("swapped_recipes", ["--candidates=a.json,b.json"], "`a.json` is not a readable"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(name, arguments, message, tmp_path):
    done = module(f"experiments.{name}", TINY, *arguments, cwd=tmp_path)
    assert_one_line_and_exit_2(done, message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_all_claims_can_be_tried_on_a_tiny_study(tmp_path):
    few = ["--trials=t.jsonl", "--candidates=16", "--twice=4"]
    winners = ",".join(f"studies/joint-seed{seed}/winner0.json" for seed in (0, 1))
    for name, arguments in (
        ("pretraining", [*few, "--sizes=4,8"]),
        ("early_stop", [*few, "--first=4,8"]),
        ("joint", ["--workdir=studies", "--config.search.rounds=2"]),
        ("swapped_recipes", [f"--candidates={winners}"]),
    ):
        done = module(
            f"experiments.{name}", TINY, *arguments, "--seeds=2", f"--out={name}.json", cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        report = json.loads((tmp_path / f"{name}.json").read_text())
        assert report["sentence"] in done.stdout
        assert (tmp_path / f"{name}.png").stat().st_size > 1000
    lines = (tmp_path / "t.jsonl").read_text().splitlines()
    assert len(lines) == 1 + 16 + 4
