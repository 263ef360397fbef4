"""The ImageNet configs, on a stand-in with few images of the same form."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

ROOT = Path(__file__).parent.parent.parent
SIGNS = ROOT.parent / "shared" / "data" / "tfds" / "sign_digits"
# One epoch of a few steps; everything else is the config's.
FEW = [
    *("--config.train.epochs=1", "--config.train.winner_epochs=1", "--config.train.batch_size=8"),
    *("--config.train.fast_compile", "--config.data.memory_gb=0"),
]
SEARCH = [
    *("--config.data.val_images=8", "--config.search.pool_size=64", "--config.search.rounds=2"),
    *("--config.search.per_round=2", "--config.search.finalists=1", "--config.study.seeds=1"),
    *("--config.search.evolution.population=64", "--config.predictor.pretrain_samples=512"),
]


def command(script, *arguments, devices=2):
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / script), *arguments],
        cwd=ROOT,
        env=dict(os.environ) | {"JAX_NUM_CPU_DEVICES": str(devices)},
        capture_output=True,
        text=True,
        timeout=1700,
        check=False,
    )


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    """Of colour photographs where they are at hand, else of digits."""
    folder = tmp_path_factory.mktemp("stand_in")
    source = [f"--source={SIGNS}"] if SIGNS.exists() else []
    few = ("--train=160", "--validation=16")
    done = command("make_stand_in.py", f"--out={folder}", *source, *few)
    assert done.returncode == 0, done.stderr
    assert ("sign_digits" if source else "digits") in done.stdout
    return f"--config.data.dir={folder}"


def test_a_stand_in_has_the_features_of_imagenet(stand_in):
    builder = tfds.builder_from_directory(next(Path(stand_in.split("=")[1]).glob("imagenet2012/*")))
    assert (builder.name, builder.info.file_format.value) == ("imagenet2012", "array_record")
    features = builder.info.features
    assert set(features) == {"image", "label", "file_name"}
    assert features["image"].shape == (None, None, 3)
    assert features["label"].num_classes == 1000
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {
        "train": 160,
        "validation": 16,
    }
    assert features["image"]._encoding_format == "jpeg"
    examples = [*builder.as_data_source("train")]
    assert len({e["image"].shape for e in examples}) > 100
    assert len({e["file_name"] for e in examples}) == 160
    labels = np.array([e["label"] for e in examples])
    assert 0 <= labels.min() < 100 < 900 < labels.max() < 1000
    if SIGNS.exists():  # real photographs: neither grey nor empty
        assert min(np.ptp(e["image"]) for e in examples) > 30
        assert any((e["image"][..., 0] != e["image"][..., 2]).any() for e in examples)


def test_a_stand_in_is_not_written_over_another(stand_in):
    folder = stand_in.split("=")[1]
    done = command("make_stand_in.py", f"--out={folder}")
    assert done.returncode == 2
    assert "exists" in done.stderr


@pytest.mark.parametrize(
    ("name", "pool"), [("joint", 25_000), pytest.param("autotrain", 20_000, marks=pytest.mark.slow)]
)
def test_the_search_is_planned(stand_in, name, pool):
    config = f"--config=configs/imagenet_{name}.py"
    done = command("run_joint.py", config, stand_in, "--dry_run", devices=4)
    assert done.returncode == 0, done.stderr
    for text in ("192 candidates in 4 rounds, 150 epochs", "200 classes", "device-hours", "GB"):
        assert text in done.stdout
    assert f"  pool            {pool:,} candidates within the budget\n" in done.stdout


def test_the_final_training_is_planned(stand_in):
    config = "--config=configs/imagenet_train.py"
    done = command("train_candidate.py", config, stand_in, "--candidate=fbnetv3_b", "--dry_run")
    assert done.returncode == 0, done.stderr
    for text in ("400 epochs", "1000 classes", "461,550,136", "0.0066115", "device-hours"):
        assert text in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 4])
@pytest.mark.parametrize("name", ["joint", "autotrain"])
def test_the_search_runs(stand_in, tmp_path, name, devices):
    config = f"--config=configs/imagenet_{name}.py"
    workdir = f"--workdir={tmp_path}"
    done = command("run_joint.py", config, stand_in, workdir, *FEW, *SEARCH, devices=devices)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert [r["trained"] for r in result["rounds"]] == [2, 2]
    assert sum(r["failed"] for r in result["rounds"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 4])
def test_the_final_training_runs_with_a_teacher(stand_in, tmp_path, devices):
    code = (
        "import jax; from pathlib import Path; from jointnas_jax.nets import zoo;"
        "from jointnas_jax.nets.init import initial_variables;"
        "from jointnas_jax.models.model import Model, numbered, save_model;"
        "arch = zoo.fbnetv3('a');"
        "variables = initial_variables(arch, jax.random.key(0));"
        "model = Model(arch=arch, variables=variables, mean=(120.0,) * 3, std=(60.0,) * 3,"
        "    image_size=(256, 256), crop=1.0, labels=numbered(1000));"
        f"save_model(model, Path('{tmp_path / 'teacher'}'))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    done = command(
        "train_candidate.py",
        *("--config=configs/imagenet_train.py", stand_in, "--candidate=fbnetv3_b", *FEW),
        *(f"--workdir={tmp_path / 'final'}", f"--config.train.teacher={tmp_path / 'teacher'}"),
        devices=devices,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "final" / "result.json").read_text())
    assert result["costs"]["flops"] == 461_550_136
    assert result["epochs"] == 1
