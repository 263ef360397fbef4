"""Latency as a cost: a sum over pieces, exact on the device."""

import dataclasses
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jointnas_jax.nets import zoo
from jointnas_jax.nets.cost import COSTS, CostTable
from jointnas_jax.nets.latency import (
    BLOCK,
    HEAD,
    LATENCY,
    STEM,
    latency_of,
    pieces_of,
    pieces_of_space,
    with_latency,
)
from jointnas_jax.space import ArchSpec, Head, Stage, Stem


def made_up(key):
    """Nanoseconds that have nothing to do with the piece: neither monotone nor smooth."""
    return 1 + zlib.crc32(key.encode()) % 10_000_019


@pytest.fixture(scope="module", params=["tiny_space", "paper_space"])
def timed(request):
    """A space, its pieces' times, and its costs with the latency."""
    space = request.getfixturevalue(request.param)
    times = {key: made_up(key) for key in pieces_of_space(space)}
    return space, times, with_latency(CostTable.of(space), space, times)


def by_blocks(arch):
    """The latency of a network, summed up along its blocks as `ArchSpec` lists them."""
    stem, head, sides = arch.stem, arch.head, arch.sides()
    total = made_up(
        f"stem {arch.resolution} {arch.image_channels}>{stem.channels} k{stem.kernel} "
        f"s{stem.stride} {stem.activation}"
    )
    for b in arch.blocks():
        size = sides[b.stage - (b.index == 0)]
        total += made_up(
            f"block {size} {b.in_channels}>{b.hidden}>{b.out_channels} k{b.kernel} s{b.stride} "
            f"t{b.trim} se{b.se_channels} {b.activation}"
        )
    return total + made_up(
        f"head {sides[-1]} {b.out_channels}>{arch.head_hidden}>{head.channels}>"
        f"{arch.num_classes} {head.activation}"
    )


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000))
def test_the_latency_on_the_device_is_the_sum_over_blocks_to_the_nanosecond(timed, seed):
    space, times, costs = timed
    vectors = space.sample(np.random.default_rng(seed), 20)
    expected = [by_blocks(space.decode(v).arch) for v in vectors]
    assert [latency_of(space.decode(v).arch, times) for v in vectors] == expected
    assert costs(vectors)[:, costs.names.index(LATENCY)].tolist() == expected
    limbs = np.asarray(jax.jit(costs.limbs([LATENCY]))(jnp.asarray(vectors))).astype(np.int64)
    assert ((limbs[:, 0, 0] << 16) + limbs[:, 0, 1]).tolist() == expected


@given(seed=st.integers(0, 10_000), names=st.sampled_from([("latency",), ("flops", "latency")]))
def test_the_test_of_a_budget_on_the_device_is_exact(timed, seed, names):
    space, _, costs = timed
    rng = np.random.default_rng(seed)
    vectors = space.sample(rng, 50)
    found = costs(vectors)
    columns = [costs.names.index(name) for name in names]
    # At, just below and just above what a candidate costs.
    limits = [int(rng.choice(found[:, c]) + rng.integers(-1, 2)) for c in columns]
    expected = (found[:, columns] <= limits).all(axis=1)
    budget = dict(zip(names, limits, strict=True))
    np.testing.assert_array_equal(costs.within(budget)(jnp.asarray(vectors)), expected)


def test_counted_costs_stay_as_they_are(timed):
    space, _, costs = timed
    counted = CostTable.of(space)
    vectors = space.sample(np.random.default_rng(0), 100)
    assert costs.names == (*COSTS, LATENCY)
    np.testing.assert_array_equal(costs(vectors)[:, :-1], counted(vectors))
    for names in (["flops"], ["params", "flops"]):
        for a, b in ((costs.limbs, counted.limbs), (costs.logs, counted.logs)):
            np.testing.assert_array_equal(a(names)(vectors), b(names)(vectors))
        both = vectors[:50], vectors[50:]
        np.testing.assert_array_equal(costs.shrink(names)(*both), counted.shrink(names)(*both))


def test_a_space_has_the_pieces_of_its_networks_and_no_others(tiny_space):
    pieces = pieces_of_space(tiny_space)
    sample = tiny_space.sample(np.random.default_rng(0), 3000)
    archs = {tiny_space.decode(vector).arch for vector in sample}
    used = {piece.key for arch in archs for piece, count in pieces_of(arch) if count}
    assert used == set(pieces)
    assert all(piece.key == key for key, piece in pieces.items())


def test_a_published_network_has_its_stem_blocks_and_head():
    arch = zoo.fbnetv3("a")
    pieces = [*pieces_of(arch)]
    assert [p.kind for p, _ in pieces] == [STEM, *[BLOCK] * 2 * len(arch.stages), HEAD]
    assert sum(n for p, n in pieces if p.kind == BLOCK) == len([*arch.blocks()])
    assert any("t1" in p.key for p, _ in pieces)  # a convolution that is padded less


SMALL = ArchSpec(8, 3, 10, Stem(8), (Stage(8, 2, se=True),), Head(16, 2))
STAGE = SMALL.stages[0]


@pytest.mark.parametrize(
    "other",
    [
        dataclasses.replace(SMALL, resolution=12),
        dataclasses.replace(SMALL, image_channels=1),
        dataclasses.replace(SMALL, num_classes=11),
        dataclasses.replace(SMALL, stem=Stem(16)),
        dataclasses.replace(SMALL, stem=Stem(8, kernel=5)),
        dataclasses.replace(SMALL, stem=Stem(8, activation="relu")),
        dataclasses.replace(SMALL, head=Head(24, 2)),
        dataclasses.replace(SMALL, head=Head(16, 3)),
        dataclasses.replace(SMALL, head=Head(16, 2, "relu")),
        *(
            dataclasses.replace(SMALL, stages=(dataclasses.replace(STAGE, **change),))
            for change in (
                dict(channels=16),
                dict(kernel_first=5),
                dict(kernel_rest=5),
                dict(expand_first=3),
                dict(expand_rest=3),
                dict(stride=2),
                dict(trim=1),
                dict(se=False),
                dict(activation="swish"),
            )
        ),
    ],
    ids=str,
)
def test_whatever_changes_a_network_changes_the_key_of_a_piece(other):
    keys = lambda arch: [piece.key for piece, _ in pieces_of(arch)]
    assert keys(other) != keys(SMALL)


def test_pieces_of_networks_that_differ_elsewhere_are_shared():
    deeper = dataclasses.replace(SMALL, stages=(*SMALL.stages, Stage(8, 1)))
    keys = lambda arch: {piece.key for piece, count in pieces_of(arch) if count}
    assert keys(SMALL) < keys(deeper)
