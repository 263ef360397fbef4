import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jointnas_jax.nets import conv

SHAPES = [(3, 7, 7, 3), (1, 1, 1, 2), (4, 2, 9, 2), (16, 8, 8, 8)]


def _arrays(shape, w_shape, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=shape), jnp.float32), jnp.asarray(
        rng.normal(size=w_shape), jnp.float32
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", ["depthwise", "conv"])
def test_shift_equals_lax_in_values_and_gradients(shape, k, stride, name):
    function = getattr(conv, name)
    channels = shape[-1]
    x, w = _arrays(shape, (k, k, channels) if name == "depthwise" else (k, k, channels, 6))
    weights = jnp.cos(jnp.arange(function(x, w, stride, "conv").size))

    def loss(x, w, lowering):
        y = function(x, w, stride, lowering)
        return (y.ravel() * weights).sum(), y

    gradients = jax.jit(jax.grad(loss, (0, 1), has_aux=True), static_argnums=2)
    (expected_gradients, expected), (shift_gradients, shifted) = (
        gradients(x, w, lowering) for lowering in ("conv", "shift")
    )
    assert shifted.shape == (
        shape[0],
        -(-shape[1] // stride),
        -(-shape[2] // stride),
        expected.shape[3],
    )
    np.testing.assert_allclose(shifted, expected, rtol=1e-4, atol=1e-4)
    for a, b in zip(shift_gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


def test_pointwise_is_a_1x1_convolution():
    x, w = _arrays((2, 5, 5, 3), (3, 4))
    np.testing.assert_allclose(
        conv.pointwise(x, w), conv.conv(x, w[None, None], 1, "conv"), rtol=1e-5, atol=1e-5
    )


def test_auto_shifts_on_cpu():
    assert conv.resolve_lowering("auto") == "shift"
    assert conv.resolve_lowering("conv") == "conv"
