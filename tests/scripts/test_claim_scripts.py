"""The scripts of the claims as a user meets them."""

import json

import pytest
from calls import TINY, assert_one_line_and_exit_2, script

SCRIPTS = ("claim_pretraining", "claim_early_stop", "claim_joint", "claim_swap")


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_names_the_flags(name):
    done = script(name, "--help")
    assert done.returncode == 0
    assert all(flag in done.stdout for flag in ("--out", "--seeds", f"scripts/{name}.py"))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("claim_pretraining", ["--sizes=a"], "`--sizes` must be integers"),
        ("claim_pretraining", ["--sizes=40", "--candidates=41"], "must be from 3 to 38"),
        ("claim_pretraining", ["--seeds=0"], "seeds"),
        ("claim_pretraining", ["--config.mode=arch"], "must be `joint`"),
        ("claim_early_stop", ["--first=2"], "must be from 3 to 97"),
        ("claim_early_stop", ["--out=missing/a.json"], "existing folder"),
        ("claim_early_stop", ["--config.search.treshold=1"], "did you mean `threshold`?"),
        ("claim_joint", ["--out=a.txt"], ".json file"),
        ("claim_joint", ["--workdri=a"], "workdir"),
        ("claim_swap", ["--candidates=a.json"], "two files or more, got 1"),
        ("claim_swap", ["--candidates=a.json,b.json"], "`a.json` is not a readable"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(name, arguments, message, tmp_path):
    done = script(name, TINY, *arguments, cwd=tmp_path)
    assert_one_line_and_exit_2(done, message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_all_claims_can_be_tried_on_a_tiny_study(tmp_path):
    few = ["--trials=t.jsonl", "--candidates=16", "--twice=4"]
    winners = ",".join(f"studies/joint-seed{seed}/winner0.json" for seed in (0, 1))
    for name, arguments in (
        ("claim_pretraining", [*few, "--sizes=4,8"]),
        ("claim_early_stop", [*few, "--first=4,8"]),
        ("claim_joint", ["--workdir=studies", "--config.search.rounds=2"]),
        ("claim_swap", [f"--candidates={winners}"]),
    ):
        done = script(name, TINY, *arguments, "--seeds=2", f"--out={name}.json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        report = json.loads((tmp_path / f"{name}.json").read_text())
        assert report["sentence"] in done.stdout
        assert (tmp_path / f"{name}.png").stat().st_size > 1000
    lines = (tmp_path / "t.jsonl").read_text().splitlines()
    assert len(lines) == 1 + 16 + 4
