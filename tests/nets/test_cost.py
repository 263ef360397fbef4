import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jointnas_jax.errors import SpaceError
from jointnas_jax.nets import zoo
from jointnas_jax.nets.cost import (
    COSTS,
    CostTable,
    count,
    inference_bytes,
    to_limbs,
    training_bytes,
)
from jointnas_jax.nets.network import Network
from jointnas_jax.space import ArchSpec, JointSpace

FBNETV3_D, FBNETV3_G = zoo.fbnetv3("d"), zoo.fbnetv3("g")


def _variables(arch: ArchSpec):
    shape = (1, arch.resolution, arch.resolution, arch.image_channels)
    return jax.eval_shape(Network(arch).init, jax.random.key(0), jnp.zeros(shape))


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1))
def test_counted_params_equal_the_modules(tiny_space, seed):
    arch = tiny_space.decode(tiny_space.sample(np.random.default_rng(seed), 1)[0]).arch
    params = _variables(arch)["params"]
    costs = count(arch)
    assert costs.params_total == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert costs.params == sum(leaf.size for leaf in jax.tree.leaves(params) if leaf.ndim > 1)


def test_counted_params_of_a_published_network_equal_the_modules():
    params = _variables(FBNETV3_D)["params"]
    assert count(FBNETV3_D).params_total == sum(leaf.size for leaf in jax.tree.leaves(params))


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1))
def test_counted_macs_equal_those_of_the_traced_program(tiny_space, seed):
    arch = tiny_space.decode(tiny_space.sample(np.random.default_rng(seed), 1)[0]).arch
    assert count(arch).macs == _traced_macs(arch)


@pytest.mark.parametrize("letter", "ag")
def test_counted_macs_of_a_published_network_equal_those_of_the_traced_program(letter):
    arch = zoo.fbnetv3(letter)
    assert count(arch).macs == _traced_macs(arch)


def _traced_macs(arch: ArchSpec) -> int:
    """Counts multiply-adds in the operations that JAX traces for one image."""
    image = jnp.zeros((1, arch.resolution, arch.resolution, arch.image_channels))
    module = Network(arch, lowering="conv")
    jaxpr = jax.make_jaxpr(module.apply)(_zeros(arch), image)
    total = 0
    for equation in _equations(jaxpr.jaxpr):
        if equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape  # [k, k, C / groups, D]
            total += equation.outvars[0].aval.size * kernel[0] * kernel[1] * kernel[2]
        elif equation.primitive.name == "dot_general":
            contracted = equation.params["dimension_numbers"][0][0]
            shape = equation.invars[0].aval.shape
            total += equation.outvars[0].aval.size * int(np.prod([shape[d] for d in contracted]))
    return total


def _zeros(arch: ArchSpec):
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), _variables(arch))


def _equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", None)
            if inner is not None:
                yield from _equations(inner)


@pytest.mark.parametrize("space_name", ["paper_space", "tiny_space"])
def test_the_table_equals_the_count(request, space_name):
    space = request.getfixturevalue(space_name)
    vectors = space.sample(np.random.default_rng(0), 200)
    expected = [dataclasses.astuple(count(space.decode(v).arch)) for v in vectors]
    assert CostTable.of(space)(vectors).tolist() == [list(e) for e in expected]


def test_the_table_of_a_fixed_architecture_is_its_count(tiny_space):
    candidate = tiny_space.decode(tiny_space.sample(np.random.default_rng(0), 1)[0])
    space = tiny_space.with_fixed_arch(candidate.arch)
    costs = CostTable.of(space)(space.sample(np.random.default_rng(0), 3))
    assert costs.tolist() == [list(dataclasses.astuple(count(candidate.arch)))] * 3


@given(st.data())
def test_the_budget_test_on_the_device_is_exact(paper_space, data):
    table = CostTable.of(paper_space)
    vectors = paper_space.sample(np.random.default_rng(0), 100)
    costs = table(vectors)
    names = data.draw(st.lists(st.sampled_from(COSTS[:2]), unique=True))
    # At, just below and just above a candidate's cost: one FLOP in a billion must not be lost.
    budget = {
        n: int(costs[data.draw(st.integers(0, 99)), COSTS.index(n)]) + data.draw(st.integers(-1, 1))
        for n in names
    }
    if "flops" in budget and data.draw(st.booleans()):
        budget["flops"] = 10**15  # more than int32 limbs hold
    expected = np.all([costs[:, COSTS.index(n)] <= limit for n, limit in budget.items()], axis=0)
    expected = np.broadcast_to(expected, len(vectors))
    assert (np.asarray(table.within(budget)(jnp.asarray(vectors))) == expected).all()


