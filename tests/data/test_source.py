import io
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from jointnas_jax.config import DataConfig
from jointnas_jax.data import digits, source
from jointnas_jax.data.classes import renumbered
from jointnas_jax.data.source import open_dataset
from jointnas_jax.errors import DataError

DIGITS = dict(name="digits", dir="", image_size=0)


def _png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG")
    return file.getvalue()


def write_dataset(folder, splits, shape=(8, 8, 3), num_classes=3, version="1.0.0", label=None):
    """Writes `{split: [(png bytes, label), ...]}` as a TFDS dataset; returns its folder."""

    class Shapes(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(version)

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(
                    {
                        "image": tfds.features.Image(shape=shape, encoding_format="png"),
                        "label": label or tfds.features.ClassLabel(num_classes=num_classes),
                    }
                ),
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(rows) for split, rows in splits.items()}

        def _generate_examples(self, rows):
            for i, (image, label) in enumerate(rows):
                yield i, {"image": image, "label": label}

    builder = Shapes(data_dir=folder, file_format="array_record")
    builder.download_and_prepare()
    return folder / "shapes" / version


def rows(count, size=(8, 8, 3), classes=3, seed=0):
    rng = np.random.default_rng(seed)
    return [
        (_png(rng.integers(0, 256, size, dtype=np.uint8).squeeze()), i % classes)
        for i in range(count)
    ]


@pytest.fixture(autouse=True)
def _quiet():
    tfds.disable_progress_bar()


def test_digits_are_written_once_and_read_back(tmp_path, monkeypatch):
    from sklearn.datasets import load_digits

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    dataset = open_dataset(DIGITS)
    assert (dataset.name, dataset.image_shape, dataset.num_classes) == (
        "digits/1.0.0",
        (8, 8, 1),
        10,
    )
    train, test = dataset.load("train"), dataset.load("test")
    assert (len(train), len(test)) == (1437, 360)
    stored = np.concatenate([train.images, test.images])[..., 0]
    original = np.round(load_digits().images * (255 / 16)).astype(np.uint8)
    assert sorted(i.tobytes() for i in stored) == sorted(i.tobytes() for i in original)
    files = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    open_dataset(DIGITS)
    assert files == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}


@pytest.mark.parametrize("pick", ["root", "versions", "folder"])
def test_a_prepared_folder_is_found_by_name_or_directly(tmp_path, pick):
    write_dataset(tmp_path, {"train": rows(6)}, version="1.0.0")
    newest = write_dataset(tmp_path, {"train": rows(9)}, version="1.10.0")
    write_dataset(tmp_path, {"train": rows(7)}, version="1.9.0")
    given = {"root": tmp_path, "versions": newest.parent, "folder": newest}[pick]
    dataset = open_dataset(
        dict(name="shapes" if pick == "root" else "digits", dir=str(given), image_size=0)
    )
    assert dataset.name == "shapes/1.10.0"
    assert len(dataset.load("train")) == 9


def test_split_expressions_and_colour(tmp_path):
    folder = write_dataset(tmp_path, {"train": rows(10), "test": rows(4, seed=1)})
    dataset = open_dataset(dict(name="", dir=str(folder), image_size=0))
    split = dataset.load("train[:60%]")
    assert split.images.shape == (6, 8, 8, 3)
    assert split.images.dtype == np.uint8
    assert len(dataset.load("train+test")) == 14


def test_images_of_different_sizes_need_one_size(tmp_path):
    mixed = rows(3, (8, 8, 3)) + rows(3, (12, 10, 3))
    folder = write_dataset(tmp_path, {"train": mixed}, shape=(None, None, 3))
    with pytest.raises(DataError, match="differ in size.*image_size"):
        open_dataset(dict(name="", dir=str(folder), image_size=0))
    dataset = open_dataset(dict(name="", dir=str(folder), image_size=9))
    assert dataset.load("train").images.shape == (6, 9, 9, 3)


