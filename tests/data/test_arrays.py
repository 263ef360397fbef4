"""NumPy files are datasets as they are, with any number of channels."""

import numpy as np
import pytest

from jointnas_jax.data.source import open_dataset
from jointnas_jax.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def images(count=20, shape=(6, 8, 3), dtype=np.uint8, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (count, *shape))
    return values.astype(dtype)


def labels(count=20):
    return np.arange(count) % 2


def opened(path, **settings):
    return open_dataset(dict(name="digits", dir=str(path), image_size=0) | settings)


def saved(tmp_path, **arrays):
    np.savez(tmp_path / "pixels.npz", **arrays)
    return tmp_path / "pixels.npz"


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 12])
def test_any_number_of_channels_comes_back_as_it_was(tmp_path, channels):
    ours = images(shape=(6, 8, channels))
    dataset = opened(
        saved(tmp_path, x_train=ours, y_train=labels(), x_test=ours[:4], y_test=labels(4))
    )
    assert dataset.image_shape == (6, 8, channels)
    assert dataset.labels == ("0", "1")
    train = dataset.load("train")
    key = lambda split: sorted(image.tobytes() for image in split)
    assert key(train.images) == key(ours)
    assert len(dataset.load("test")) == 4


@pytest.mark.parametrize(
    "names",
    [
        ("train_images", "train_labels", "test_images", "test_labels"),
        ("x_train", "y_train", "x_val", "y_val"),
    ],
)
def test_names_that_people_use(tmp_path, names):
    some = (images(), labels(), images(6), labels(6))
    dataset = opened(saved(tmp_path, **dict(zip(names, some, strict=True))))
    assert (len(dataset.load("train")), len(dataset.load("test"))) == (20, 6)


def test_without_test_images_a_fifth_of_each_class_is(tmp_path):
    dataset = opened(saved(tmp_path, images=images(), labels=labels()[:, None]))
    assert np.bincount(dataset.load("test").labels).tolist() == [2, 2]


def test_names_of_classes_are_kept(tmp_path):
    names = np.array(["cat", "dog"])[labels()]
    assert opened(saved(tmp_path, images=images(), labels=names)).labels == ("cat", "dog")


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_other_pixels_are_scaled_channel_by_channel(tmp_path, dtype, capsys):
    wide = images(200, (6, 6, 2)).astype(dtype) * np.array([1, 100], dtype)
    train = opened(saved(tmp_path, images=wide, labels=labels(200))).load("train").images
    assert train.dtype == np.uint8
    for channel in range(2):
        assert train[..., channel].min() == 0
        assert train[..., channel].max() == 255
        assert train[..., channel].mean() == pytest.approx(127, abs=6)
    assert "scaled to 8 bits" in capsys.readouterr().err


def test_images_of_many_channels_are_resized(tmp_path):
    dataset = opened(saved(tmp_path, images=images(shape=(6, 8, 5)), labels=labels()), image_size=4)
    assert dataset.load("train").images.shape[1:] == (4, 4, 5)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (dict(a=images()), "must have the arrays `x_train` and `y_train`.*it has `a`"),
        (dict(images=images(), labels=labels(3)), r"uint8\[20, 6, 8, 3\] and int64\[3\]"),
        (dict(images=images(), labels=np.zeros(20, int)), "a classifier needs two"),
        (dict(images=images()[:2], labels=labels(2)), "too few to set a fifth .* 2 different ones"),
        (dict(images=images(shape=(3, 8, 8)), labels=labels()), "channels seem to come first"),
        (dict(images=images(), labels=labels() + 0.5), "a whole number or name for each"),
        (
            dict(images=np.full((20, 4, 4), np.nan), labels=labels()),
            "pixels that are not finite",
        ),
        (
            dict(x_train=images(), y_train=labels(), x_test=images(), y_test=labels() + 1),
            "split `test` .* has label 2",
        ),
        (
            dict(x_train=images(), y_train=labels(), x_test=images(shape=(5, 5)), y_test=labels()),
            "must have one shape",
        ),
    ],
)
def test_bad_arrays_are_one_line(tmp_path, arrays, message):
    with pytest.raises(DataError, match=message) as caught:
        opened(saved(tmp_path, **arrays))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no arrays", b"PK\3\4 broken"])
def test_what_is_no_file_of_arrays_is_one_line(tmp_path, content):
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        opened(tmp_path / "x.npz")
