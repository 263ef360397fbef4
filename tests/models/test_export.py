"""Exports: what other tools get is the network that was found, whole or not at all."""

import dataclasses
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from safetensors import safe_open

import jointnas_jax
from jointnas_jax.errors import ConfigError, DamagedError, InputError, ModelError, StorageError
from jointnas_jax.models import export
from jointnas_jax.models.export import default_folder, export_model, load_classifier
from jointnas_jax.models.model import Model, save_model
from jointnas_jax.nets import zoo
from jointnas_jax.nets.init import initial_variables
from jointnas_jax.report.card import FORMATS, check_formats

HAS_ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime"))
needs_onnx = pytest.mark.skipif(not HAS_ONNX, reason="the extra `onnx` is not installed")
INSTALLED = [name for name in FORMATS if name != "onnx" or HAS_ONNX]


@pytest.fixture(scope="module")
def model(finished_study):
    return jointnas_jax.load(finished_study)


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    """One export of each format, by its name."""
    folder = tmp_path_factory.mktemp("exports")
    for name in INSTALLED:
        export_model(model, folder / name, [name])
    return folder


# -- loading -------------------------------------------------------------------------------------


def test_a_study_loads_as_a_module_and_variables(finished_study, study_images):
    module, variables = model = jointnas_jax.load(str(finished_study))
    x = (study_images - np.float32(model.mean)) / np.float32(model.std)
    x = jax.image.resize(x, (5, 12, 12, 3), "bilinear")
    np.testing.assert_allclose(model.preprocess(study_images), x, rtol=1e-5, atol=1e-5)
    logits = module.apply(variables, x)
    np.testing.assert_allclose(model.logits(study_images), logits, rtol=1e-4, atol=1e-4)
    assert model.labels == ("cat", "dog", "eel", "fox")
    assert (model.mean[0], model.std[2]) == (120.0, 40.0)


def test_the_package_has_load_and_says_so_without_jax():
    code = (
        "import sys, jointnas_jax; assert 'load' in dir(jointnas_jax); "
        "sys.exit(bool({'jax', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(AttributeError, match="no attribute `lod`"):
        jointnas_jax.lod  # noqa: B018


def test_winner_and_seed_are_chosen(finished_study):
    stems = [
        np.asarray(jointnas_jax.load(finished_study, winner, seed).variables["params"]["stem"])
        for winner, seed in ((0, None), (0, 0), (0, 1), (1, None), (1, 1))
    ]
    np.testing.assert_array_equal(stems[0], stems[1])
    np.testing.assert_array_equal(stems[3], stems[4])
    assert not np.allclose(stems[1], stems[2])
    assert not np.allclose(stems[2], stems[4])
    # Seed 0 of winner 1 failed.
    metadata = jointnas_jax.load(finished_study, winner=1).metadata
    assert (metadata["winner"], metadata["seed"], metadata["accuracy"]) == (1, 1, 0.81)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"winner": 2}, "has 2 winners, numbered from 0; there is no winner 2"),
        ({"winner": -1}, "`winner` must be an integer from 0 to"),
        ({"seed": 5}, r"seeds \[0, 1\]; there are none of 5"),
        ({"winner": 1, "seed": 0}, r"seeds \[1\]; there are none of 0"),
    ],
)
def test_a_choice_that_is_not_there_is_named(finished_study, choice, message):
    with pytest.raises(InputError, match=message):
        jointnas_jax.load(finished_study, **choice)


def test_one_model_leaves_nothing_to_choose(exported):
    with pytest.raises(ModelError, match="holds one model"):
        jointnas_jax.load(exported / "orbax", seed=1)


def test_what_has_not_finished_is_named_so(finished_study, tmp_path):
    shutil.copy(finished_study / "config.json", tmp_path)
    with pytest.raises(ModelError, match="its study has not finished"):
        jointnas_jax.load(tmp_path)
    (tmp_path / "config.json").rename(tmp_path / "training.json")
    with pytest.raises(ModelError, match="its training has not finished"):
        jointnas_jax.load(tmp_path)
    with pytest.raises(ModelError, match="holds no model: neither"):
        jointnas_jax.load(tmp_path / "missing")
    with pytest.raises(ModelError, match="cannot be read: "):
        load_classifier(tmp_path / ("x" * 300))


