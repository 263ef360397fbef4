"""The full training of one candidate."""

import dataclasses
import io
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from absl import flags
from rich.console import Console

from jointnas_jax.command_line import parse_config
from jointnas_jax.data.source import ImageDataset, open_dataset
from jointnas_jax.errors import ConfigError, ModelError, SpaceError, StudyError, WorkdirError
from jointnas_jax.files import read_json
from jointnas_jax.models.model import load
from jointnas_jax.nets import zoo
from jointnas_jax.study import train_one as final
from jointnas_jax.study.train_one import find_candidate, train_candidate
from jointnas_jax.telemetry.status import look_at

TINY = str(Path(__file__).parent.parent / "support" / "tiny.py")


def config(*arguments):
    few = ["--config.train.epochs=2", "--config.train.winner_epochs=3"]
    return parse_config(["run", *few, *arguments], TINY, flags.FlagValues())


def train(workdir, *arguments, name="", dry=False, overwrite=False, console=None):
    console = console or Console(quiet=True)
    return train_candidate(
        config(*arguments), name, workdir, console=console, dry=dry, overwrite=overwrite
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("training")
    return workdir, train(workdir)


def test_the_saved_model_has_the_accuracy_of_the_result(trained):
    workdir, result = trained
    assert read_json(workdir / "result.json") == result
    assert result["epochs"] == 3
    assert result["accuracy"] > 0.15
    metadata = load(workdir).metadata
    assert (metadata["accuracy"], metadata["epochs"]["final"]) == (result["accuracy"], 3)
    assert metadata["recipe"] == result["candidate"]["recipe"]
    dataset = open_dataset(dataclasses.asdict(config().data))
    test = dataset.load("test")
    answers = load(workdir).probabilities(test.images).argmax(-1)
    assert (answers == test.labels).mean() == pytest.approx(result["accuracy"], abs=0.006)
    assert not (workdir / "state").exists()


def test_classes_that_cannot_be_learnt_are_named(tmp_path):
    console = Console(record=True, quiet=False, file=io.StringIO(), width=200)
    few = ("--config.data.train_split=train[:16]", "--config.train.batch_size=16")
    train(tmp_path, *few, console=console)
    labels = open_dataset(dataclasses.asdict(config().data)).load("train[:16]").labels
    missing = ", ".join(f"'{label}'" for label in sorted(set(range(10)) - set(labels.tolist())))
    assert f"warning: no training image of class {missing}: " in console.export_text()


def test_its_progress_is_seen_from_another_terminal(trained):
    workdir, result = trained
    found = look_at(workdir)
    assert (found["name"], found["state"]) == ("tiny", "finished")
    assert found["result"] == {"test": result["accuracy"], "epochs": 3}
    assert found["progress"]["stages"] == {"training": [1, 1]}


def test_a_finished_training_is_not_done_again_unless_asked_to(trained, tmp_path, monkeypatch):
    workdir, result = tmp_path / "copy", trained[1]
    shutil.copytree(trained[0], workdir)
    with monkeypatch.context() as patch:  # nor is anything read for it
        patch.setattr(final, "LocalExecutor", None)
        patch.setattr(ImageDataset, "open_splits", None)
        assert train(workdir) == result
    with pytest.raises(WorkdirError, match="another training"):
        train(workdir, "--config.seed=1")
    monkeypatch.setattr(final.LocalExecutor, "run", _fail)
    with pytest.raises(RuntimeError, match="would train"):
        train(workdir, overwrite=True)


def _fail(self, jobs):
    raise RuntimeError("would train")


class _Interrupted(BaseException):
    pass


def test_an_interrupted_training_goes_on(tmp_path, trained):
    class Impatient(Console):
        def print(self, *objects, **settings):
            text = str(objects[0])
            if "epoch 2" in text:
                raise _Interrupted

    # The training runs in a thread, which passes the interruption on.
    with pytest.raises(_Interrupted):
        train(tmp_path, "--config.study.checkpoint_minutes=0", console=Impatient(quiet=True))
    assert (tmp_path / "state").exists()
    assert not (tmp_path / "result.json").exists()
    result = train(tmp_path)
    same = {k: v for k, v in result.items() if k != "seconds"}
    assert same == {k: v for k, v in trained[1].items() if k != "seconds"}


def test_a_dry_run_prints_the_plan_and_leaves_nothing(tmp_path, capsys):
    assert train(tmp_path / "none", dry=True, console=Console()) == {}
    printed = capsys.readouterr().out
    for word in ("training FLOPs", "memory", "device-hours", "programs", "recipe"):
        assert word in printed
    assert not (tmp_path / "none").exists()


def test_a_study_is_not_overwritten_by_a_training(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(WorkdirError, match="holds a study"):
        train(tmp_path, overwrite=True)


@pytest.fixture(scope="module")
def dataset():
    return open_dataset(dataclasses.asdict(config().data))


def test_the_classifier_fits_the_dataset_and_what_the_config_fixes_holds(dataset, tmp_path):
    default = find_candidate(config(), "", dataset)
    assert default.arch.num_classes == 10
    other = dataclasses.replace(
        default,
        arch=dataclasses.replace(default.arch, num_classes=3),
        recipe=dataclasses.replace(default.recipe, lr=0.04, dropout=0.3, ema=True),
    )
    file = tmp_path / "other.json"
    file.write_text(json.dumps(other.to_dict()))
    found = find_candidate(config(), str(file), dataset)
    assert found.arch == default.arch
    assert found.recipe == dataclasses.replace(default.recipe, lr=0.04)  # dropout, ema are fixed
    # An architecture alone gets the default recipe.
    file.write_text(json.dumps(other.arch.to_dict()))
    assert find_candidate(config(), str(file), dataset) == default


def test_a_network_for_other_images_is_refused(dataset):
    with pytest.raises(SpaceError, match=r"3 channels, `digits/1.0.0` has 1"):
        find_candidate(config(), "fbnetv3_a", dataset)
    colour = dataclasses.replace(dataset, image_shape=(32, 32, 3))
    found = find_candidate(config(), "fbnetv3_a", colour)
    assert found.arch == zoo.fbnetv3("a", num_classes=10)


def test_a_trained_network_teaches_another_one(trained, tmp_path):
    teacher = f"--config.train.teacher={trained[0] / 'model'}"
    train(tmp_path, teacher)
    taught, alone = (load(folder / "model") for folder in (tmp_path, trained[0]))
    leaves = zip(*(jax.tree.leaves(m.variables) for m in (taught, alone)), strict=True)
    assert any(not np.allclose(a, b) for a, b in leaves)


def test_a_teacher_of_other_classes_is_refused(trained, tmp_path):
    with pytest.raises(ModelError, match=r"\(1, 10\), the dataset \(1, 5\)"):
        train(tmp_path, f"--config.train.teacher={trained[0] / 'model'}", "--config.data.classes=5")


@pytest.mark.parametrize(
    ("argument", "error", "message"),
    [
        ("--config.train.batch_size=401", ConfigError, "at most the 400 training images"),
        ("--config.train.teacher=nowhere", ModelError, "`nowhere` holds no model"),
        ("--config.default.lr=0.9", ConfigError, "lr"),
    ],
)
def test_bad_input_leaves_no_trace(tmp_path, argument, error, message):
    with pytest.raises(error, match=message):
        train(tmp_path / "none", argument)
    assert not (tmp_path / "none").exists()


def test_a_training_that_diverges_fails(tmp_path, dataset):
    file = tmp_path / "wild.json"
    candidate = find_candidate(config(), "", dataset)
    wild = dataclasses.replace(candidate, recipe=dataclasses.replace(candidate.recipe, lr=1e30))
    file.write_text(json.dumps(wild.to_dict()))
    with pytest.raises(StudyError, match="not finite"):
        train(tmp_path / "study", name=str(file))