@pytest.mark.parametrize("shape", [(411, 425, 3), (425, 411, 3), (411, 411, 3)])
def test_the_middle_of_an_image_never_lies_outside_of_it(tmp_path, shape):
    """By rounding it did, by 3e-14 of a pixel, and Pillow refused the whole training."""
    folder = write_dataset(tmp_path, {"train": rows(3, shape)}, shape=(None, None, 3))
    dataset = open_dataset(dict(name="", dir=str(folder), image_size=352))
    assert dataset.load("train").images.shape == (3, 352, 352, 3)


@pytest.mark.parametrize(
    ("splits", "split", "message"),
    [
        ({"train": rows(6)}, "test", "split `test`.*its splits are `train`"),
        ({"train": rows(6)}, "train[:x]", r"split `train\[:x\]`"),
        ({"train": rows(6)}, "train[:0]", "has no examples"),
        ({"train": rows(6)}, "train[5:3]", "ends before it starts"),
        ({"train": rows(6)}, "train[5:4]+train[:3]", "ends before it starts"),
        ({"train": rows(6)}, "x" * 300, "cannot be read"),
        ({"train": rows(6)}, "train\0", "cannot be read"),
        ({"train": rows(6, classes=1)}, "train", "only images of class 0"),
        (
            {
                "train": [(_png(np.zeros((8, 8, 3), np.uint8)), i) for i in (0, 1)]
                + [(b"no image", 1)]
            },
            "train",
            r"cannot be read",
        ),
    ],
)
@pytest.mark.parametrize("memory_gb", [8.0, 0.0])
def test_bad_data_is_a_clear_error_when_it_is_opened(
    tmp_path, monkeypatch, splits, split, message, memory_gb
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    dataset = open_dataset(dict(name="", dir=str(write_dataset(tmp_path, splits)), image_size=0))
    with pytest.raises(DataError, match=message) as error:
        dataset.open_splits(DataConfig(memory_gb=memory_gb, train_split=split, test_split="train"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("memory_gb", [8.0, 0.0])
def test_labels_out_of_range_are_an_error_when_it_is_opened(tmp_path, monkeypatch, memory_gb):
    """Written with ten classes, then described as having two."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = write_dataset(tmp_path, {"train": rows(6, classes=3)}, num_classes=10)
    features = folder / "features.json"
    features.write_text(features.read_text().replace('"10"', '"2"'))
    dataset = open_dataset(dict(name="", dir=str(folder), image_size=0))
    with pytest.raises(DataError, match="labels must be 0 to 1, example . has 2"):
        dataset.open_splits(DataConfig(memory_gb=memory_gb, test_split="train"))


def test_what_is_on_disk_is_checked_once_for_the_same_files(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = DataConfig(memory_gb=0.0, train_split="train[:20]", test_split="train[20:]")
    settings = dict(name="", dir=str(write_dataset(tmp_path, {"train": rows(30)})), image_size=0)
    decoded = []

    def opened():
        decoded.clear()
        return open_dataset(settings).open_splits(data)

    plain = source.ImageDataset.decode
    monkeypatch.setattr(
        source.ImageDataset, "decode", lambda *a: decoded.append(len(a[-1])) or plain(*a)
    )
    opened()
    assert sum(decoded) == 30
    opened()
    assert decoded == []
    for file in (tmp_path / "cache").rglob("*.bin"):  # half a file is no file
        file.write_bytes(file.read_bytes()[:50])
    opened()
    assert sum(decoded) == 30
    features = tmp_path / "shapes" / "1.0.0" / "features.json"
    features.write_text(features.read_text().replace('Classes": "3"', 'Classes": "2"'))
    with pytest.raises(DataError, match="labels must be 0 to 1"):
        opened()
    shutil.rmtree(tmp_path / "shapes")
    write_dataset(tmp_path, {"train": [*rows(29), (b"no image", 1)]})
    with pytest.raises(DataError, match="cannot be read"):
        opened()


def test_a_dataset_made_anew_in_the_same_place_has_its_own_labels(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def chosen(shift):
        shutil.rmtree(tmp_path / "shapes", ignore_errors=True)
        content = [(image, (label + shift) % 8) for image, label in rows(40, classes=8)]
        folder = write_dataset(tmp_path, {"train": content}, num_classes=8)
        settings = dict(name="", dir=str(folder), image_size=0, class_seed=1)
        dataset = open_dataset(settings | dict(classes=3))
        labels = open_dataset(settings).load("train").labels
        return dataset.rows("train"), np.flatnonzero(np.isin(labels, dataset.classes))

    before, after = chosen(0), chosen(1)
    np.testing.assert_array_equal(*before)
    np.testing.assert_array_equal(*after)
    assert before[0].tolist() != after[0].tolist()


def test_a_label_that_is_none_of_the_chosen_classes_is_an_error():
    """As files have it that changed after their labels were read."""
    numbers, bad = renumbered(np.array([7, 2, 9, 3]), np.array([2, 3, 7]))
    assert (numbers[[0, 1, 3]].tolist(), bad.tolist()) == ([2, 0, 1], [2])


@pytest.mark.parametrize("memory_gb", [8.0, 0.0])
def test_a_split_without_a_chosen_class_is_an_error(tmp_path, monkeypatch, memory_gb):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    settings = dict(name="", image_size=0, classes=3, class_seed=1)
    folder = write_dataset(tmp_path, {"train": rows(40, classes=8)}, num_classes=8)
    chosen = open_dataset(settings | dict(dir=str(folder))).classes
    shutil.rmtree(tmp_path / "shapes")
    others = [(image, label) for image, label in rows(40, classes=8) if label not in chosen]
    splits = {"train": rows(40, classes=8), "test": others}
    dataset = open_dataset(settings | dict(dir=str(write_dataset(tmp_path, splits, num_classes=8))))
    with pytest.raises(DataError, match="`test` of .* has no examples of the classes"):
        dataset.open_splits(DataConfig(memory_gb=memory_gb))


@pytest.mark.parametrize("content", [None, b"", b"x" * 70_000], ids=["missing", "empty", "other"])
@pytest.mark.parametrize("classes", [0, 3])
def test_a_damaged_file_of_a_dataset_is_a_clear_error(tmp_path, monkeypatch, content, classes):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = write_dataset(tmp_path, {"train": rows(16, classes=8)}, num_classes=8)
    (shard,) = folder.glob("*train*")
    shard.unlink() if content is None else shard.write_bytes(content)
    dataset = open_dataset(
        dict(name="", dir=str(folder), image_size=0, classes=classes, class_seed=1)
    )
    with pytest.raises(DataError, match="split `train` of `shapes/1.0.0`"):
        dataset.load("train")


def test_an_unusable_cache_costs_time_only_except_for_what_must_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    folder = write_dataset(tmp_path, {"train": rows(40, classes=8)}, num_classes=8)
    settings = dict(name="", dir=str(folder), image_size=0, classes=3, class_seed=1)
    data = DataConfig(memory_gb=0.0, train_split="train[:20]", test_split="train[20:]")
    train, test = open_dataset(settings).open_splits(data)
    assert len(train) + len(test) == 15
    with pytest.raises(DataError, match="cannot be written into .*XDG_CACHE_HOME"):
        open_dataset(DIGITS)


def test_another_process_may_write_the_digits_first(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    write = digits.Digits.download_and_prepare

    def too_late(builder):
        write(builder)
        raise FileExistsError("Cannot rename; the destination already exists")

    monkeypatch.setattr(digits.Digits, "download_and_prepare", too_late)
    assert len(open_dataset(DIGITS).load("test")) == digits.TEST_IMAGES


def test_a_dataset_without_classes_is_an_error(tmp_path):
    folder = write_dataset(tmp_path, {"train": rows(6)}, label=tfds.features.Scalar(np.int64))
    with pytest.raises(DataError, match="one Image and one ClassLabel"):
        open_dataset(dict(name="", dir=str(folder), image_size=0))


@pytest.mark.parametrize(
    ("name", "message"), [("shape", "did you mean `shapes`"), ("", "no prepared")]
)
def test_a_missing_dataset_names_the_nearest(tmp_path, name, message):
    write_dataset(tmp_path, {"train": rows(6)})
    with pytest.raises(DataError, match=message):
        open_dataset(dict(name=name, dir=str(tmp_path), image_size=0))
    for nowhere in (tmp_path / "nowhere", "x" * 200):
        with pytest.raises(DataError, match="existing folder"):
            open_dataset(dict(name=name, dir=str(nowhere), image_size=0))


def test_overlapping_train_and_test_splits_are_an_error(tmp_path):
    folder = write_dataset(tmp_path, {"train": rows(20), "test": rows(5)})
    dataset = open_dataset(dict(name="", dir=str(folder), image_size=0))
    dataset.check_disjoint("train[:50%]", "train[50%:]")
    with pytest.raises(DataError, match="share 10 examples"):
        dataset.check_disjoint("train", "train[50%:]")


def test_reading_in_pieces_keeps_the_order(tmp_path, monkeypatch):
    folder = write_dataset(tmp_path, {"train": rows(20)})
    dataset = open_dataset(dict(name="", dir=str(folder), image_size=0))
    whole = dataset.load("train")
    monkeypatch.setattr(source, "_READ_AT_ONCE", 7)
    pieces = dataset.load("train")
    np.testing.assert_array_equal(whole.images, pieces.images)
    np.testing.assert_array_equal(whole.labels, pieces.labels)


def test_a_choice_of_classes_counts_labels_from_0_and_leaves_the_others_out(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = write_dataset(tmp_path, {"train": rows(40, classes=8)}, num_classes=8)
    settings = dict(name="", dir=str(folder), image_size=0, classes=3, class_seed=1)
    dataset = open_dataset(settings)
    assert (dataset.num_classes, len(set(dataset.classes))) == (3, 3)
    assert dataset.count("train") == 15
    everything = open_dataset(settings | dict(classes=0)).load("train")
    chosen = dataset.load("train")
    kept = np.isin(everything.labels, dataset.classes)
    np.testing.assert_array_equal(chosen.images, everything.images[kept])
    np.testing.assert_array_equal(np.array(dataset.classes)[chosen.labels], everything.labels[kept])
    assert open_dataset(settings).classes == dataset.classes
    others = {open_dataset(settings | dict(class_seed=s)).classes for s in range(5)}
    assert len(others) > 1
    # Labels are read once.
    (file,) = (tmp_path / "cache").rglob("labels/*.bin")
    before = file.stat().st_mtime_ns
    open_dataset(settings).count("train")
    assert file.stat().st_mtime_ns == before


@pytest.mark.parametrize("classes", [1, 9])
def test_an_impossible_choice_of_classes_is_refused(tmp_path, classes):
    folder = write_dataset(tmp_path, {"train": rows(16, classes=8)}, num_classes=8)
    with pytest.raises(DataError, match="from 2 to the 8 classes"):
        open_dataset(dict(name="", dir=str(folder), image_size=0, classes=classes, class_seed=0))


def test_images_of_other_proportions_are_cut_in_the_middle(tmp_path):
    image = np.zeros((8, 24, 3), np.uint8)
    image[:, 8:16] = 200
    folder = write_dataset(
        tmp_path, {"train": [(_png(image), 0), (_png(image), 1)]}, shape=(None, None, 3)
    )
    dataset = open_dataset(dict(name="", dir=str(folder), image_size=4))
    images = dataset.load("train").images
    assert (images[:, :, 1:3] == 200).all()
    assert images.min() > 150  # the filter looks over the edge; distorted, it would be black