# -- the formats ---------------------------------------------------------------------------------


@pytest.mark.smoke
@pytest.mark.parametrize("name", INSTALLED)
def test_an_export_has_the_logits_of_the_study(model, exported, study_images, name):
    classifier = load_classifier(exported / name)
    expected = model.logits(study_images)
    np.testing.assert_allclose(classifier.logits(study_images), expected, rtol=0, atol=1e-4)
    # Any number of images.
    found = classifier.logits(study_images[:2])
    np.testing.assert_allclose(found, expected[:2], rtol=0, atol=1e-4)
    assert np.ptp(expected) > 0.1  # else they could be equal by chance
    assert (classifier.labels, classifier.image_size) == (model.labels, model.image_size)


@pytest.mark.parametrize("name", ["orbax", "safetensors"])
def test_weights_come_back_to_the_bit(model, exported, name):
    again = jointnas_jax.load(exported / name)
    assert jax.tree.structure(again.variables) == jax.tree.structure(model.variables)
    jax.tree.map(np.testing.assert_array_equal, again.variables, model.variables)
    plain = lambda m: dataclasses.replace(m, variables=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model), "__post_init__", lambda self: None)
        assert plain(again) == plain(model)


@pytest.mark.parametrize("name", [n for n in INSTALLED if n not in ("orbax", "safetensors")])
def test_a_program_has_no_weights_to_load(exported, name):
    with pytest.raises(ModelError, match=rf"its format is {name}; export with --format=orbax"):
        jointnas_jax.load(exported / name)


def test_safetensors_have_the_rest_in_their_metadata(model, exported):
    with safe_open(exported / "safetensors" / "model.safetensors", "numpy") as file:
        metadata = {key: json.loads(v) for key, v in file.metadata().items() if key != "format"}
        assert "params/stage1_block1/expand_bn/scale" in file.keys()  # noqa: SIM118
        assert "batch_stats/stem_bn/var" in file.keys()  # noqa: SIM118
    assert metadata["arch"] == model.arch.to_dict()
    assert metadata["facts"]["recipe"]["lr"] == 0.03
    assert metadata["pixels"]["std"] == [60.0, 50.0, 40.0]
    assert metadata["labels"] == list(model.labels)


ALONE = """
import sys
from pathlib import Path
import jax.export, numpy as np
program = jax.export.deserialize(bytearray(Path(sys.argv[1]).read_bytes()))
np.save("logits.npy", program.call(np.load("images.npy")))
assert not {"jointnas_jax", "flax"} & set(sys.modules)
assert program.platforms == ("cpu", "cuda", "tpu") and not program.has_vjp()
"""


