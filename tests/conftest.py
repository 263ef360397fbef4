"""Shared fixtures. Tests run on several CPU devices, whatever the machine has."""

import os

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "4")

import hypothesis
import pytest

from jointnas_jax.space import JointSpace

hypothesis.settings.register_profile("default", deadline=None, max_examples=50)
hypothesis.settings.load_profile("default")


@pytest.fixture(scope="session")
def paper_description() -> dict:
    """FBNetV3's space (facts of arXiv 2006.02049 and the official networks)."""
    expand = dict(first=(4, 7), rest=(2, 5))
    return dict(
        resolution=(224, 272, 8),
        stem=dict(channels=(16, 24, 2)),
        stages=(
            dict(kernel=[3, 5], expand=1, channels=(16, 24, 2), depth=(1, 4)),
            dict(kernel=[3, 5], expand=expand, channels=(20, 32, 4), depth=(4, 7), stride=2),
            dict(
                kernel=[3, 5], expand=expand, channels=(24, 48, 4), depth=(4, 7), stride=2, se=True
            ),
            dict(kernel=[3, 5], expand=expand, channels=(56, 84, 4), depth=(4, 8), stride=2),
            dict(
                kernel=[3, 5],
                expand="=stage4_expand",
                channels=(96, 144, 4),
                depth=(6, 10),
                se=True,
            ),
            dict(
                kernel=[3, 5],
                expand=(4, 7),
                channels=(180, 224, 4),
                depth=(5, 9),
                stride=2,
                se=True,
            ),
            dict(kernel=[3, 5], expand=6, channels=(180, 224, 4), depth=1, se=True),
        ),
        head=dict(channels=1984, expand=6),
        recipe=dict(
            lr=(0.02, 0.03, 0.001),
            optimizer=["rmsprop", "sgd"],
            ema=[True, False],
            dropout=(0.01, 0.31, 0.01),
            stochastic_depth=(0.1, 0.31, 0.01),
            mixup=(0.0, 0.41, 0.01),
            weight_decay=(7e-6, 21e-6, 1e-6),
        ),
    )


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
