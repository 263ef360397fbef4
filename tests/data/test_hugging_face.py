"""Datasets that Hugging Face's `datasets` saved are datasets as they are."""

import io
import json
import sys

import datasets
import numpy as np
import pytest
from PIL import Image

from jointnas_jax.data.conversion import write_dataset
from jointnas_jax.data.source import open_dataset
from jointnas_jax.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    datasets.disable_progress_bars()


NAMES = ["frog", "ant", "cow"]
FEATURES = datasets.Features(
    img=datasets.Image(), label=datasets.ClassLabel(names=NAMES), note=datasets.Value("string")
)


def rows(count, seed=0, features=FEATURES, **columns):
    """Images of noise, of classes 0, 1, 2, 0, ..."""
    rng = np.random.default_rng(seed)
    images = [Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)) for _ in range(count)]
    labels = [i % 3 for i in range(count)]
    columns = {"img": images, "label": labels, "note": ["x"] * count} | columns
    return datasets.Dataset.from_dict(columns, features=features)


def saved(tmp_path, stored):
    stored.save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"


def opened(root):
    return open_dataset(dict(name="digits", dir=str(root), image_size=0))


def content(split):
    return sorted(zip(map(bytes, split.images), split.labels.tolist(), strict=True))


def test_splits_images_and_classes_are_those_of_the_dataset(tmp_path):
    parts = {"train": rows(12), "validation": rows(6, seed=1), "test": rows(3, seed=2)}
    dataset = opened(saved(tmp_path, datasets.DatasetDict(parts)))
    assert dataset.image_shape == (6, 8, 3)
    assert dataset.split_names == ("train", "val", "test")
    for ours, theirs in (("train", "train"), ("val", "validation"), ("test", "test")):
        loaded = dataset.load(ours)
        names = [NAMES.index(dataset.labels[i]) for i in loaded.labels]
        expected = [(np.asarray(row["img"]).tobytes(), row["label"]) for row in parts[theirs]]
        got = [(image.tobytes(), name) for image, name in zip(loaded.images, names, strict=True)]
        assert sorted(got) == sorted(expected)


def test_a_single_dataset_is_divided_by_class(tmp_path):
    dataset = opened(saved(tmp_path, rows(30)))
    assert np.bincount(dataset.load("train").labels).tolist() == [8, 8, 8]
    assert np.bincount(dataset.load("test").labels).tolist() == [2, 2, 2]


def test_a_chosen_part_in_another_order_is_what_counts(tmp_path):
    stored = rows(30).shuffle(seed=0).select(range(20))
    dataset = opened(saved(tmp_path, stored))
    images = [*dataset.load("train").images, *dataset.load("test").images]
    expected = [np.asarray(row["img"]).tobytes() for row in stored]
    assert sorted(image.tobytes() for image in images) == sorted(expected)


def test_files_that_it_names_are_read(tmp_path):
    paths = []
    for i, row in enumerate(rows(12)):
        row["img"].save(path := tmp_path / f"{i}.png")
        paths.append({"path": str(path), "bytes": None})
    root = saved(tmp_path, rows(12))
    named = rows(12, img=paths)
    assert len(opened(root).load("train")) + len(opened(root).load("test")) == 12
    named.save_to_disk(tmp_path / "named")
    assert content(opened(tmp_path / "named").load("test")) == content(opened(root).load("test"))


def test_it_is_read_once_and_again_where_it_changed(tmp_path, monkeypatch):
    root = saved(tmp_path, rows(12))
    first = opened(root)
    with monkeypatch.context() as patched:
        patched.setattr("jointnas_jax.data.stored_images.describe_image", None)
        assert opened(root).name == first.name
    rows(15, seed=3).save_to_disk(root)
    second = opened(root)
    assert second.name != first.name
    assert second.count("train") + second.count("test") == 15


def test_the_feature_label_is_the_class_where_there_are_several(tmp_path):
    features = FEATURES.copy() | {"coarse": datasets.ClassLabel(names=["a", "b"])}
    root = saved(tmp_path, rows(12, features=datasets.Features(features), coarse=[0, 1] * 6))
    assert set(opened(root).labels) == set(NAMES)


def test_it_becomes_a_dataset_that_people_keep(tmp_path):
    broken = [{"bytes": b"no image", "path": None}, *rows(11)["img"]]
    root = saved(tmp_path, rows(12, img=broken))
    with pytest.raises(DataError, match=r"1 of 12 images .*`train/0` .it is no image"):
        opened(root)
    written = write_dataset(str(root), tmp_path / "data", name="mine", skip_unreadable=True)
    assert list(written.unreadable) == ["train/0"]
    assert sum(written.images.values()) == 11


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    root = saved(tmp_path, rows(6))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install .jointnas_jax\[huggingface\]") as raised:
        opened(root)
    assert "\n" not in str(raised.value)


def no_train(root):
    datasets.DatasetDict(test=rows(6)).save_to_disk(root)


def no_image(root):
    rows(6).remove_columns("img").save_to_disk(root)


def no_classes(root):
    rows(6).cast_column("label", datasets.Value("int64")).save_to_disk(root)


def unlabelled(root):
    datasets.DatasetDict(train=rows(6), test=rows(3, label=[-1] * 3)).save_to_disk(root)


def empty_rows(root):
    rows(6, img=[None, *rows(5)["img"]]).save_to_disk(root)


def damaged(root):
    rows(6).save_to_disk(root)
    (file,) = root.glob("*.arrow")
    file.write_bytes(file.read_bytes()[:100])


def lost_file(root):
    rows(6).save_to_disk(root)
    (root / "state.json").write_text(json.dumps({}))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (no_train, "must have a split `train`, has test"),
        (no_image, r"one feature `Image` and one `ClassLabel`, has \[\] and \['label'\]"),
        (no_classes, r"one feature `Image` and one `ClassLabel`, has \['img'\] and \[\]"),
        (unlabelled, "row 0 of split `test` .* class of 0 to 2 as `label`, has -1"),
        (empty_rows, r"1 of 6 images .*`train/0` .it has no image"),
        (damaged, "cannot be read as a dataset of Hugging Face"),
        (lost_file, "cannot be read as a dataset of Hugging Face"),
    ],
)
def test_what_cannot_be_used_is_one_line(tmp_path, write, message):
    write(tmp_path / "saved")
    with pytest.raises(DataError, match=message) as raised:
        opened(tmp_path / "saved")
    assert "\n" not in str(raised.value)


def test_images_of_its_rows_are_bytes_of_files(tmp_path):
    file = io.BytesIO()
    Image.new("L", (8, 6), 7).save(file, format="JPEG")
    images = [{"bytes": file.getvalue() + bytes([i]), "path": None} for i in range(15)]
    dataset = opened(saved(tmp_path, rows(15, img=images)))
    assert dataset.image_shape == (6, 8, 1)