def test_stablehlo_runs_where_this_package_is_unknown(model, exported, study_images, tmp_path):
    np.save(tmp_path / "images.npy", study_images)
    file = exported / "stablehlo" / "model.stablehlo"
    outside = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [sys.executable, "-c", ALONE, str(file)]
    subprocess.run(command, cwd=tmp_path, env=outside, timeout=120, check=True)
    logits = np.load(tmp_path / "logits.npy")
    np.testing.assert_allclose(logits, model.logits(study_images), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", [n for n in INSTALLED if n not in ("orbax", "safetensors")])
def test_a_program_of_two_images_at_a_time_takes_five(model, study_images, tmp_path, name):
    export_model(model, tmp_path / "export", [name], batch_size=2)
    program = load_classifier(tmp_path / "export")
    expected = model.logits(study_images)
    np.testing.assert_allclose(program.logits(study_images), expected, rtol=0, atol=1e-4)
    with pytest.raises(Exception, match=r"2|shape|dimension"):
        program.run(study_images)


@needs_onnx
def test_a_published_network_is_the_same_in_onnx(tmp_path):
    """It has every kind of layer, trimmed convolutions and residuals among them."""
    arch = dataclasses.replace(zoo.find("fbnetv3_a"), resolution=96, num_classes=5)
    rng = np.random.default_rng(0)
    varied = lambda x: x + np.float32(0.3) * rng.uniform(0, 1, x.shape).astype(np.float32)
    variables = initial_variables(arch, jax.random.key(0))
    variables = dict(variables) | {"batch_stats": jax.tree.map(varied, variables["batch_stats"])}
    scales = lambda path, x: varied(x) if path[-1].key in ("scale", "bias") else np.asarray(x)
    variables["params"] = jax.tree_util.tree_map_with_path(scales, variables["params"])
    rgb = (110.0, 120.0, 130.0)
    network = Model(
        arch=arch,
        image_size=(80, 96),
        crop=1.0,
        labels=tuple("abcde"),
        variables=variables,
        mean=rgb,
        std=(50.0, 60.0, 70.0),
    )
    images = rng.integers(0, 256, (3, 80, 96, 3), np.uint8)
    export_model(network, tmp_path / "export", ["onnx"])
    expected = network.logits(images)
    found = load_classifier(tmp_path / "export").logits(images)
    assert np.ptp(expected, axis=0).min() > 0
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@needs_onnx
def test_the_onnx_graph_says_what_it_takes(exported, model):
    import onnx

    graph = onnx.load(exported / "onnx" / "model.onnx")
    shape = lambda value: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
    (images,), (logits,) = graph.graph.input, graph.graph.output
    assert (images.name, shape(images)) == ("images", ["N", 20, 30, 3])
    assert images.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert (logits.name, shape(logits)) == ("logits", ["N", 4])
    labels = {p.key: p.value for p in graph.metadata_props}["labels"]
    assert tuple(labels.split("\n")) == model.labels


def test_an_imported_model_and_an_export_can_be_exported(model, exported, tmp_path):
    save_model(dataclasses.replace(model, metadata={}), tmp_path / "imported")
    for source in (tmp_path / "imported", exported / "safetensors"):
        again = jointnas_jax.load(source)
        export_model(again, tmp_path / "again", ["orbax"], overwrite=True)
        loaded = jointnas_jax.load(tmp_path / "again")
        assert loaded.metadata == again.metadata
        jax.tree.map(np.testing.assert_array_equal, loaded.variables, model.variables)


# -- the folder ----------------------------------------------------------------------------------


def test_several_formats_share_a_folder_and_a_card(model, tmp_path):
    out = tmp_path / "new" / "folder"
    files = export_model(model, out, ["stablehlo", "safetensors", "orbax"])
    assert {p.name for p in files} == {
        *("model.json", "model_card.md", "weights", "weights.sha256"),
        *("model.safetensors", "model.stablehlo"),
    }
    assert json.loads((out / "model.json").read_text())["formats"] == [
        *("orbax", "safetensors", "stablehlo")
    ]
    assert [p.name for p in out.parent.iterdir()] == ["folder"]
    assert jointnas_jax.load(out).labels == model.labels


def test_only_an_export_is_replaced_and_only_if_asked(model, tmp_path):
    out = tmp_path / "out"
    out.mkdir()  # empty
    export_model(model, out, ["safetensors"])
    with pytest.raises(ModelError, match="holds an export; .*--overwrite"):
        export_model(model, out, ["orbax"])
    export_model(model, out, ["orbax"], overwrite=True)
    assert not (out / "model.safetensors").exists()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ModelError, match="holds other things than an export"):
        export_model(model, out, ["orbax"], overwrite=True)
    save_model(model, tmp_path / "imported")
    with pytest.raises(ModelError, match="holds other things than an export"):
        export_model(model, tmp_path / "imported", ["orbax"], overwrite=True)
    for name in ("notes.txt", "notes.txt/inside", "x" * 300):
        with pytest.raises(ModelError):
            export_model(model, out / name, ["safetensors"])


