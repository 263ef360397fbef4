"""Effects of knobs are found again where they are known."""

import numpy as np
import pytest

from benchmarks import effects
from jointnas_jax.space import JointSpace

SPACE = dict(
    resolution=[8, 16],
    stem=dict(channels=(8, 16, 4), stride=1),
    stages=(dict(kernel=[3, 5], expand=1, channels=8, depth=1, stride=1),),
    head=dict(expand=1, channels=16),
    recipe=dict(lr=(0.01, 0.05, 0.01), optimizer=["sgd", "rmsprop"]),
)


@pytest.fixture(scope="module")
def table():
    """Errors whose logarithm falls with the learning rate and the kernel, and noise."""
    space, rng = (
        JointSpace.from_config(SPACE, image_channels=1, num_classes=2),
        np.random.default_rng(0),
    )
    rows = []
    for vector in space.sample(rng, 400):
        values = space.values(vector)
        worth = 20 * values["lr"] + 0.5 * (values["stage1_kernel"] == 5) + 0.05 * rng.normal()
        error = float(np.exp(-2 - worth)) - 0.02
        curve = [[0.0] * effects._SCORE + [error]]
        rows.append(
            {
                "vector": vector.tolist(),
                "costs": {"flops": int(rng.integers(1000, 2000))},
                "reason": None,
                "fold": 0,
                "ema": False,
                "curves": {"raw": curve, "test_raw": curve},
            }
        )
    space_in_file = dict(SPACE, stem=dict(channels={"range": [8, 16, 4]}, stride=1))
    space_in_file["recipe"] = dict(lr={"range": [0.01, 0.05, 0.01]}, optimizer=["sgd", "rmsprop"])
    return {"space": space_in_file, "trainings": rows}


def test_effects_are_told_by_size(table):
    found = effects.effects(table)
    # From .01 to .05 the first rises by .8, the second by .5.
    assert found["lr"][0] / found["stage1_kernel = 5"][0] == pytest.approx(0.8 / 0.5, rel=0.05)
    for name in ("FLOPs", "optimizer = rmsprop", "resolution = 16", "lr squared"):
        size, error = found[name]
        assert abs(size) < 4 * error
