import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jointnas_jax.errors import SpaceError
from jointnas_jax.space.arch import ArchSpec, round8


@given(st.floats(1, 5000))
def test_round8_gives_a_multiple_of_8_that_keeps_95_percent(width):
    rounded = round8(width)
    assert rounded % 8 == 0
    assert rounded >= 0.95 * width
    assert rounded <= max(8, width + 8)


def test_blocks_chain_and_the_first_of_a_stage_has_the_stride(tiny_space):
    for vector in tiny_space.sample(_rng(), 100):
        arch = tiny_space.decode(vector).arch
        blocks = list(arch.blocks())
        assert len(blocks) == sum(s.depth for s in arch.stages)
        assert blocks[0].in_channels == arch.stem.channels
        assert all(a.out_channels == b.in_channels for a, b in itertools.pairwise(blocks))
        assert [b.stride for b in blocks if b.name.endswith("block0")] == [
            s.stride for s in arch.stages
        ]
        assert all(b.stride == 1 for b in blocks if not b.name.endswith("block0"))


def test_json_round_trip(tiny_space):
    for vector in tiny_space.sample(_rng(), 50):
        arch = tiny_space.decode(vector).arch
        assert ArchSpec.from_dict(arch.to_dict()) == arch


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["stages"][0].update(kernel_first=4), "stage1_kernel_first.*odd.*4"),
        (lambda d: d["stages"][0].update(expand_rest=0.5), "stage1_expand_rest.*from 1"),
        (lambda d: d["stages"][0].update(expand_rest=float("nan")), "stage1_expand_rest"),
        (lambda d: d["stages"][1].update(se=1), "stage2_se.*true or false"),
        (lambda d: d["stages"][1].update(stride=3), "stage2_stride.*1 or 2"),
        (lambda d: d["stages"][1].update(kernal=3), "no field `kernal`"),
        (lambda d: d["stem"].pop("channels"), "stem lacks.*channels"),
        (lambda d: d.update(stages=[]), "non-empty list"),
        (lambda d: d.update(stages=d["stages"] * 50), "up to 32 stages"),
        (lambda d: d["stages"][1].update(channels=2**70), "stage2_channels.*8,192.*1180591620"),
        (lambda d: d["stages"][1].update(depth=10**5000), "stage2_depth.*integer of 16610 bits"),
        (lambda d: d["stages"][0].update(kernel_rest=33), "stage1_kernel_rest.*1 to 31, got 33"),
        (lambda d: d["stages"][0].update(expand_first=1e300), "stage1_expand_first.*1 to 32"),
        (lambda d: d.update(resolution=4097), "resolution.*1 to 4,096"),
        (lambda d: d["stages"][0].update(trim=9), "leaves nothing of the map after stage 1"),
        (lambda d: d["stages"][1].update({3: 4}), "no field `3`"),
        (lambda d: d.update(num_classes="ten"), "num_classes.*an integer from 1"),
        (lambda d: d.update(resolution=True), "resolution.*an integer from 1"),
    ],
)
def test_a_bad_architecture_is_refused_by_field(tiny_space, change, message):
    data = tiny_space.decode(tiny_space.sample(_rng(), 1)[0]).arch.to_dict()
    change(data)
    with pytest.raises(SpaceError, match=message):
        ArchSpec.from_dict(data)


def test_slots_hold_every_field(tiny_space):
    arch = tiny_space.decode(tiny_space.sample(_rng(), 1)[0]).arch
    slots = arch.to_slots()
    assert ArchSpec.from_slots(slots, arch.image_channels, arch.num_classes) == arch
    assert slots["stage2_stride"] == arch.stages[1].stride
    assert len(slots) == 1 + len(dataclasses.fields(arch.stem)) + len(
        dataclasses.fields(arch.head)
    ) + 2 * len(dataclasses.fields(arch.stages[0]))


def _rng():
    import numpy as np

    return np.random.default_rng(0)
