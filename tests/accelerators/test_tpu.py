"""Programs compile for TPUs, by their own compiler, on a machine without one.

It comes with the extra `tpu`. Nothing is executed: what is said is what the compiler says.
"""

import os
import re

import jax
import numpy as np
import pytest

pytest.importorskip("libtpu")

from jointnas_jax.config import TrainConfig
from jointnas_jax.data.augment import Augmentation
from jointnas_jax.nets.cost import training_bytes
from jointnas_jax.space import ArchSpec, Candidate, Head, Recipe, Stage, Stem
from jointnas_jax.train.feed import EvalData, Feed, TrainData
from jointnas_jax.train.program import TrainProgram
from jointnas_jax.train.step import PixelStats

ARCH = ArchSpec(
    8, 1, 10, Stem(8, stride=1), (Stage(16, 2, 3, 3, 2, 2, se=True),), Head(channels=32, expand=2)
)
BATCH = 32
# Of a v5e chip.
MEMORY = 16e9


@pytest.fixture(scope="module")
def chips():
    """Four v5e chips that are not there."""
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    from jax.experimental import topologies

    return topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices


@pytest.fixture(scope="module")
def feed():
    stats = PixelStats(np.zeros(1, np.float32), np.ones(1, np.float32))
    images, labels = np.zeros((256, 8, 8, 1), np.uint8), np.zeros(256, np.int32)
    data = TrainData(images=images, labels=labels, members=np.ones(256, bool), stats=stats)
    return Feed(data, EvalData.of(images[:64], labels[:64], stats))


def compiled(devices, feed, **settings):
    """The program of an epoch."""
    program = TrainProgram(
        ARCH,
        TrainConfig(batch_size=BATCH),
        augmentation=Augmentation(),
        devices=devices,
        **settings,
    )
    program.compile(Candidate(ARCH, Recipe()), feed)
    (epoch,) = program._epoch._compiled.values()
    return epoch


@pytest.mark.slow
def test_an_exact_program_compiles_and_fits(chips, feed):
    epoch = compiled(chips[:1], feed)
    memory = epoch.memory_analysis()
    needed = memory.temp_size_in_bytes + memory.argument_size_in_bytes
    assert needed < MEMORY
    # Tiles of 8 x 128 pad small maps: what is planned is no more than that.
    assert training_bytes(ARCH, BATCH, 4) < 4 * needed


@pytest.mark.slow
def test_candidates_on_four_chips_do_not_wait_for_each_other(chips, feed):
    text = compiled(chips, feed).as_text()
    assert not re.search(r"all-reduce|all-gather|collective-permute", text)


@pytest.mark.slow
def test_lanes_share_a_chip(chips, feed):
    epoch = compiled(chips[:1], feed, lanes_per_device=4)
    assert epoch.memory_analysis().temp_size_in_bytes < MEMORY
    assert jax.default_backend() == "cpu"  # nothing asks it
