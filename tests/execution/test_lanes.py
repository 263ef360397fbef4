"""Few numbers of lanes for each shape, whatever rounds bring."""

import pytest

from jointnas_jax.execution.hardware import Hardware
from jointnas_jax.execution.lanes import LaneCounts, lanes_that_fit
from jointnas_jax.space import ArchSpec, Head, Stage, Stem

STAGES = (Stage(8, 1, 3, 3, 1, 1), Stage(8, 2, 3, 3, 2, 2, se=True))
ARCH = ArchSpec(8, 1, 3, Stem(8, stride=2), STAGES, Head(channels=16, expand=1))


def hardware(platform, memory, taken=0, dtype="bfloat16"):
    return Hardware(
        platform=platform,
        devices=1,
        workers=1,
        memory=memory,
        taken=taken,
        speed_factors=(1.0, 1.0),
        dtype=dtype,
        lowering="conv",
    )


def test_a_shape_keeps_to_its_lanes_and_few_more_are_foreseen():
    counts = LaneCounts(lambda shape: 64)
    assert counts.of("a", 5) == 8
    assert [counts.of("a", wanted) for wanted in (1, 3, 8, 9, 16, 5)] == [8] * 6
    assert counts.of("b", 2) == 2


def test_many_more_candidates_are_worth_another_program():
    counts = LaneCounts(lambda shape: 64)
    found = [counts.of("a", wanted) for wanted in (1, 2, 3, 12, 1, 5, 64, 1000)]
    assert found == [1, 1, 4, 16, 1, 16, 64, 64]
    assert len(set(found)) <= 4  # powers of four up to 64


def test_lanes_never_exceed_what_fits():
    counts = LaneCounts(lambda shape: 5)
    assert [counts.of("a", wanted) for wanted in (100, 3, 5)] == [5, 5, 5]


def test_what_did_not_fit_is_not_tried_again():
    counts = LaneCounts(lambda shape: 64)
    assert counts.of("a", 12) == 16
    counts.limit("a", 8)
    counts.limit("a", 4)
    assert [counts.of("a", wanted) for wanted in (12, 64, 1)] == [4, 4, 4]
    assert counts.most("a") == 4
    assert counts.of("b", 64) == 64


@pytest.mark.parametrize("lanes", [1, 7, 40])
def test_memory_decides_how_many_lanes_fit(lanes):
    one, images = hardware("gpu", 0).training_bytes(ARCH, 16), 10**6
    memory = int(((lanes + 0.5) * one + images) / 0.8)
    assert lanes_that_fit(hardware("gpu", memory, images), ARCH, 16) == lanes
    assert lanes_that_fit(hardware("gpu", memory), ARCH, 16) > lanes
    assert lanes_that_fit(hardware("gpu", memory, images, "float32"), ARCH, 32) < max(2, lanes)


def test_one_lane_on_cpu_where_memory_is_unknown_and_where_not_even_one_seems_to_fit():
    for platform, memory in (("cpu", 2**40), ("gpu", 0), ("tpu", 1)):
        assert lanes_that_fit(hardware(platform, memory), ARCH, 16) == 1
