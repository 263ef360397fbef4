import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jointnas_jax.errors import SpaceError
from jointnas_jax.nets import zoo
from jointnas_jax.nets.cost import count
from jointnas_jax.nets.scaling import scale, scale_to
from jointnas_jax.space import ArchSpec


def test_scaling_by_one_changes_nothing():
    arch = zoo.fbnetv3("e")
    assert scale(arch) == arch


def test_a_is_b_at_a_lower_resolution():
    assert scale(zoo.fbnetv3("b"), resolution=224 / 248) == zoo.fbnetv3("a")


@settings(max_examples=20)
@given(st.sampled_from("abcdefg"), st.floats(1e8, 1e10))
def test_a_scaled_network_uses_the_flops_that_it_gets(letter, flops):
    arch = scale_to(zoo.fbnetv3(letter), int(flops))
    assert 0.8 * flops < count(arch).flops <= flops


def test_factors_act_on_what_they_name():
    arch = zoo.fbnetv3("d")
    wide, deep, fine = scale(arch, width=1.5), scale(arch, depth=2), scale(arch, resolution=1.2)
    assert [s.channels for s in wide.stages] == [24, 40, 64, 112, 192, 312, 360]
    assert [s.depth for s in deep.stages] == [4, 12, 10, 10, 14, 12, 1]
    assert fine.resolution == 296
    assert (wide.resolution, deep.resolution, fine.stages) == (248, 248, arch.stages)


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        (dict(width=0), "above 0"),
        (dict(depth=-1.0), "above 0"),
        (dict(width=float("nan")), "above 0 .* got nan"),
        (dict(resolution=float("inf")), "at most 100, got .*inf"),
        (dict(width=1e300), "at most 100"),
        (dict(width=99.0), "`stage5_channels` must be .* 8,192"),
        (dict(resolution=0.05), "at least the stride"),
        (dict(resolution=0.2), "leaves nothing of the map after stage 6"),
    ],
)
def test_impossible_factors_are_refused(factors, message):
    with pytest.raises(SpaceError, match=message):
        scale(zoo.fbnetv3("a"), **factors)


@pytest.mark.parametrize("flops", [1, 3_000_000, 10**15])
def test_flops_that_no_sound_network_has_are_refused(flops):
    with pytest.raises(SpaceError, match=r"cannot be scaled|must be an integer from 1 to"):
        scale_to(zoo.fbnetv3("a"), flops)


@given(st.sampled_from("abcdefg"), st.floats(0.02, 2))
def test_every_map_of_a_scaled_network_has_a_position(letter, resolution):
    try:
        arch = scale(zoo.fbnetv3(letter), resolution=resolution)
    except SpaceError:
        return
    assert min(arch.sides()) >= 1
    assert ArchSpec.from_dict(arch.to_dict()) == arch
