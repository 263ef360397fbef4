"""Envelopes hold what they say, and padding loses nothing."""

import jax
import numpy as np
import pytest
from envelopes import envelope_of_space
from hypothesis import given
from hypothesis import strategies as st

from jointnas_jax.execution.packing import frame
from jointnas_jax.nets.envelope import Switches, cut_variables, pad_variables
from jointnas_jax.nets.init import initial_variables, variable_shapes, zero_variables
from jointnas_jax.nets.network import Network


def _random(space, seed):
    return space.decode(space.sample(np.random.default_rng(seed), 1)[0]).arch


@given(st.integers(0, 10_000))
def test_the_envelope_of_a_space_holds_every_architecture_of_the_frame(paper_space, seed):
    arch, other = _random(paper_space, seed), _random(paper_space, seed + 1)
    envelope = envelope_of_space(paper_space, arch)
    assert envelope.holds(arch)
    assert envelope.holds(other) == (frame(other) == frame(arch))
    largest = {b.name: b for b in envelope.blocks()}
    for b in arch.blocks():
        e = largest[b.name]
        assert e.in_channels >= b.in_channels
        assert e.hidden >= b.hidden
        assert e.out_channels >= b.out_channels
        assert e.kernel >= b.kernel
        assert e.se_channels >= b.se_channels
        assert e.stride == b.stride
        assert e.expands >= b.expands
        assert e.residual >= b.residual


@given(st.integers(0, 10_000))
def test_cutting_undoes_padding_and_padding_is_zero(tiny_space, seed):
    arch = _random(tiny_space, seed)
    envelope = envelope_of_space(tiny_space, arch)
    own = initial_variables(arch, jax.random.key(seed))
    padded = pad_variables(own, zero_variables(envelope))
    total = lambda tree: sum(np.count_nonzero(leaf) for leaf in jax.tree.leaves(tree))
    assert total(padded) == total(own)
    jax.tree.map(np.testing.assert_array_equal, cut_variables(padded, zero_variables(arch)), own)


def test_a_kernel_of_3_sits_in_the_middle_of_5(tiny_space):
    small = np.arange(9.0).reshape(3, 3, 1)
    padded = pad_variables({"kernel": small}, {"kernel": np.zeros((5, 5, 2))})["kernel"]
    np.testing.assert_array_equal(padded[1:4, 1:4, :1], small)
    assert padded.sum() == small.sum()


@given(st.integers(0, 10_000))
def test_switches_say_what_the_architecture_is(tiny_space, seed):
    arch = _random(tiny_space, seed)
    envelope = envelope_of_space(tiny_space, arch)
    switches = Switches.of(arch, envelope)
    own = {b.name: b for b in arch.blocks()}
    for i, b in enumerate(envelope.blocks()):
        assert switches.present[i] == (b.name in own)
        if b.name in own:
            mine = own[b.name]
            found = (switches.expands[i], switches.residual[i], switches.se[i] > 0)
            assert found == (mine.expands, mine.residual, mine.se_channels > 0)
            assert (switches.kernel[i], switches.hidden[i]) == (mine.kernel, mine.hidden)
        else:
            assert (switches.hidden[i], switches.residual[i]) == (0, 1)
    np.testing.assert_allclose(switches.depth.max(), 1.0)


@pytest.mark.parametrize("seed", range(3))
def test_the_written_out_shapes_are_those_of_flax(tiny_space, seed):
    arch = _random(tiny_space, seed)
    for shape in (arch, envelope_of_space(tiny_space, arch)):
        images = np.zeros((1, arch.resolution, arch.resolution, arch.image_channels))
        flax = jax.eval_shape(Network(shape, "matmul").init, jax.random.key(0), images)
        ours = variable_shapes(shape)
        is_shape = lambda v: isinstance(v, tuple)
        assert jax.tree.map(lambda leaf: leaf.shape, flax) == jax.tree.map(
            tuple, ours, is_leaf=is_shape
        )


def test_draws_of_a_block_do_not_depend_on_the_others(tiny_space):
    values = tiny_space.values(np.zeros(len(tiny_space.knobs), np.int32))
    archs = [
        tiny_space.decode(tiny_space.vector_from_values(values | {"stage1_depth": depth})).arch
        for depth in (1, 2)
    ]
    a, b = (initial_variables(arch, jax.random.key(3))["params"] for arch in archs)
    assert "stage1_block1" in b
    jax.tree.map(np.testing.assert_array_equal, a["stage2_block0"], b["stage2_block0"])