@settings(max_examples=30)
@given(
    seed=st.integers(0, 10_000), names=st.sampled_from([["flops"], ["params"], ["flops", "params"]])
)
@pytest.mark.parametrize("which", ["paper_space", "tiny_space"])
def test_a_shrunk_child_costs_no_more_than_its_parent(request, which, seed, names):
    space = request.getfixturevalue(which)
    costs = CostTable.of(space)
    children, parents = (space.sample(np.random.default_rng([seed, i]), 200) for i in range(2))
    shrunk = costs.shrink(names)(children, parents)
    space.check(shrunk)
    columns = [COSTS.index(name) for name in names]
    assert (costs(shrunk)[:, columns] <= costs(parents)[:, columns]).all()
    recipe = len(space.arch_knobs)
    np.testing.assert_array_equal(shrunk[:, recipe:], children[:, recipe:])
    # A child that is smaller everywhere stays as it is.
    smaller = np.minimum(children, parents)
    assert (
        costs.shrink(["flops"])(smaller, parents)[:, :recipe] == smaller[:, :recipe]
    ).mean() > 0.8


def test_costs_of_a_million_vectors_are_exact_integers_on_the_device(paper_space):
    """All costs at once: against an int64 table for all, against the counter for a sample."""
    million = 1_000_000
    table = CostTable.of(paper_space)
    vectors = paper_space.sample(np.random.default_rng(0), million)
    device = jax.jit(table.limbs(COSTS))(jnp.asarray(vectors))
    assert (device.shape, device.dtype) == ((million, 4, 2), jnp.int32)
    limbs = np.asarray(device).astype(np.int64)
    costs = (limbs[..., 0] << 16) + limbs[..., 1]
    np.testing.assert_array_equal(costs, table(vectors))
    assert ((limbs[..., 1] >= 0) & (limbs[..., 1] < 2**16)).all()
    for row in range(0, million, million // 300):
        arch = paper_space.decode(vectors[row]).arch
        assert tuple(costs[row].tolist()) == dataclasses.astuple(count(arch))


def test_costs_above_32_bits_are_exact_in_limbs():
    costs = np.array([[2**31 - 1], [2**31], [2**32 + 1], [2**46 - 1]])
    limbs = to_limbs(costs)
    assert limbs.dtype == np.int32
    np.testing.assert_array_equal((limbs[..., 0].astype(np.int64) << 16) + limbs[..., 1], costs)


def test_a_forward_pass_needs_less_memory_than_training():
    arch = zoo.fbnetv3("g")
    weights = 2 * inference_bytes(arch, 8) - inference_bytes(arch, 16)
    assert weights == 4 * count(arch).params_total
    maps = inference_bytes(arch, 8) - weights
    assert 0 < maps < training_bytes(arch, 8) / 10
    assert inference_bytes(arch, 8, 2) - weights == maps / 2


def test_training_needs_memory_for_images_and_weights():
    arch, of = zoo.fbnetv3("b"), training_bytes
    weights = 2 * of(arch, 8) - of(arch, 16)
    assert 20 * count(arch).params < weights < 30 * count(arch).params
    # Maps take half in bfloat16; weights stay float32.
    assert of(arch, 8, 2) - weights == (of(arch, 8) - weights) / 2


def test_a_space_of_networks_too_large_to_be_counted_is_refused(tiny_description):
    large = {"resolution": 4096, "head": dict(channels=8192, expand=32)}
    space = JointSpace.from_config(tiny_description | large, image_channels=3, num_classes=10)
    CostTable.of(space)
    stage = dict(channels=8192, expand=[6, 32], depth=4)
    space = JointSpace.from_config(tiny_description | large | dict(stages=(stage,)), 3, 10)
    with pytest.raises(SpaceError, match=r"largest network .* no cost may be above 2\^46"):
        CostTable.of(space)
