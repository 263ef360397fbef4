"""Learning curves are recorded once, and scores are judged by other trainings."""

import gzip
import json

import numpy as np
import pytest
from absl import flags
from calls import TINY

from benchmarks import curves
from jointnas_jax.command_line import parse_config
from jointnas_jax.errors import WorkdirError

SIZES = dict(candidates=3, again=2, folds=2)


@pytest.fixture(scope="module")
def tiny():
    return parse_config(["curves"], TINY.removeprefix("--config="), flags.FlagValues())


def test_what_is_recorded_does_not_train_again(tiny, tmp_path, monkeypatch):
    file, tables = tmp_path / "a.jsonl", tmp_path / "tables"
    found = curves.record(tiny, file, **SIZES, tables=tables)
    # Three once; two of them twice more, and on the second division.
    assert found["trainings"] == 3 + 2 * 2 + 2
    table = curves.read_table(tables / found["file"])
    for row in table["trainings"]:
        assert set(row["curves"]) == {"raw", "averaged", "test_raw", "test_averaged"}
        assert np.shape(row["curves"]["raw"]) == (tiny.train.epochs_of_winners, 4)
        assert np.shape(row["curves"]["test_raw"]) == (1, 4)
    lines = file.read_text()
    file.write_text(lines + '{"torn')
    written = (tables / found["file"]).read_bytes()
    monkeypatch.setattr("jointnas_jax.execution.local.LocalExecutor.train", None)
    assert curves.record(tiny, file, **SIZES, tables=tables) == found
    assert (file.read_text(), (tables / found["file"]).read_bytes()) == (lines, written)
    file.write_text(json.dumps({"name": "other"}) + "\n")
    with pytest.raises(WorkdirError, match="of another config"):
        curves.record(tiny, file, **SIZES, tables=tables)


def test_a_score_is_judged_by_the_test_accuracy_of_other_trainings(tmp_path):
    """The Brier score of candidate i orders as its test accuracy does; log loss the other way."""
    rows = [
        {
            "candidate": i,
            "training": t,
            "fold": 0,
            "ema": bool(i % 2),
            "reason": None,
            "curves": {
                prefix + weights: [[(i + bad) / 10, 0.5, i / 10, 1 - (i + bad) / 10]]
                for prefix in ("", "test_")
                for weights, bad in (("raw", i % 2 * 9), ("averaged", (1 - i % 2) * 9))
            },
        }
        for i in range(6)
        for t in range(3)
    ]
    file = tmp_path / "curves_made.json.gz"
    file.write_bytes(gzip.compress(json.dumps({"trainings": rows}).encode()))
    found = {row["score"]: row for row in curves.score([file])["rows"]}
    assert {row["table"] for row in found.values()} == {"made"}
    assert found["Brier score"]["foretells"] == pytest.approx(1)
    assert found["log loss"]["foretells"] == pytest.approx(-1)
    assert found["ceiling"]["agrees"] == pytest.approx(1)
