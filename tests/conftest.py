"""Shared fixtures. Tests run on several CPU devices, whatever the machine has."""

import os
from pathlib import Path

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "4")
# Its threads spin where two processes of tests share the cores: a small fit took 200 times as long.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import gc

import hypothesis
import jax
import pytest

from jointnas_jax.space import JointSpace
from jointnas_jax.space.fbnetv3 import FBNETV3

hypothesis.settings.register_profile("default", deadline=None, max_examples=50)
hypothesis.settings.load_profile("default")


@pytest.fixture(scope="module", autouse=True)
def room_for_programs():
    """Lets go of the programs of earlier files, which XLA:CPU has no more maps for at last.

    See `runtime/memory_maps.py`.
    """
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def paper_description() -> dict:
    return FBNETV3


@pytest.fixture(scope="session")
def paper_space(paper_description) -> JointSpace:
    return JointSpace.from_config(paper_description, image_channels=3, num_classes=1000)


@pytest.fixture(scope="session")
def tiny_description() -> dict:
    """A space with every kind of knob, whose networks compile in a second or two."""
    return dict(
        resolution=[8, 12],
        stem=dict(channels=(8, 16, 8), stride=1),
        stages=(
            dict(
                kernel=[3, 5],
                expand=dict(first=(1, 3), rest=[2, 3]),
                channels=[8, 16],
                depth=(1, 2),
                activation=["hswish", "relu"],
            ),
            dict(
                kernel=dict(first=[3, 5], rest=3),
                expand="=stage1_expand",
                channels=[16, 24],
                stride=[1, 2],
                depth=(1, 2),
                se=[False, True],
            ),
        ),
        head=dict(channels=32, expand=2),
        recipe=dict(
            lr=(0.01, 0.05, 0.01),
            optimizer=["sgd", "rmsprop"],
            ema=[False, True],
            dropout=(0.0, 0.2, 0.1),
        ),
    )


@pytest.fixture(scope="session")
def tiny_space(tiny_description) -> JointSpace:
    return JointSpace.from_config(tiny_description, image_channels=1, num_classes=10)


@pytest.fixture(scope="session")
def finished_study(tmp_path_factory):
    """The workdir of a finished study that did not train: two winners of two seeds each.

    Its images are larger than the networks', and not square; seed 0 of the second winner failed.
    """
    import jax
    import numpy as np

    from jointnas_jax.command_line import load_config
    from jointnas_jax.config import check_config
    from jointnas_jax.files import write_json
    from jointnas_jax.nets.init import initial_variables
    from jointnas_jax.space import ArchSpec, Head, Stage, Stem
    from jointnas_jax.space.recipe import Recipe
    from jointnas_jax.storage import workdir as workdirs
    from jointnas_jax.storage.weights import save_variables

    stages = (
        Stage(8, 2, kernel_first=5, expand_first=1, expand_rest=2, se=True, activation="swish"),
        Stage(16, 1, expand_first=3, stride=2, activation="relu"),
    )
    arch = ArchSpec(12, 3, 4, Stem(8), stages, Head(16, expand=1))

    def winner(validation, test):
        statistics = lambda seeds: {"seeds": seeds, "mean": None, "std": None}
        if None not in test:
            statistics = lambda seeds: {"seeds": seeds, "mean": np.mean(seeds), "std": 0.01}
        return {
            "source": "fine stage",
            "candidate": {"arch": arch.to_dict(), "recipe": Recipe(lr=0.03).to_dict()},
            "costs": {"flops": 1234, "params": 567},
            "within_budget": True,
            "validation": statistics(validation),
            "test": statistics(test),
        }

    reference = winner([0.8, 0.82], [0.7, 0.72]) | {"source": "default candidate"}
    workdir = tmp_path_factory.mktemp("study")
    digits = str(Path(__file__).parent.parent / "configs" / "digits.py")
    workdirs.start(workdir, check_config(load_config(digits, ["test"])))
    result = {
        "name": "shapes",
        "mode": "joint",
        "seed": 7,
        "dataset": {
            "name": "shapes/1.0.0",
            "image_shape": [20, 30, 3],
            "pixels": {"mean": [120.0, 110.0, 100.0], "std": [60.0, 50.0, 40.0]},
            "labels": ["cat", "dog", "eel", "fox"],
        },
        "budget": {"flops": 60_000},
        "epochs": {"search": 5, "final": 20},
        "winners": [winner([0.91, 0.93], [0.85, 0.87]), winner([0.9, 0.9], [None, 0.81])],
        "references": {"default": reference},
        "comparison": {"default": {"verdict": "beat"}},
        "trials": 42,
        "seconds": {"coarse stage": 60.0, "retraining": 30.0},
    }
    write_json(workdir / "result.json", result, digest=True)
    rng = np.random.default_rng(0)
    for rank, seed in ((0, 0), (0, 1), (1, 1)):
        variables = initial_variables(arch, jax.random.key(10 * rank + seed))
        # Other than fresh statistics and scales are, so that none can be left out unseen.
        noise = lambda x: x + 0.1 * rng.random(x.shape, np.float32)
        variables = jax.tree.map(noise, variables)
        save_variables(workdir / "weights" / f"winner{rank}" / f"seed{seed}", variables)
    return workdir


@pytest.fixture(scope="session")
def study_images():
    """Images as the dataset of `finished_study` stores them, `uint8[5, 20, 30, 3]`."""
    import numpy as np

    return np.random.default_rng(1).integers(0, 256, (5, 20, 30, 3), np.uint8)
