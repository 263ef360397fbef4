"""Folders of images are datasets as they are."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from jointnas_jax.data.source import open_dataset
from jointnas_jax.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path):
    return tmp_path / "My pets"


def write(root, names, size=(10, 8), mode="RGB", seed=0):
    """Writes images of noise."""
    rng = np.random.default_rng(seed)
    for name in names:
        shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(root / name)
    return root


def class_files(count, *names, suffix="png"):
    return [f"{name}/{i}.{suffix}" for name in names for i in range(count)]


def opened(root, **settings):
    return open_dataset(dict(name="digits", dir=str(root), image_size=0) | settings)


def test_class_folders_become_classes_and_a_fifth_of_each_is_for_the_test(root):
    dataset = opened(write(root, class_files(10, "cat", "dog", "eel")))
    assert dataset.labels == ("cat", "dog", "eel")
    assert dataset.image_shape == (8, 10, 3)
    train, test = dataset.load("train"), dataset.load("test")
    assert np.bincount(train.labels).tolist() == [8, 8, 8]
    assert np.bincount(test.labels).tolist() == [2, 2, 2]
    stored = {image.tobytes() for split in (train, test) for image in split.images}
    files = {np.asarray(Image.open(path)).tobytes() for path in root.rglob("*.png")}
    assert stored == files


@pytest.mark.parametrize("second", ["test", "val", "Validation"])
def test_given_splits_are_kept(root, second):
    write(root / "Train", class_files(4, "a", "b"))
    write(root / second, class_files(2, "a", "b"), seed=1)
    dataset = opened(root)
    assert (len(dataset.load("train")), len(dataset.load("test"))) == (8, 4)


def test_validation_images_beside_test_images_are_a_split_of_their_own(root):
    for seed, (split, count) in enumerate({"train": 4, "val": 3, "test": 2}.items()):
        write(root / split, class_files(count, "a", "b"), seed=seed)
    dataset = opened(root)
    assert [dataset.count(split) for split in ("train", "val", "test")] == [8, 6, 4]
    both, val = dataset.load("train+val").images, dataset.load("val").images
    np.testing.assert_array_equal(both[dataset.part("val", "train+val")], val)


def test_images_of_different_sizes_need_one_to_be_loaded_at(root):
    write(root / "train", class_files(3, "a", "b"), size=(20, 10))
    write(root / "test", class_files(3, "a", "b"), size=(9, 12), seed=1)
    with pytest.raises(DataError, match="differ in size.*image_size="):
        opened(root)
    assert opened(root, image_size=8).load("test").images.shape == (6, 8, 8, 3)


def test_grey_images_have_one_channel_unless_some_are_in_colour(root):
    assert opened(write(root, class_files(5, "a", "b"), mode="L")).image_shape == (8, 10, 1)
    write(root, ["a/colour.png"])
    assert opened(root).image_shape == (8, 10, 3)


def test_files_are_read_once_and_again_where_they_changed(root, monkeypatch):
    first = opened(write(root, class_files(5, "a", "b")))
    with monkeypatch.context() as patched:
        patched.setattr("jointnas_jax.data.stored_images.describe_image", None)
        assert opened(root).name == first.name
    shutil.copytree(root, root.parent / "elsewhere" / root.name, copy_function=shutil.copyfile)
    assert opened(root.parent / "elsewhere" / root.name).name == first.name
    write(root, ["a/6.png"], seed=2)
    second = opened(root)
    assert second.name != first.name
    assert second.count("train") + second.count("test") == 11
    assert first.count("train") + first.count("test") == 10  # a study of it can go on


def test_the_same_image_is_in_one_split(root):
    write(root, class_files(10, "a", "b"))
    for i in range(10):
        shutil.copy(root / "a" / f"{i}.png", root / "a" / f"copy of {i}.png")
    dataset = opened(root)
    splits = [{image.tobytes() for image in dataset.load(s).images} for s in ("train", "test")]
    assert not splits[0] & splits[1]
    assert dataset.count("train") + dataset.count("test") == 30


def test_test_images_that_are_training_images_are_named(root, capsys):
    write(root / "train", class_files(3, "a", "b"))
    write(root / "test", class_files(3, "a", "b"), seed=1)
    shutil.copy(root / "train/a/1.png", root / "test/a/one.png")
    opened(root)
    assert "1 test image(s)" in (text := capsys.readouterr().err)
    assert "`test/a/one.png`, which is `train/a/1.png`" in text


def test_hidden_files_and_files_beside_the_classes_are_left_out(root):
    write(root, class_files(5, "a", "b"))
    for name in (".git/config", "a/.DS_Store", "a/.thumbs/1.png", "README.txt"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("no image")
    dataset = opened(root)
    assert dataset.count("train") + dataset.count("test") == 10


def test_any_format_and_depth_of_folders(root):
    write(root, class_files(3, "a/2019", "a/2020", "b", suffix="jpg"))
    write(root, class_files(3, "b", suffix="WEBP"))
    dataset = opened(root)
    assert dataset.labels == ("a", "b")
    assert dataset.count("train") + dataset.count("test") == 12


def test_trains_may_be_a_class(root):
    assert opened(write(root, class_files(5, "bus", "train"))).labels == ("bus", "train")


def strange_test_class(root):
    write(root / "train", class_files(2, "a", "b"))
    write(root / "test", ["c/1.png"])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda root: (root / "a/bad.jpg").write_text("x"),
            "1 of 7 .*`a/bad.jpg` .it is no",
        ),
        (lambda root: (root / "a/0.png").write_bytes(b""), "1 of 6 images"),
        (lambda root: shutil.rmtree(root / "a"), "1 class.* classifier needs two"),
        (lambda root: write(root / "train", ["a/1.png"]), "1 class"),
        (
            strange_test_class,
            "split `test` of .* has images of class 'c', which `train` has not; .* 'a', 'b'",
        ),
    ],
    ids=["no image", "empty file", "one class", "one class to train on", "class of the test alone"],
)
def test_bad_folders_are_one_line(root, spoil, message):
    write(root, class_files(3, "a", "b"))
    spoil(root)
    with pytest.raises(DataError, match=message) as raised:
        opened(root)
    assert "\n" not in str(raised.value)


def test_an_empty_folder_says_what_is_expected(root):
    root.mkdir()
    with pytest.raises(DataError, match="holds no dataset: a folder of images has a folder"):
        opened(root)


def test_an_unusable_cache_is_one_line(root, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(DataError, match="cannot be written into .*XDG_CACHE_HOME"):
        opened(write(root, class_files(5, "a", "b")))


def listed(root, text):
    (root / "list.csv").write_text(text)
    return opened(root / "list.csv")


def test_a_list_names_files_labels_and_splits(root):
    write(root, [f"{i}.png" for i in range(9)])
    rows = [f"{i}.png,{'ab'[i % 2]},{'train' if i < 6 else 'test'}" for i in range(9)]
    dataset = listed(root, "\n".join(["path,label,split", *rows]))
    assert dataset.labels == ("a", "b")
    assert [dataset.count(split) for split in ("train", "test")] == [6, 3]
    without = [row.rsplit(",", 1)[0] for row in rows]
    dataset = listed(root, "\n".join(["path,label", *without]))
    assert [dataset.count(split) for split in ("train", "test")] == [7, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\n0.png,a", "must have the columns `path` and `label`, lacks `path`"),
        ("path,label\n0.png,a\n7.png,b", "line 3 of .*must name a file"),
        ("path,label\n0.png,", "line 2 of .*a label"),
        ("path,label,split\n0.png,a,tset", "line 2 of .*the split train, training, val"),
        ("", "must have the columns"),
    ],
    ids=["no path", "no file", "no label", "no split", "empty"],
)
def test_a_bad_list_is_one_line(root, text, message):
    write(root, ["0.png", "1.png"])
    with pytest.raises(DataError, match=message) as raised:
        listed(root, text)
    assert "\n" not in str(raised.value)


def test_all_splits_have_the_names_that_people_give_them(root):
    for seed, split in enumerate(("Training", "valid", "testing")):
        write(root / split, class_files(4, "a", "b"), seed=seed)
    assert set(opened(root).split_names) == {"train", "val", "test"}


def test_folders_beside_splits_are_named(root, capsys):
    for split in ("train", "test", "unlabelled"):
        write(root / split, class_files(4, "a", "b"))
    opened(root)
    assert "beside its splits are left out: unlabelled" in capsys.readouterr().err


def test_class_folders_without_files_are_named(root, capsys):
    write(root, class_files(4, "a", "b"))
    (root / "c").mkdir()
    assert opened(root).labels == ("a", "b")
    assert "without files are left out: c" in capsys.readouterr().err


def classes_deeper(root):
    shutil.move(root, root.parent / "photos")
    shutil.move(root.parent / "photos", root / "photos")


def no_classes_in_splits(root):
    shutil.rmtree(root)
    write(root, ["train/1.png", "train/2.png", "test/1.png", "test/2.png"])


def two_folders_of_a_split(root):
    for split in ("train", "val", "validation"):
        write(root / split, class_files(2, "a", "b"))


def an_empty_split(root):
    write(root / "train", class_files(2, "a", "b"))
    (root / "test" / "a").mkdir(parents=True)


def one_image_of_each_class(root):
    shutil.rmtree(root)
    write(root, class_files(1, "a", "b"))


def copies_of_one_image(root):
    shutil.rmtree(root)
    write(root, ["a/1.png"])
    for copy in ("a/2.png", "b/1.png", "b/2.png"):
        (root / copy).parent.mkdir(exist_ok=True)
        shutil.copy(root / "a/1.png", root / copy)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (classes_deeper, "holds `photos` alone, .* did you mean `.*/photos`"),
        (no_classes_in_splits, r"training images of 0 class\(es\)"),
        (two_folders_of_a_split, "one folder for split `val`, has `val` and `validation`"),
        (an_empty_split, "split `test` of .* has no images"),
        (one_image_of_each_class, "too few to set a fifth.* 2 different ones of 2 class"),
        (copies_of_one_image, "too few to set a fifth.* 1 different ones of 1 class"),
        (lambda root: (root / "a/link.png").symlink_to("gone"), "`a/link.png` .No such file"),
    ],
)
def test_folders_that_lack_something_say_so(root, spoil, message):
    write(root, class_files(3, "a", "b"))
    spoil(root)
    with pytest.raises(DataError, match=message):
        opened(root)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", ["a", "a/0.png", "."])
def test_what_may_not_be_read_is_named(root, name):
    write(root, class_files(3, "a", "b"))
    (root / name).chmod(0)
    try:
        with pytest.raises(DataError, match=f"`[^`]*{name.strip('.')}`.*Permission denied"):
            opened(root)
    finally:
        (root / name).chmod(0o700)


def test_names_of_files_and_classes_need_not_be_text(root):
    write(root, [*class_files(3, "a", "b"), "Füße & 猫/1.png", "Füße & 猫/2.png", "a/\udcff.png"])
    dataset = opened(root)
    assert "Füße & 猫" in dataset.labels
    assert len(dataset.labels) == 3
    names = [*dataset.file_names("train"), *dataset.file_names("test")]
    assert len(set(names)) == 9


def test_a_list_may_not_name_a_file_twice(root):
    write(root, ["0.png", "1.png"])
    with pytest.raises(DataError, match="lines 2 and 4 of .* name one file, '0.png'"):
        listed(root, "path,label\n0.png,a\n1.png,b\n0.png,b")
