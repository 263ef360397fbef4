"""Datasets in a bucket are copied into the cache once, and whole."""

import numpy as np
import pytest
import stores
from PIL import Image

from jointnas_jax.data.copied import copied
from jointnas_jax.data.prepared import prepared_folder
from jointnas_jax.errors import DataError
from jointnas_jax.runtime.bucket import Bucket


@pytest.fixture(params=["file", "gs", "s3"])
def url(request, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if request.param == "file":
        yield f"file://{tmp_path}/photos"
        return
    with {"gs": stores.gs, "s3": stores.s3}[request.param]() as root:
        yield f"{stores.new(root)}/photos"


def test_a_folder_is_copied_once_and_again_where_it_has_changed(url, capsys):
    bucket = Bucket(url)
    for name in ("cat/1.txt", "dog/2.txt"):
        bucket.write(name, name.encode())
    folder = copied(url)
    assert folder.name == "photos"
    assert (folder / "cat" / "1.txt").read_text() == "cat/1.txt"
    assert "copying 2 files" in capsys.readouterr().err
    assert copied(url) == folder
    (folder / "cat" / "1.txt").unlink()  # a copy that was cut off
    assert copied(url) == folder
    assert "copying 1 files" in capsys.readouterr().err
    bucket.write("dog/2.txt", b"other")
    changed = copied(url)
    assert changed != folder
    assert (changed / "dog" / "2.txt").read_text() == "other"


def test_one_file_and_nothing(url):
    Bucket(url).write("a.npz", b"arrays")
    assert copied(f"{url}/a.npz").name == "a.npz"
    assert copied(f"{url}/a.npz").read_bytes() == b"arrays"
    with pytest.raises(DataError, match="nothing at"):
        copied(f"{url}/b")


def test_images_in_a_bucket_are_a_dataset(url, tmp_path):
    rng, bucket = np.random.default_rng(0), Bucket(url)
    for name in [f"{label}/{i}.png" for label in ("cat", "dog") for i in range(5)]:
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(tmp_path / "image.png")
        bucket.write(name, (tmp_path / "image.png").read_bytes())
    assert (prepared_folder("photos", url) / "dataset_info.json").exists()


def test_a_store_that_refuses_is_one_line(monkeypatch, tmp_path):
    pytest.importorskip("s3fs")
    with stores.refusing(), pytest.raises(DataError, match="cannot be listed"):
        copied("s3://bucket/x")
