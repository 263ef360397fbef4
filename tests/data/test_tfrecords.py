"""Datasets in TFDS's default format are read, with and without TensorFlow."""

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tfrecord.writer import TFRecordWriter

from jointnas_jax.data.digits import prepare_digits
from jointnas_jax.data.source import open_dataset
from jointnas_jax.errors import DataError


def opened(folder):
    return open_dataset(dict(name="", dir=str(folder), image_size=0))


@pytest.fixture(scope="module")
def digits():
    return prepare_digits()


@pytest.fixture
def stored(digits, tmp_path, monkeypatch):
    """The digits as TFDS writes them by default."""
    folder = tmp_path / "digits" / "1.0.0"
    folder.mkdir(parents=True)
    for name in ("dataset_info.json", "features.json"):
        content = (digits / name).read_text().replace("array_record", "tfrecord")
        (folder / name).write_text(content)
    builder = tfds.builder_from_directory(digits)
    for split, count in (("train", 1437), ("test", 360)):
        raw = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
        writer = TFRecordWriter(str(folder / f"digits-{split}.tfrecord-00000-of-00001"))
        for i in range(count):
            example = raw[i]
            fields = {"image": (example["image"], "byte"), "label": (int(example["label"]), "int")}
            writer.write(fields)
        writer.close()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def test_images_and_labels_are_those_of_array_record(stored, digits):
    ours, theirs = opened(stored), opened(digits)
    assert (ours.name, ours.labels, ours.image_shape) == (theirs.name, theirs.labels, (8, 8, 1))
    for split in ("train", "test"):
        a, b = ours.load(split), theirs.load(split)
        content = lambda s: sorted(zip(map(bytes, s.images), s.labels.tolist(), strict=True))
        assert content(a) == content(b)
    assert len(ours.load("train[:10%]")) == 144


# In a process of its own: the two readers' protocol buffers have the same names.
BY_TENSORFLOW = """
import sys
sys.modules["tfrecord"] = None
import numpy as np
from jointnas_jax.data.source import open_dataset
images = open_dataset(dict(name="", dir=sys.argv[1], image_size=0)).load("test")
np.savez(sys.argv[2], images=images.images, labels=images.labels)
"""


@pytest.mark.skipif(not importlib.util.find_spec("tensorflow"), reason="no TensorFlow")
def test_tensorflow_reads_the_same(stored, tmp_path):
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "other_cache")}
    command = [sys.executable, "-c", BY_TENSORFLOW, str(stored), str(tmp_path / "read.npz")]
    subprocess.run(command, check=True, env=environment)
    read, ours = np.load(tmp_path / "read.npz"), opened(stored).load("test")
    np.testing.assert_array_equal(read["images"], ours.images)
    np.testing.assert_array_equal(read["labels"], ours.labels)


def test_they_are_rewritten_once(stored, capsys):
    first = opened(stored).load("test")
    assert "rewriting `digits/1.0.0`" in capsys.readouterr().err
    np.testing.assert_array_equal(opened(stored).load("test").images, first.images)
    assert capsys.readouterr().err == ""


def test_without_a_reader_one_is_named(stored, monkeypatch):
    for reader in ("tfrecord", "tensorflow"):
        monkeypatch.setitem(sys.modules, reader, None)
    with pytest.raises(DataError, match=r'pip install "jointnas_jax\[tfrecord\]"'):
        opened(stored)


def test_a_damaged_file_is_one_line(stored):
    (file,) = stored.glob("*train*")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match="cannot be rewritten into the cache") as raised:
        opened(stored)
    assert "\n" not in str(raised.value)


def test_another_format_is_refused(stored):
    info = json.loads((stored / "dataset_info.json").read_text()) | {"fileFormat": "riegeli"}
    (stored / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(DataError, match="stored as riegeli"):
        opened(stored)
