"""What is said of a dataset before anything trains on it."""

import io

import numpy as np
import pytest
from PIL import Image

from jointnas_jax.data.source import Split, open_dataset
from jointnas_jax.data.summary import contact_sheet, in_words, summarise


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """Three classes in folders, `eel` with fewer images than the others."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for name, count in (("cat", 10), ("dog", 10), ("eel", 5)):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (8, 6, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pets" / name / f"{i}.png")
    return open_dataset(dict(name="digits", dir=str(tmp_path / "pets"), image_size=0))


@pytest.fixture
def images(dataset):
    train, test = dataset.load("train"), dataset.load("test")
    return train, np.arange(len(train)) % 4 == 0, test


def test_every_image_is_counted_in_its_part(dataset, images):
    _, validation, test = images
    seen = summarise(dataset, images, "train")
    assert seen["images"] == {
        "training": int((~validation).sum()),
        "validation": int(validation.sum()),
        "test": len(test),
    }
    for part in seen["images"]:
        assert sum(of[part] for of in seen["classes"].values()) == seen["images"][part]
    assert (seen["smallest"], seen["shape"]) == ("eel", [8, 6, 3])
    assert seen["stored"] == [[8, 6], [8, 6]]
    assert seen["copies"] == {"within": 0, "across": 0}
    (line,) = in_words(seen)
    assert line == (
        "3 classes, the smallest, `eel`, with 4 training images; files of 8x6, used at 8x6, "
        "3 channels"
    )


def test_images_of_which_little_is_used_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("a", "b"):
        (tmp_path / "wide" / name).mkdir(parents=True)
        for i in range(5):
            image = Image.new("RGB", (40, 10), (i, len(name), ord(name)))
            image.save(tmp_path / "wide" / name / f"{i}.png")
    dataset = open_dataset(dict(name="", dir=str(tmp_path / "wide"), image_size=8))
    train, test = dataset.load("train"), dataset.load("test")
    seen = summarise(dataset, (train, np.arange(len(train)) < 2, test), "train")
    assert seen["used"] == 0.25
    assert "of their area 25% is used, the middle" in in_words(seen)[1]


def test_copies_are_counted_by_where_they_are(dataset, images):
    train, validation, test = images
    pixels, held = train.images.copy(), test.images.copy()
    ours = np.flatnonzero(~validation)
    pixels[ours[1]] = pixels[ours[0]]
    held[0] = held[1] = pixels[ours[2]]
    pixels[np.flatnonzero(validation)[0]] = pixels[ours[3]]
    changed = (Split(pixels, train.labels), validation, Split(held, test.labels))
    seen = summarise(dataset, changed, "train")
    assert seen["copies"] == {"within": 1, "across": 3}
    assert "warning: 3 validation or test images are training images, too" in in_words(seen)[-1]


def test_files_have_names_in_the_order_of_the_images(dataset, tmp_path):
    names, split = dataset.file_names("train"), dataset.load("train")
    assert len(names) == len(split)
    for name, image in zip(names, split.images, strict=True):
        np.testing.assert_array_equal(Image.open(tmp_path / "pets" / name), image)
    digits = open_dataset(dict(name="digits", dir="", image_size=0))
    assert digits.file_names("train") is None


@pytest.mark.parametrize("channels", [1, 2, 3, 12])
def test_a_contact_sheet_has_a_row_for_each_class(channels):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 200, (30, 8, 8, channels), np.uint8)
    sheet = Image.open(io.BytesIO(contact_sheet(Split(pixels, np.arange(30) % 3), "abc")))
    assert sheet.size == (12 * 50, 3 * 50)
    shown = np.asarray(sheet)
    assert (shown[:, : 10 * 50].min(2) < 255).any(1).reshape(3, 50)[:, :48].all()
    assert (shown[:, 10 * 50 :] == 255).all()  # ten images of each
