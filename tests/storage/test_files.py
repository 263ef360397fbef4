"""Files are written whole or not at all, and what reading raises names the file."""

import json

import pytest

from jointnas_jax.errors import DamagedError, ModelError, StorageError, WorkdirError
from jointnas_jax.files import read_json, reading, write_json, write_whole


@pytest.mark.parametrize(
    ("raised", "kind", "error", "message"),
    [
        (OSError(5, "I/O error"), None, WorkdirError, "`a` cannot be read: .*I/O error"),
        (KeyError("times"), None, DamagedError, r"`a` is damaged: KeyError\('times'\); measure"),
        (OverflowError(), None, DamagedError, "`a` is damaged: OverflowError"),
        (OSError(5, "I/O error"), ModelError, ModelError, "`a` cannot be read: .*I/O error"),
        (ValueError("no"), ModelError, ModelError, r"`a` cannot be read: ValueError\('no'\)"),
        (StorageError("full"), ModelError, StorageError, "^full$"),
    ],
)
def test_reading_names_the_file_and_keeps_our_errors(tmp_path, raised, kind, error, message):
    with pytest.raises(error, match=message), reading("a", kind, fix="; measure"):
        raise raised


def test_a_file_that_cannot_be_replaced_stays_and_leaves_nothing_beside_it(tmp_path):
    (tmp_path / "a").mkdir()  # no file replaces a folder
    with pytest.raises(StorageError, match="`.*/a` cannot be written: Is a directory$"):
        write_whole(tmp_path / "a", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_nan_is_refused_before_the_file_changes(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1.0}, digest=True)
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"b": float("nan")}, digest=True)
    assert read_json(tmp_path / "a.json") == {"schema": 1, "b": 1.0}
    assert json.loads((tmp_path / "a.json").read_text())["digest"]
