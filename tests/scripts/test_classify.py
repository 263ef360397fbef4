"""`scripts/import_weights.py` and `scripts/classify.py` as a user meets them."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from calls import ROOT, assert_one_line_and_exit_2, script
from PIL import Image
from safetensors.numpy import save_file

from jointnas_jax.nets import zoo
from jointnas_jax.nets.timm_weights import timm_shapes
from jointnas_jax.space import ArchSpec, Head, Stage, Stem


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small model and two images."""
    import jax

    from jointnas_jax.models.model import Model, save_model
    from jointnas_jax.nets.init import initial_variables

    folder = tmp_path_factory.mktemp("model")
    arch = ArchSpec(8, 1, 3, Stem(8), (Stage(8, 1, expand_first=2),), Head(16, expand=1))
    variables = initial_variables(arch, jax.random.key(0))
    labels = ("owl", "bad\x1b[2Jname", "yak")
    model = Model(
        arch=arch,
        image_size=(8, 8),
        crop=None,
        labels=labels,
        variables=variables,
        mean=(100.0,),
        std=(50.0,),
    )
    save_model(model, folder / "model")
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.jpg"):
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(folder / name)
    (folder / "broken.png").write_text("no image")
    return folder


def test_every_image_gets_the_names_of_its_most_probable_classes(folder):
    done = script("classify", "--model=model", "a.png", "b.jpg", "--json", cwd=folder)
    found = json.loads(done.stdout)
    assert [f["image"] for f in found] == ["a.png", "b.jpg"]
    for f in found:
        probabilities = [c["probability"] for c in f["classes"]]
        assert probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) == pytest.approx(1.0)
        assert {c["index"] for c in f["classes"]} == {0, 1, 2}
    text = script("classify", "--model=model", "--top=2", "a.png", cwd=folder).stdout
    name, *lines = text.splitlines()
    assert name == "a.png"
    for line, c in zip(lines, found[0]["classes"][:2], strict=True):
        assert line.strip() == f"{c['probability']:.2%}  {c['label'].replace(chr(27), '?')}"


@pytest.mark.parametrize("encoding", ["ascii", "iso8859-2", "utf-8"])
def test_any_label_and_any_file_name_is_printed_in_any_encoding(folder, encoding):
    name = os.fsdecode(b"\xff \xe2\x82\xac.png")  # no UTF-8, then a euro sign
    shutil.copy(folder / "a.png", folder / name)
    shutil.copytree(folder / "model", folder / "named", dirs_exist_ok=True)
    model = json.loads((folder / "named" / "model.json").read_text())
    model["labels"] = ["łoś ±", "\ud800", "yak"]
    (folder / "named" / "model.json").write_text(json.dumps(model))
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "classify.py", "--model=named", name],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, *classes = done.stdout.split(b"\n")
    assert first.startswith(b"\xff ") or encoding != "utf-8"
    labels = {line.split(b"%  ")[1] for line in classes if line}
    elk = {"ascii": b"?o? +-", "iso8859-2": b"\xb3o\xb6 +-", "utf-8": "łoś ±".encode()}[encoding]
    assert labels == {elk, b"?", b"yak"}


def test_images_before_a_broken_one_are_classified(folder):
    done = script("classify", "--model=model", "a.png", "broken.png", cwd=folder)
    assert_one_line_and_exit_2(done, "broken.png")
    assert done.stdout.startswith("a.png\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.png"], "give a model"),
        (["--model=model"], "image files"),
        (["--model=missing", "a.png"], "holds no model"),
        (["--model=model", "missing.png"], "No such file"),
    ],
)
def test_bad_input_to_classify_is_one_line_and_exit_2(folder, arguments, message):
    assert_one_line_and_exit_2(script("classify", *arguments, cwd=folder), message)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random weights of `fbnetv3_b` with three classes, and names for them."""
    folder = tmp_path_factory.mktemp("weights")
    shapes = timm_shapes(zoo.fbnetv3("b", num_classes=3, plain_padding=True))
    rng = np.random.default_rng(0)
    tensors = {name: rng.random(shape, np.float32) for name, shape in shapes.items()}
    save_file(tensors, folder / "b.safetensors")
    (folder / "names.txt").write_text("ant\nbee\ncow\n")
    (folder / "b.pth").write_bytes(b"\x80\x04N.")
    return folder


def test_imported_weights_become_a_model(weights):
    arguments = ("--model=fbnetv3_b", "--weights=b.safetensors", "--labels=names.txt")
    done = script("import_weights", *arguments, cwd=weights)
    assert done.returncode == 0, done.stderr
    assert "3 classes" in done.stdout
    model = json.loads((weights / "runs" / "fbnetv3_b" / "model.json").read_text())
    assert model["labels"] == ["ant", "bee", "cow"]
    assert ArchSpec.from_dict(model["arch"]).num_classes == 3
    again = script("import_weights", *arguments, cwd=weights)
    assert_one_line_and_exit_2(again, "--overwrite")
    assert script("import_weights", *arguments, "--overwrite", cwd=weights).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model=fbnetv3_b"], "give --weights="),
        (["--model=fbnetv3_c", "--weights=b.safetensors"], "did you mean"),
        (["--model=fbnetv3_b", "--weights=b.pth"], "can run code"),
        (["--model=fbnetv3_d", "--weights=b.safetensors"], "`conv_stem.weight` must have"),
        (["--model=fbnetv3_b", "--weights=b.safetensors", "--labels=b.pth"], "class names"),
        (["--model=fbnetv3_b", "--weights=b.safetensors", "extra"], "unexpected argument"),
    ],
)
def test_bad_input_to_import_weights_is_one_line_and_exit_2(weights, arguments, message):
    done = script("import_weights", *arguments, "--out=other", cwd=weights)
    assert_one_line_and_exit_2(done, message)
    assert not (weights / "other").exists()
