import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jointnas_jax.nets.init import initial_variables
from jointnas_jax.nets.network import BatchNorm, Network, SqueezeExcite, shared_order
from jointnas_jax.nets.norm import BN_EPSILON, BN_MOMENTUM


@pytest.fixture
def module(tiny_space) -> Network:
    values = tiny_space.values(np.zeros(len(tiny_space.knobs), np.int32))
    values |= dict(stage1_depth=2, stage2_depth=2, stage2_se=True)
    arch = tiny_space.decode(tiny_space.vector_from_values(values)).arch
    return Network(arch, "matmul")


def _initial(module, seed=0):
    return initial_variables(module.arch, jax.random.key(seed))


def _images(module, count=4):
    arch = module.arch
    shape = (count, arch.resolution, arch.resolution, arch.image_channels)
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def test_both_lowerings_give_the_same_logits(module):
    variables, images = _initial(module), _images(module)
    logits = [module.clone(lowering=low).apply(variables, images) for low in ("matmul", "conv")]
    assert logits[0].shape == (4, module.arch.num_classes)
    np.testing.assert_allclose(*logits, rtol=1e-4, atol=1e-5)


def test_batch_norm_equals_flax():
    x = jnp.asarray(np.random.default_rng(0).normal(3.0, 2.0, (8, 4, 4, 6)), jnp.float32)
    ours = BatchNorm()
    flax = nn.BatchNorm(momentum=BN_MOMENTUM, epsilon=BN_EPSILON, use_running_average=False)
    variables = ours.init(jax.random.key(0), x, train=True)
    y, updated = ours.apply(variables, x, train=True, mutable=["batch_stats"])
    expected, flax_updated = flax.apply(flax.init(jax.random.key(0), x), x, mutable=["batch_stats"])
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4),
        updated["batch_stats"],
        flax_updated["batch_stats"],
    )
    inference = ours.apply({**variables, **updated}, x, train=False)
    reference = flax.clone(use_running_average=True).apply({**variables, **flax_updated}, x)
    np.testing.assert_allclose(inference, reference, rtol=1e-4, atol=1e-4)


def test_host_initialisation_has_the_structure_constants_and_spread_of_flax(module):
    flax = module.init(jax.random.key(0), _images(module))
    ours = _initial(module)
    assert jax.tree.structure(flax) == jax.tree.structure(ours)
    for a, b in zip(jax.tree.leaves(flax), jax.tree.leaves(ours), strict=True):
        assert a.shape == b.shape
        if a.ndim == 1:
            np.testing.assert_array_equal(a, b)
        elif a.size > 200:
            assert np.std(a) == pytest.approx(np.std(b), rel=0.25)


def test_initial_weights_depend_on_the_key_alone(module):
    a, b, other = (_initial(module, seed)["params"]["head_project"]["kernel"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert not np.allclose(a, other)


def test_residual_blocks_start_as_the_identity(module):
    variables = _initial(module)
    for block in module.arch.blocks():
        scale = variables["params"][block.name]["project_bn"]["scale"]
        assert (scale == (0.0 if block.residual else 1.0)).all()
    assert any(block.residual for block in module.arch.blocks())


def test_se_gate_scales_channels_between_0_and_1():
    x = jnp.ones((2, 4, 4, 8))
    se = SqueezeExcite(8)
    variables = se.init(jax.random.key(0), x)
    off = jax.tree.map(jnp.zeros_like, variables)
    np.testing.assert_allclose(se.apply(off, x), 0.5 * x, rtol=1e-6)  # hard-sigmoid(0) = 1/2
    closed = {
        "params": {
            **off["params"],
            "expand": {**off["params"]["expand"], "bias": jnp.full(8, -3.0)},
        }
    }
    np.testing.assert_allclose(se.apply(closed, x), 0.0)


def test_stochastic_depth_drops_single_images_and_more_in_later_blocks(module):
    """At a rate of 0.9 the last branch is dropped for most images, the first for few."""
    variables = jax.tree.map(jnp.asarray, _initial(module))
    residual = [b.name for b in module.arch.blocks() if b.residual]
    names = [b.name for b in module.arch.blocks()]
    for name in residual:  # make branches count
        variables["params"][name]["project_bn"]["scale"] = jnp.ones_like(
            variables["params"][name]["project_bn"]["scale"]
        )
    images = _images(module, 256)

    def branch_scales(rate):
        def capture(mdl, method):
            return (
                isinstance(mdl, type(module)) is False
                and mdl.name in names
                and method == "__call__"
            )

        _, state = module.apply(
            variables,
            images,
            train=True,
            stochastic_depth=rate,
            mutable=["batch_stats", "intermediates"],
            rngs={"dropout": jax.random.key(0), "stochastic_depth": jax.random.key(1)},
            capture_intermediates=capture,
        )
        return state["intermediates"]

    # An image whose branch is dropped leaves a block as it came in.
    outputs = branch_scales(0.9)
    dropped = {}
    for before, name in itertools.pairwise(names):
        if name in residual:
            same = jnp.isclose(
                outputs[before]["__call__"][0], outputs[name]["__call__"][0], atol=1e-7
            )
            dropped[name] = float(same.all(axis=(0, 1, 2)).mean())
    expected = {name: 0.9 * (names.index(name) + 1) / len(names) for name in dropped}
    assert len(dropped) >= 2
    for name, share in dropped.items():
        assert share == pytest.approx(expected[name], abs=0.1)


@pytest.mark.parametrize("parts", [2, 4])
def test_a_shared_batch_has_the_pairs_of_mixup_in_its_parts(parts):
    order = shared_order(16, parts)
    assert sorted(order) == list(range(16))
    cut = order.reshape(parts, -1)
    np.testing.assert_array_equal(cut[:, ::-1], 15 - cut)
    np.testing.assert_array_equal(shared_order(5, 1), np.arange(5))
