"""The set of letters is the same each time, and a folder that studies read."""

import string

from benchmarks import letters
from jointnas_jax.data.source import open_dataset


def test_two_writings_are_the_same_and_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(letters, "_IMAGES", {"train": 2, "test": 1})
    for name in ("one", "two"):
        letters.write(tmp_path / name)
    content = lambda name: [f.read_bytes() for f in sorted((tmp_path / name).rglob("*.png"))]
    assert len(content("one")) == 26 * 3
    assert content("one") == content("two")
    assert len(set(content("one"))) == 26 * 3
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    dataset = open_dataset(dict(name="", dir=str(tmp_path / "one"), image_size=0))
    assert dataset.labels == tuple(string.ascii_uppercase)
    assert dataset.load("train").images.shape == (52, 12, 12, 1)
