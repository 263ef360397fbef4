"""Convolutions, lowered so that each backend runs them fast.

`shift` writes a depthwise convolution as a sum of k*k shifted products and every other one as a
matmul. XLA:CPU runs that several times faster than a grouped convolution, inside a loop by orders
of magnitude. `conv` uses `lax.conv_general_dilated`. Both agree to float rounding; which one ran is
part of a result's identity, so it is a config field.

Shapes: N images, H x W input positions, C input channels, D output channels, k x k taps; k is odd
and padding is (k-1)/2 on all sides, so that stride s gives ceil(H/s) x ceil(W/s) positions.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax


def resolve_lowering(name: str) -> str:
    """Returns `shift` or `conv`; `auto` is `shift` on CPU, where it was measured to win."""
    if name != "auto":
        return name
    return "shift" if jax.default_backend() == "cpu" else "conv"


def pointwise(x: jax.Array, w: jax.Array) -> jax.Array:
    """1x1 convolution: `float[N, H, W, C]`, `float[C, D]` -> `float[N, H, W, D]`.

    One 2-D matmul on any backend: its weight gradient contracts one axis instead of three, which
    XLA:CPU does 3.6 times faster.
    """
    return (x.reshape(-1, x.shape[-1]) @ w).reshape(*x.shape[:-1], w.shape[-1])


def conv(x: jax.Array, w: jax.Array, stride: int, lowering: str) -> jax.Array:
    """Convolution: `float[N, H, W, C]`, `float[k, k, C, D]` -> `float[N, H/s, W/s, D]`."""
    if lowering == "conv":
        return _lax_conv(x, w, stride, groups=1)
    k = w.shape[0]
    patches = jnp.concatenate([_tap(_pad(x, k), i, j, k, stride) for i, j in _taps(k)], axis=-1)
    return pointwise(patches, w.reshape(-1, w.shape[-1]))


def depthwise(x: jax.Array, w: jax.Array, stride: int, lowering: str) -> jax.Array:
    """Depthwise convolution: `float[N, H, W, C]`, `float[k, k, C]` -> `float[N, H/s, W/s, C]`."""
    if lowering == "conv":
        return _lax_conv(x, w[:, :, None, :], stride, groups=x.shape[-1])
    return _shift_depthwise(x, w, stride)


def _lax_conv(x: jax.Array, w: jax.Array, stride: int, groups: int) -> jax.Array:
    half = w.shape[0] // 2
    return lax.conv_general_dilated(
        x,
        w,
        (stride, stride),
        ((half, half), (half, half)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _shift_depthwise(x: jax.Array, w: jax.Array, stride: int) -> jax.Array:
    k = w.shape[0]
    padded = _pad(x, k)
    return sum(_tap(padded, i, j, k, stride) * w[i, j] for i, j in _taps(k))


def _shift_forward(x: jax.Array, w: jax.Array, stride: int) -> tuple:
    return _shift_depthwise(x, w, stride), (x, w)


def _shift_backward(stride: int, saved: tuple, dy: jax.Array) -> tuple:
    x, w = saved
    return _input_gradient(x, w, stride, dy), _weight_gradient(x, w, stride, dy)


_shift_depthwise.defvjp(_shift_forward, _shift_backward)


def _input_gradient(x: jax.Array, w: jax.Array, stride: int, dy: jax.Array) -> jax.Array:
    """The same shifted sum with the flipped kernel, over dy spread out to the input's positions."""
    if stride > 1:
        height, width = x.shape[1:3]
        config = [
            (0, size - (stride * (n - 1) + 1), stride - 1)
            for size, n in ((height, dy.shape[1]), (width, dy.shape[2]))
        ]
        dy = lax.pad(dy, jnp.zeros((), dy.dtype), [(0, 0, 0), *config, (0, 0, 0)])
    return _shift_depthwise(dy, w[::-1, ::-1], 1)


def _weight_gradient(x: jax.Array, w: jax.Array, stride: int, dy: jax.Array) -> jax.Array:
    """dw[i, j] = sum over images and positions of tap(i, j) * dy, a few images at a time.

    Left to autodiff, these k*k reductions over sliced inputs are most of the backward pass on CPU.
    In groups of images that fit the cache, summed over W at the end, they take down to a quarter of
    the time (5x5 taps, 64 x 16 x 16 x 64); the loop over kernel rows halves the compile time.
    """
    k, (n, _, width, channels) = w.shape[0], dy.shape
    padded = _pad(x, k)
    height = padded.shape[1] - k + 1
    group = math.gcd(n, 8)

    def add_images(index: jax.Array, total: jax.Array) -> jax.Array:
        images = lax.dynamic_slice_in_dim(padded, index * group, group)
        gradients = lax.dynamic_slice_in_dim(dy, index * group, group)

        def add_row(i: jax.Array, total: jax.Array) -> jax.Array:
            rows = lax.dynamic_slice_in_dim(images, i, height, axis=1)
            taps = [_tap(rows, 0, j, 1, stride)[:, :, :width] * gradients for j in range(k)]
            return total.at[i].add(jnp.stack([tap.sum(axis=(0, 1)) for tap in taps]))

        return lax.fori_loop(0, k, add_row, total)

    total = jnp.zeros((k, k, width, channels), dy.dtype)
    return lax.fori_loop(0, n // group, add_images, total).sum(axis=2)


def _pad(x: jax.Array, k: int) -> jax.Array:
    half = k // 2
    return jnp.pad(x, ((0, 0), (half, half), (half, half), (0, 0)))


def _taps(k: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(k) for j in range(k)]


def _tap(padded: jax.Array, i: int, j: int, k: int, stride: int) -> jax.Array:
    """The input that tap (i, j) sees at every output position."""
    height, width = padded.shape[1] - k + 1, padded.shape[2] - k + 1
    return padded[:, i : i + height : stride, j : j + width : stride]