def test_an_export_that_fails_leaves_what_was_there(model, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(export, "write_json", full_disk)
        with pytest.raises(StorageError, match="full"):
            export_model(model, out, ["orbax", "safetensors"])
        assert not any(tmp_path.iterdir())
    export_model(model, out, ["safetensors"])
    before = {p: p.read_bytes() for p in out.iterdir()}
    monkeypatch.setattr(export, "write_json", full_disk)
    with pytest.raises(StorageError, match="full"):
        export_model(model, out, ["orbax"], overwrite=True)
    assert {p: p.read_bytes() for p in out.iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_what_a_kill_or_ctrl_c_left_is_removed(model, tmp_path, monkeypatch):
    for left in (".out.new.unfinished", ".out.old.unfinished"):
        (tmp_path / left / "weights").mkdir(parents=True)
    export_model(model, tmp_path / "out", ["safetensors"])
    assert [p.name for p in tmp_path.iterdir()] == ["out"]

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "write_json", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_model(model, tmp_path / "out", ["orbax"], overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "model.safetensors").exists()


def full_disk(path, *_, **__):
    raise StorageError(f"`{path}` cannot be written: the disk is full")


@pytest.mark.parametrize("name", INSTALLED)
def test_a_flipped_bit_is_seen(exported, tmp_path, name):
    out = shutil.copytree(exported / name, tmp_path / "out")
    stored = [p for p in out.rglob("*") if p.is_file() and p.suffix not in (".json", ".md")]
    file = max(stored, key=lambda p: p.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(DamagedError, match="is not what was written"):
        load_classifier(out)
    if file.parent == out:
        file.unlink()
        with pytest.raises(DamagedError, match=f"{file.name}` is missing"):
            load_classifier(out)


def test_a_changed_description_is_seen(exported, tmp_path):
    out = shutil.copytree(exported / "safetensors", tmp_path / "out")
    file = out / "model.json"
    file.write_text(file.read_text().replace('"swish"', '"relu"'))
    with pytest.raises(DamagedError, match=r"model\.json` is damaged"):
        load_classifier(out)


def test_each_choice_has_a_folder_of_its_own(tmp_path):
    folders = {
        default_folder(tmp_path, formats, winner, seed)
        for formats in (["onnx"], ["onnx", "orbax"])
        for winner in (0, 1)
        for seed in (None, 0)
    }
    assert len(folders) == 8
    assert default_folder(tmp_path, ["onnx", "orbax"], 0, None) == tmp_path / "export/orbax-onnx"


# -- the card ------------------------------------------------------------------------------------


def test_the_card_has_data_budget_accuracy_costs_and_recipe(exported):
    card = (exported / "orbax" / "model_card.md").read_text()
    for words in (
        "# shapes, winner 0",
        "| dataset | shapes/1.0.0, images 20 x 30 x 3 |",
        "4: cat, dog, eel, fox",
        "Test accuracy on shapes/1.0.0: 85.00% (86.00% ± 1.00% over its seeds).",
        "Architecture and recipe were found together",
        "**85.00%** on the test images",
        "92.00% ± 1.00% | 86.00% ± 1.00%",
        "| default candidate |  | 71.00% ± 1.00% | the search beat it |",
        "| budget of flops | 60,000 |",
        "| lr | 0.03 |",
        "| epochs | 20 |",
        "mean (120, 110, 100), std (60, 50, 40)",
        "resized to 12 x 12, bilinear with anti-aliasing",
        "`uint8[N, 20, 30, 3]`",
        "**without softmax**",
        "42 trainings, 90 seconds in all",
        "## Limits",
    ):
        assert words in card


@pytest.mark.parametrize("name", INSTALLED)
def test_what_the_card_says_about_use_works(model, exported, study_images, name):
    card = (exported / name / "model_card.md").read_text()
    (code,) = re.findall("```python\n(.*?)```", card, re.DOTALL)
    names = {"images": study_images}
    exec(code.replace("THIS_FOLDER", str(exported / name)), names)
    np.testing.assert_allclose(names["logits"], model.logits(study_images), rtol=0, atol=1e-4)


# -- formats -------------------------------------------------------------------------------------


def test_formats_are_checked_before_anything_is_loaded(monkeypatch):
    with pytest.raises(ConfigError, match="give --format="):
        check_formats([])
    with pytest.raises(ConfigError, match="no format `onxx`; did you mean `onnx`"):
        check_formats(["orbax", "onxx"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check_formats(["orbax", "safetensors", "stablehlo"])
    with pytest.raises(
        ModelError, match=r'the package `onnx`, .*pip install "jointnas_jax\[onnx\]"'
    ):
        check_formats(["onnx"])
