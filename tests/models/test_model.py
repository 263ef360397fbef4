"""Models on disk: imported ones, and workdirs of finished studies."""

import dataclasses
import json
import pickle

import jax
import numpy as np
import pytest
from PIL import Image

from jointnas_jax.errors import DamagedError, InputError, ModelError, WorkdirError
from jointnas_jax.files import read_json, write_json
from jointnas_jax.models.model import Model, load, save_model
from jointnas_jax.nets.init import initial_variables
from jointnas_jax.nets.network import Network
from jointnas_jax.space import ArchSpec, Head, Stage, Stem
from jointnas_jax.storage import workdir as workdirs
from jointnas_jax.storage.weights import save_variables

ARCH = ArchSpec(12, 3, 4, Stem(8), (Stage(8, 1, expand_first=2),), Head(16, expand=1))
LABELS = ("cat", "dog", "eel", "fox")


@pytest.fixture(scope="module")
def model():
    return Model(
        arch=ARCH,
        variables=initial_variables(ARCH, jax.random.key(0)),
        mean=(120.0, 110.0, 100.0),
        std=(60.0, 50.0, 40.0),
        image_size=(20, 30),
        crop=0.9,
        labels=LABELS,
    )


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 20, 30, 3), np.uint8)


def test_probabilities_are_those_of_the_normalised_resized_images(model, images):
    x = (images - np.float32(model.mean)) / np.float32(model.std)
    x = jax.image.resize(x, (5, 12, 12, 3), "bilinear")
    expected = jax.nn.softmax(Network(ARCH).apply(model.variables, x))
    np.testing.assert_allclose(model.probabilities(images), expected, rtol=1e-5)


def test_a_saved_model_is_the_same_again(model, images, tmp_path):
    save_model(model, tmp_path / "new" / "folder")
    loaded = load(tmp_path / "new" / "folder")
    plain = lambda m: dataclasses.replace(m, variables=model.variables)
    assert plain(loaded) == plain(model)
    np.testing.assert_array_equal(loaded.probabilities(images), model.probabilities(images))


def test_an_image_file_gets_its_classes_best_first(model, images, tmp_path):
    file = tmp_path / "a.png"
    Image.fromarray(images[0]).save(file)
    whole = dataclasses.replace(model, crop=None)
    expected = whole.probabilities(images[:1])[0]
    found = whole.classify(file, top=3)
    assert [c["index"] for c in found] == list(np.argsort(-expected)[:3])
    assert [c["label"] for c in found] == [LABELS[c["index"]] for c in found]
    assert [c["probability"] for c in found] == pytest.approx(sorted(expected)[:0:-1])
    assert len(whole.classify(file, top=9)) == 4
    assert model.classify(file, top=4) != whole.classify(file, top=4)


def test_only_an_imported_model_is_replaced_and_only_if_asked(model, tmp_path):
    save_model(model, tmp_path)
    with pytest.raises(ModelError, match="exists; .*--overwrite"):
        save_model(model, tmp_path)
    (tmp_path / "notes.txt").write_text("keep")
    save_model(dataclasses.replace(model, labels=LABELS[::-1]), tmp_path, overwrite=True)
    assert load(tmp_path).labels == LABELS[::-1]
    assert (tmp_path / "notes.txt").exists()
    (tmp_path / "model.json").unlink()
    with pytest.raises(ModelError, match="holds other things"):
        save_model(model, tmp_path, overwrite=True)
    with pytest.raises(ModelError, match="cannot be written"):
        save_model(model, tmp_path / "notes.txt")


def test_a_study_does_not_replace_an_imported_model(model, tmp_path):
    save_model(model, tmp_path)
    with pytest.raises(WorkdirError, match="holds an imported model"):
        workdirs.clear(tmp_path)
    load(tmp_path)


def write_study(workdir, model, seeds=(0,), **dataset):
    """What `load` reads of a finished study."""
    pixels = {"mean": list(model.mean), "std": list(model.std)}
    winner = {"candidate": {"arch": ARCH.to_dict(), "recipe": {}}}
    result = {"dataset": {"pixels": pixels, **dataset}, "winners": [winner]}
    write_json(workdir / "result.json", result, digest=True)
    for seed in seeds:
        save_variables(workdir / "weights" / "winner0" / f"seed{seed}", model.variables)


def test_a_study_is_its_first_winner_on_whole_images(model, tmp_path):
    """Here of the third seed, since the trainings of the first two failed."""
    write_study(tmp_path, model, seeds=(10, 2), image_shape=[20, 30, 3], labels=LABELS)
    loaded = load(tmp_path)
    assert (loaded.image_size, loaded.crop, loaded.labels) == ((20, 30), 1.0, LABELS)
    assert loaded.mean == model.mean


def test_a_result_of_before_schemas_is_refused_as_such(model, tmp_path):
    write_study(tmp_path, model, labels=LABELS)
    file = tmp_path / "result.json"
    file.write_text(json.dumps(read_json(file) | {"schema": 0}))
    with pytest.raises(WorkdirError, match=r"result\.json` is of schema 0, this version reads"):
        load(tmp_path)


def test_a_changed_result_is_not_read(model, tmp_path):
    write_study(tmp_path, model, labels=LABELS)
    file = tmp_path / "result.json"
    file.write_text(file.read_text().replace(LABELS[0], "other"))
    with pytest.raises(DamagedError, match=r"result\.json` is damaged"):
        load(tmp_path)


def test_a_study_of_before_names_were_stored_has_numbers(model, tmp_path):
    write_study(tmp_path, model)
    loaded = load(tmp_path)
    assert (loaded.image_size, loaded.labels) == ((12, 12), ("0", "1", "2", "3"))


def test_a_folder_without_a_model_is_an_error(model, tmp_path):
    with pytest.raises(ModelError, match="holds no model"):
        load(tmp_path / "missing")
    write_study(tmp_path, model, seeds=())
    with pytest.raises(ModelError, match="no weights of its winner"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ["cat"]}, "`labels` must be 4 names.*got 1"),
        ({"labels": [1, 2, 3, 4]}, "`labels` must be 4 names"),
        ({"labels": None}, "cannot be read: "),
        ({"pixels": {"mean": [0, 0, 0], "std": [1, 1, 0]}}, "`pixels.std` must be 3 finite"),
        ({"pixels": {"mean": [0, 0, float("nan")], "std": [1, 1, 1]}}, "`pixels.mean`"),
        ({"pixels": {}}, "cannot be read: "),
        ({"crop": 1.5}, r"`crop` must be null or a number in \(0, 1\]"),
        ({"image_size": [8, -8]}, "`image_size` must be two positive integers"),
        ({"image_size": [8]}, "cannot be read: "),
        ({"arch": {}}, "architecture lacks the fields"),
        ({"arch": dataclasses.replace(ARCH, head=Head(24)).to_dict()}, "weights do not have"),
    ],
)
def test_a_changed_description_is_an_error(model, tmp_path, change, message):
    save_model(model, tmp_path)
    file = tmp_path / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(InputError, match=message):
        load(tmp_path)


def test_unreadable_files_are_errors(model, tmp_path):
    save_model(model, tmp_path)
    (tmp_path / "weights").rename(tmp_path / "elsewhere")
    with pytest.raises(DamagedError, match="weights` is missing"):
        load(tmp_path)
    (tmp_path / "model.json").write_text("[" * 100_000)
    with pytest.raises(ModelError, match="cannot be read: "):
        load(tmp_path)


def test_a_model_out_of_a_pickle_answers_the_same(model, images):
    """Also once its program is compiled."""
    expected = model.probabilities(images)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.probabilities(images), expected)
