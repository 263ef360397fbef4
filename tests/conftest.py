"""Shared fixtures. Tests run on several CPU devices, whatever the machine has."""

import os

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "4")

import hypothesis
import pytest

from jointnas_jax.space import JointSpace
from jointnas_jax.space.fbnetv3 import FBNETV3

hypothesis.settings.register_profile("default", deadline=None, max_examples=50)
hypothesis.settings.load_profile("default")


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
