import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jointnas_jax.nets import conv
from jointnas_jax.space.arch import side

# Odd, tiny, oblong; the last ones too large for a Toeplitz matrix, one wider than a strip.
SHAPES = [(3, 7, 7, 3), (1, 1, 1, 2), (4, 2, 9, 2), (8, 8, 8, 8), (2, 12, 12, 3), (2, 9, 35, 2)]


def _arrays(shape, w_shape, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=shape), jnp.float32), jnp.asarray(
        rng.normal(size=w_shape), jnp.float32
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", ["depthwise", "conv"])
def test_matmuls_equal_lax_in_values_and_gradients(shape, k, stride, name):
    function = getattr(conv, name)
    channels = shape[-1]
    images, w = _arrays(shape, (k, k, channels) if name == "depthwise" else (k, k, channels, 6))
    size = function(images, w, stride=stride, lowering="conv").size
    weights = jnp.cos(jnp.arange(size))

    def loss(images, w, lowering):
        y = function(conv.to_map(images, lowering), w, stride=stride, lowering=lowering)
        y = y if lowering == "conv" else y.transpose(3, 1, 2, 0)
        return (y.ravel() * weights).sum(), y

    gradients = jax.jit(jax.grad(loss, (0, 1), has_aux=True), static_argnums=2)
    (expected_gradients, expected), (our_gradients, ours) = (
        gradients(images, w, lowering) for lowering in ("conv", "matmul")
    )
    height, width = -(-shape[1] // stride), -(-shape[2] // stride)
    assert ours.shape == (shape[0], height, width, expected.shape[3])
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)
    for a, b in zip(our_gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", [(3, 7, 8, 3), (1, 1, 1, 2)])
@pytest.mark.parametrize("k", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_the_convolution_of_each_lane_equals_lax_without_a_primitive(shape, k, stride):
    """`vmap` over kernels, as several candidates on a device: values and gradients."""
    lanes = 2
    images, w = _arrays((lanes, *shape), (lanes, k, k, shape[-1], 4))

    def loss(images, w, mapped):
        y = conv.conv(images, w, stride=stride, lowering="conv", mapped=mapped)
        return (y * jnp.cos(jnp.arange(y.size)).reshape(y.shape)).sum(), y

    gradients = lambda mapped: jax.grad(lambda x, w: loss(x, w, mapped), (0, 1), has_aux=True)
    ours = jax.jit(jax.vmap(gradients(True)))
    assert "conv_general_dilated" not in str(jax.make_jaxpr(ours)(images, w))
    found = ours(images, w)
    for lane in range(lanes):
        expected = gradients(False)(images[lane], w[lane])
        mine = jax.tree.map(lambda a, lane=lane: a[lane], found)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), mine, expected
        )


@pytest.mark.parametrize("channels", [3, conv._DIAGONAL_LIMIT + 1])
def test_a_diagonal_kernel_is_depthwise_in_values_and_gradients(channels):
    """Beyond the limit it is the depthwise primitive itself."""
    images, w = _arrays((2, 6, 5, channels), (3, 3, channels))

    def loss(images, w, lowering):
        y = conv.depthwise(images, w, stride=2, lowering=lowering)
        return (y * jnp.cos(jnp.arange(y.size)).reshape(y.shape)).sum(), y

    both = [
        jax.grad(loss, (0, 1), has_aux=True)(images, w, lowering)
        for lowering in ("conv", "diagonal")
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), *both)
    text = str(jax.make_jaxpr(lambda w: loss(images, w, "diagonal"))(w))
    assert (f"feature_group_count={channels}" in text) == (channels > conv._DIAGONAL_LIMIT)


@pytest.mark.parametrize(("k", "size"), [(3, 7), (3, 8), (5, 8), (5, 12)])
@pytest.mark.parametrize("lowering", ["conv", "matmul", "diagonal"])
def test_a_trimmed_padding_is_smaller_by_one(k, size, lowering):
    images, w = _arrays((2, size, size, 3), (k, k, 3))
    x = conv.to_map(images, lowering)
    y = conv.depthwise(x, w, stride=2, lowering=lowering, trim=1)
    y = y.transpose(3, 1, 2, 0) if lowering == "matmul" else y
    pad = k // 2 - 1
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    sides = range(0, padded.shape[1] - k + 1, 2)
    expected = [[(padded[:, i : i + k, j : j + k] * w).sum((1, 2)) for j in sides] for i in sides]
    np.testing.assert_allclose(y, np.array(expected).transpose(2, 0, 1, 3), rtol=1e-4, atol=1e-4)
    assert y.shape[1] == side(size, 2, 1)


@pytest.mark.parametrize("lowering", ["conv", "matmul"])
def test_pointwise_is_a_1x1_convolution(lowering):
    images, w = _arrays((2, 5, 5, 3), (3, 4))
    x = conv.to_map(images, lowering)
    np.testing.assert_allclose(
        conv.pointwise(x, w, lowering),
        conv.conv(x, w[None, None], stride=1, lowering=lowering),
        rtol=1e-5,
        atol=1e-5,
    )


def test_auto_is_matmul_on_cpu_and_diagonal_on_tpu():
    assert conv.resolve_lowering("auto") == "matmul"
    assert conv.resolve_lowering("conv") == "conv"
    assert conv.resolve_lowering("auto", platform="tpu") == "diagonal"
    assert conv.resolve_lowering("auto", platform="gpu") == "conv"
