"""Winners of a front: its members, and such that they beat within the noise."""

import pytest

from jointnas_jax.study.contender import Contender
from jointnas_jax.study.stages import _nearly_members


class Network:
    """A candidate of some cost."""

    def __init__(self, flops):
        self.costs = {"flops": flops}


def contender(flops, scores):
    return Contender("", Network(flops), 0.0, scores=scores)


# Deviations of 0.01 with three seeds: a standard error of the difference of 0.0082.
SPREAD = (-0.01, 0.0, 0.01)


@pytest.mark.parametrize(
    ("flops", "mean", "comes"),
    [
        (200, 0.795, True),  # nearly as good, and dearer
        (200, 0.79, False),
        (100, 0.70, False),  # as cheap, and worse
        (50, 0.70, True),  # cheaper than all members: nothing beats it
    ],
)
def test_what_is_beaten_within_the_noise_comes_too(flops, mean, comes):
    around = lambda middle: [middle + d for d in SPREAD]
    sound = [contender(100, around(0.8)), contender(flops, around(mean))]
    assert _nearly_members(sound, [0], "flops") == ([1] if comes else [])


def test_the_nearest_come_first():
    around = lambda middle: [middle + d for d in SPREAD]
    sound = [contender(100 + i, around(0.8 - d)) for i, d in enumerate((0, 0.006, 0.001, 0.05))]
    assert _nearly_members(sound, [0], "flops") == [2, 1]


def test_one_seed_says_nothing_of_the_noise():
    sound = [contender(100, [0.8]), contender(200, [0.8])]
    assert _nearly_members(sound, [0], "flops") == []
