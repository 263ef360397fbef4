"""Learning curves are recorded once, and scores are judged by other trainings."""

import gzip
import json

import numpy as np
import pytest
from absl import flags
from calls import TINY

from benchmarks import curves
from jointnas_jax.command_line import parse_config
from jointnas_jax.errors import InputError

SIZES = dict(candidates=3, again=2, folds=2)


@pytest.fixture(scope="module")
def tiny():
    return parse_config(["curves"], TINY.removeprefix("--config="), flags.FlagValues())


def test_what_is_recorded_does_not_train_again(tiny, tmp_path, monkeypatch):
    found = curves.record(tiny, **SIZES, tables=tmp_path)
    file = tmp_path / found["file"]
    # Three once; two of them twice more, and on the second division.
    assert found["trainings"] == 3 + 2 * 2 + 2
    table = curves.read_table(file)
    width = len(curves.COLUMNS)
    for row in table["trainings"]:
        assert set(row["curves"]) == {"raw", "averaged", "test_raw", "test_averaged"}
        assert np.shape(row["curves"]["raw"]) == (tiny.train.epochs_of_winners, width)
        assert np.shape(row["curves"]["test_raw"]) == (1, width)
    written = file.read_bytes()
    lost = dict(table, trainings=table["trainings"][1:])
    file.write_bytes(gzip.compress(json.dumps(lost).encode()))
    assert curves.record(tiny, **SIZES, tables=tmp_path) == found
    assert file.read_bytes() == written
    monkeypatch.setattr("jointnas_jax.execution.local.LocalExecutor.train", None)
    assert curves.record(tiny, **SIZES, tables=tmp_path) == found


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b'{"name": "other", "trainings": []}'), "of another config"),
        (gzip.compress(b"[]"), "must be a table"),
        (gzip.compress(b'{"trainings": [{}]}'), "must be a table"),
        (gzip.compress(b"{}")[:-3], "must be a table"),
        (b"no table", "must be a table"),
    ],
    # Not by the content, which holds the time: each process of pytest would name them differently.
    ids=["another config", "a list", "no fields", "cut off", "not compressed"],
)
def test_another_file_is_refused_and_kept(tiny, tmp_path, content, message):
    file = tmp_path / f"curves_{tiny.name}.json.gz"
    file.write_bytes(content)
    with pytest.raises(InputError, match=message):
        curves.record(tiny, **SIZES, tables=tmp_path)
    assert file.read_bytes() == content


def test_a_score_is_judged_by_the_test_accuracy_of_other_trainings(tmp_path):
    """The Brier score of candidate i orders as its test accuracy does; log loss the other way."""

    def columns(i):
        values = dict.fromkeys(curves.COLUMNS, 0.5)
        return list((values | {"accuracy": i, "log_loss": i, "brier": 1 - i}).values())

    rows = [
        {
            "candidate": i,
            "training": t,
            "fold": 0,
            "ema": bool(i % 2),
            "reason": None,
            "curves": {
                prefix + weights: [columns((i + bad) / 10)]
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
    assert found["Brier score, averaged weights"]["foretells"] < 0.5


def test_early_scores_are_compared_by_the_weights_that_are_judged(tmp_path):
    """Averaged weights order candidates as the end does, raw ones the other way."""

    def columns(value):
        values = dict.fromkeys(curves.COLUMNS, 0.5) | {"calibrated_brier": value}
        return list(values.values())

    rows = [
        {
            "candidate": i,
            "training": 0,
            "fold": 0,
            "ema": True,
            "reason": None,
            "curves": {
                "raw": [columns(1 - i / 10), columns(1 - i / 10)],
                "averaged": [columns(i / 10), columns(i / 10)],
                "test_raw": [columns(0.5)],
                "test_averaged": [columns(i / 10)],
            },
        }
        for i in range(5)
    ]
    train = {"epochs": 2, "winner_epochs": 0}
    file = tmp_path / "curves_made.json.gz"
    file.write_bytes(gzip.compress(json.dumps({"train": train, "trainings": rows}).encode()))
    found = {row["weights"]: row["foretells"] for row in curves.early([file])["rows"]}
    assert found["averaged"] == found["trained"] == pytest.approx([1.0] * 7)
    assert found["raw"] == pytest.approx([-1.0] * 7)
