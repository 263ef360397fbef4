"""Images of any kind become a dataset that people keep."""

import contextlib

import numpy as np
import pytest
from PIL import Image

from jointnas_jax.data import stored_images
from jointnas_jax.data.conversion import write_dataset
from jointnas_jax.data.source import open_dataset
from jointnas_jax.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "2 photos" / name).mkdir(parents=True)
        for i in range(5):
            pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "2 photos" / name / f"{i}.png")
    return tmp_path / "2 photos"


def test_a_folder_becomes_a_dataset_of_its_name(photos, tmp_path):
    written = write_dataset(str(photos), tmp_path / "data")
    assert written.folder == tmp_path / "data" / "images_2_photos" / "1.0.0"
    assert (written.images, written.classes) == ({"train": 8, "test": 2}, 2)
    dataset = open_dataset(dict(name="", dir=str(written.folder.parent), image_size=0))
    assert dataset.labels == ("cat", "dog")
    assert len(dataset.load("train")) == 8


def test_arrays_and_a_name_of_ones_own(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 6, 6, 7), np.uint8)
    np.savez(tmp_path / "x.npz", images=pixels, labels=np.arange(20) % 2)
    written = write_dataset(str(tmp_path / "x.npz"), tmp_path / "data", name="Seven bands")
    assert written.folder.parent.name == "seven_bands"
    dataset = open_dataset(dict(name="", dir=str(written.folder), image_size=0))
    assert dataset.image_shape == (6, 6, 7)


def test_what_cannot_be_read_ends_it_or_is_left_out_and_named(photos, tmp_path):
    (photos / "cat" / "broken.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"1 of 11 images .*broken.png.*--skip_unreadable"):
        write_dataset(str(photos), tmp_path / "data")
    written = write_dataset(str(photos), tmp_path / "data", skip_unreadable=True)
    assert list(written.unreadable) == ["cat/broken.png"]
    assert sum(written.images.values()) == 10


def test_a_class_of_which_nothing_can_be_read_is_an_error(photos, tmp_path):
    for file in (photos / "cat").iterdir():
        file.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"training images of 1 class"):
        write_dataset(str(photos), tmp_path / "data", skip_unreadable=True)


def test_an_interrupted_run_does_not_decode_again(photos, tmp_path, monkeypatch):
    """Files that change are read again."""
    real, count = stored_images._read_one, 0

    def counted(path):
        nonlocal count
        count += 1
        if count == limit:
            raise KeyboardInterrupt
        return real(path)

    monkeypatch.setattr(stored_images, "_read_one", counted)
    monkeypatch.setattr(stored_images.os, "cpu_count", lambda: 1)
    limit = 7
    with contextlib.suppress(KeyboardInterrupt):
        write_dataset(str(photos), tmp_path / "data")
    limit, count = 0, 0
    Image.new("RGB", (8, 8)).save(photos / "cat" / "0.png")
    write_dataset(str(photos), tmp_path / "data")
    assert count <= 5


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("nothing_of_this_name", "neither a path nor the name of a dataset of TFDS"),
        (".", "holds no images"),
    ],
)
def test_other_images_are_one_line(tmp_path, images, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message):
        write_dataset(images, tmp_path / "data")


def test_nothing_is_overwritten(photos, tmp_path):
    written = write_dataset(str(photos), tmp_path / "data")
    with pytest.raises(DataError, match="holds a dataset; give another --name"):
        write_dataset(str(photos), tmp_path / "data")
    with pytest.raises(DataError, match="is a prepared dataset"):
        write_dataset(str(written.folder), tmp_path / "other")
