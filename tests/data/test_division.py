"""Validation images: as many as asked for, of each class its share, by labels and seed alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_source import rows, write_dataset

from jointnas_jax.config import DataConfig
from jointnas_jax.data.division import carve_validation, check_division, validation_count
from jointnas_jax.data.source import open_dataset
from jointnas_jax.errors import DataError

sizes_of_classes = st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(
    lambda sizes: sum(sizes) > 1
)
seeds = st.integers(0, 2**31 - 1)


def drawn(sizes, images, seed=0):
    """Images of each class, in all and to validate on."""
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(len(sizes)), sizes))
    validation = carve_validation(labels, 0.5, seed, images=images)
    assert (validation == carve_validation(labels, 0.5, seed, images=images)).all()
    return np.bincount(labels[validation], minlength=len(sizes))


@given(sizes_of_classes, st.integers(0, 600), seeds)
def test_there_are_exactly_as_many_as_asked_for(sizes, images, seed):
    assert drawn(sizes, images, seed).sum() == validation_count(sum(sizes), 0.5, images)


@given(sizes_of_classes, st.integers(0, 600), seeds)
def test_each_class_has_its_share_and_both_sides_of_it_where_that_is_possible(sizes, images, seed):
    sizes, shares = np.array(sizes), drawn(sizes, images, seed)
    wanted = validation_count(sizes.sum(), 0.5, images)
    if wanted <= np.maximum(sizes - 1, 0).sum():
        assert (shares <= np.maximum(sizes - 1, 0)).all(), "each class is trained on"
    if wanted >= np.count_nonzero(sizes):
        assert (shares[sizes > 1] >= 1).all(), "each class of two images or more is validated on"
    exact = wanted * sizes / sizes.sum()
    free = (shares > 1) & (shares < sizes - 1)  # neither bound holds it
    assert (np.abs(shares - exact)[free] < 1 + np.count_nonzero(sizes)).all()


@given(st.integers(1, 30), st.integers(2, 9), seeds)
def test_without_remainders_the_shares_are_exact(each, classes, seed):
    assert (drawn([10 * each] * classes, 3 * each * classes, seed) == 3 * each).all()


def test_another_seed_draws_other_images_and_other_classes_of_equal_remainders():
    shares = np.array([drawn([4] * 40, 20, seed) for seed in range(20)])
    assert shares.max() == 1
    # Each class has one half the time.
    assert (shares.sum(0) > 2).all()
    assert (shares.sum(0) < 18).all()
    labels = np.zeros(100, int)
    labels[50:] = 1
    first, second = (carve_validation(labels, 0.2, seed) for seed in (0, 1))
    assert (first != second).any()


def test_images_of_a_class_are_drawn_uniformly():
    labels = np.repeat([0, 1], [30, 10])
    times = sum(carve_validation(labels, 0.2, seed).astype(int) for seed in range(400))
    assert times.min() > 400 * 0.2 - 5 * np.sqrt(400 * 0.2 * 0.8)
    assert times.max() < 400 * 0.2 + 5 * np.sqrt(400 * 0.2 * 0.8)


@pytest.mark.parametrize("classes", [3, 1 << 17])
def test_many_images_and_classes_take_no_time(classes):
    labels = np.random.default_rng(0).integers(0, classes, 400_000)
    assert carve_validation(labels, 0.1, 0).sum() == 40_000


def test_a_class_that_is_missing_anywhere_is_named():
    train, names = np.array([0, 0, 0, 1, 1, 1, 2]), ("a", "b", "c", "d\n")
    lines = check_division(train, np.array([1, 0, 0, 1, 0, 0, 0], bool), np.arange(4), names)
    assert [line.split(":")[0] for line in lines] == [
        "no validation image of class 'c', 'd\\n'",
        "no training image of class 'd\\n'",
    ]
    full = np.repeat(np.arange(4), 4)
    assert check_division(full, carve_validation(full, 0.5, 0), full, names) == []
    many = [str(i) for i in range(100)]
    (line, _) = check_division(full, full < 0, full, many)  # nothing is validated: no line about it
    assert line.startswith("no training image of class ")
    assert " and " in line


@pytest.mark.parametrize(
    ("validation", "part"), [([1, 0, 0, 0], "validation"), ([1, 0, 1, 1], "training")]
)
def test_where_nothing_could_be_measured_the_study_is_refused(validation, part):
    labels = np.array([0, 0, 1, 1])
    with pytest.raises(DataError, match=f"{part} images are of class 'a'.*config.data.val_images"):
        check_division(labels, np.array(validation, bool), labels, ("a", "b"))


def test_images_on_disk_are_divided_as_those_in_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = write_dataset(tmp_path, {"train": rows(60), "test": rows(9, seed=1)})
    dataset = open_dataset(dict(name="", dir=str(folder), image_size=0))
    memory, disk = (dataset.open_splits(DataConfig(memory_gb=size))[0] for size in (8.0, 0.0))
    np.testing.assert_array_equal(memory.labels, disk.labels)
    assert memory.labels.dtype == disk.labels.dtype == np.int32
    np.testing.assert_array_equal(disk.read(np.arange(60))[1], disk.labels)
