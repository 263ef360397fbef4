"""Convolutions and feature maps, lowered so that each backend runs them fast.

A lowering decides the layout of feature maps and how a convolution is computed:

- `conv`: maps are `[N, H, W, C]`, convolutions are `lax.conv_general_dilated`, except that
  pointwise ones, and with several lanes the stem's, are matmuls.
- `diagonal`: likewise, but depthwise convolutions of few channels are dense ones, whose kernels are
  zero but on the diagonal. For TPUs: their matrix unit has nothing else to do, and by the compiler
  for v5e 3x3 taps on 128 x 112 x 112 x 16 take 0.9 ms so, forward and backward, and 4.9 as `conv`.
- `matmul`: maps are `[C, H, W, N]` and no convolution primitive is left. With the images innermost
  every operation runs over long contiguous rows, and all matmuls run without a transposition: a
  pointwise convolution is one, and a depthwise convolution of a small map is one for each channel,
  whose matrix holds the k*k weights at every position they act on (a Toeplitz matrix). On one core,
  5x5 taps on 64 x 8 x 8 x 160: forward 1.4 ms and weight gradient 1.5 ms, the matrix included; as
  shifted products on `[N, H, W, C]` 2.8 and 7 ms. Compiling takes a fraction of the time.

All agree to float rounding, not to the bit, so the lowering is a config field.

Shapes: N images, H x W input positions, C input channels, D output channels, k x k taps; k is odd
and padding is (k-1)/2 on all sides, so that stride s gives ceil(H/s) x ceil(W/s) positions. "map"
stands for either layout. A convolution computes in the dtype of its map; kernels are cast to it.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jointnas_jax.runtime.compiler import platform_here

# Input times output positions up to which a depthwise convolution is a matmul: above it the zeros
# of the Toeplitz matrix cost more than they save (8 x 8 -> 8 x 8 still wins).
_TOEPLITZ_LIMIT = 4096
# Most channels of a depthwise convolution that is a dense one: from 120 up that is slower.
_DIAGONAL_LIMIT = 64
# Most output positions that one step of the weight gradient's loop unrolls.
_STRIP = 16


def resolve_lowering(name: str, dtype: str = "float32", platform: str = "") -> str:
    """Returns the lowering; `auto` is `matmul` on CPU, where it was measured to win.

    In bfloat16 it is not: `matmul` sums up in the dtype of its maps. On TPU it is `diagonal`, on
    GPU `conv`. The platform is that of a device; "": of those at hand.
    """
    if name != "auto":
        return name
    platform = platform or platform_here()
    if platform == "cpu" and dtype == "float32":
        return "matmul"
    return "diagonal" if platform == "tpu" else "conv"


def resolve_dtype(name: str, platform: str = "") -> str:
    """Returns `float32` or `bfloat16`; `auto` is the latter on accelerators.

    The platform as in `resolve_lowering`.
    """
    if name != "auto":
        return name
    return "float32" if (platform or platform_here()) == "cpu" else "bfloat16"


def to_map(images: jax.Array, lowering: str) -> jax.Array:
    """`float[N, H, W, C]` -> map."""
    return images.transpose(3, 1, 2, 0) if lowering == "matmul" else images


def pool(x: jax.Array, lowering: str) -> jax.Array:
    """Global average: map -> `float32[N, C]`."""
    means = x.mean(axis=(1, 2), dtype=jnp.float32)
    return means.T if lowering == "matmul" else means


def per_channel(v: jax.Array, lowering: str) -> jax.Array:
    """`float[C]`, ready to broadcast against a map."""
    return v[:, None, None, None] if lowering == "matmul" else v


def per_image(v: jax.Array, lowering: str) -> jax.Array:
    """`float[N]`, ready to broadcast against a map."""
    return v if lowering == "matmul" else v[:, None, None, None]


def gate(v: jax.Array, lowering: str) -> jax.Array:
    """`float[N, C]`, ready to broadcast against a map."""
    return v.T[:, None, None, :] if lowering == "matmul" else v[:, None, None, :]


def channel_axis(lowering: str) -> int:
    """The axis of a map that counts channels."""
    return 0 if lowering == "matmul" else 3


def pointwise(x: jax.Array, w: jax.Array, lowering: str) -> jax.Array:
    """1x1 convolution: map of C channels, `float[C, D]` -> map of D channels.

    One 2-D matmul on any backend: its weight gradient contracts one axis instead of three, which
    XLA:CPU does 3.6 times faster.
    """
    w = w.astype(x.dtype)
    if lowering != "matmul":
        return (x.reshape(-1, x.shape[-1]) @ w).reshape(*x.shape[:-1], w.shape[-1])
    return (w.T @ x.reshape(x.shape[0], -1)).reshape(w.shape[-1], *x.shape[1:])


def conv(
    x: jax.Array, w: jax.Array, *, stride: int, lowering: str, mapped: bool = False
) -> jax.Array:
    """Convolution: map of C channels, `float[k, k, C, D]` -> map of D channels, H/s x W/s.

    With `mapped` it is a matmul of patches in any lowering: under `vmap` over kernels a convolution
    primitive becomes a grouped convolution, whose gradient is slow on GPU, a matmul a batched one.
    """
    w = w.astype(x.dtype)
    if lowering != "matmul" and not mapped:
        return _lax_conv(x, w, stride=stride, groups=1)
    k = w.shape[0]
    padded, axis = _pad(x, k), channel_axis(lowering)
    taps = [_tap(padded, tap, k=k, stride=stride) for tap in _taps(k)]
    patches = jnp.concatenate(taps, axis)
    return pointwise(patches, w.reshape(-1, w.shape[-1]), lowering)


def depthwise(
    x: jax.Array,
    w: jax.Array,
    *,
    stride: int,
    lowering: str,
    true_kernel: jax.Array | None = None,
    trim: int = 0,
) -> jax.Array:
    """Depthwise convolution: map, `float[k, k, C]` -> map of H/s x W/s positions.

    The taps outside of `true_kernel: int32[]` must be zero; they are left out where that pays. The
    padding on each side is (k-1)/2 - `trim`. Under `vmap` over L kernels the primitive of `conv`
    stays depthwise, with L * C channels.
    """
    w = w.astype(x.dtype)
    if lowering == "diagonal" and x.shape[-1] <= _DIAGONAL_LIMIT:
        diagonal = w[:, :, None, :] * jnp.eye(x.shape[-1], dtype=w.dtype)
        return _lax_conv(x, diagonal, stride=stride, groups=1, trim=trim)
    if lowering != "matmul":
        return _lax_conv(x, w[:, :, None, :], stride=stride, groups=x.shape[-1], trim=trim)
    if trim:  # rare: a few published networks have one or two such layers
        whole = depthwise(x, w, stride=1, lowering=lowering, true_kernel=true_kernel)
        rows, columns = (slice(trim, size - trim, stride) for size in whole.shape[1:3])
        return whole[:, rows, columns]
    channels, height, width, n = x.shape
    out_height, out_width = -(-height // stride), -(-width // stride)
    positions_in, positions_out = height * width, out_height * out_width
    if positions_in * positions_out > _TOEPLITZ_LIMIT:
        return _shifted(x, w, true_kernel, stride=stride)
    k = w.shape[0]
    selector = _selector(k, stride=stride, height=height, width=width)
    toeplitz = w.reshape(k * k, channels).T @ selector
    toeplitz = toeplitz.reshape(channels, positions_out, positions_in)
    y = jnp.einsum("cqp,cpn->cqn", toeplitz, x.reshape(channels, positions_in, n))
    return y.reshape(channels, out_height, out_width, n)


def _lax_conv(x: jax.Array, w: jax.Array, *, stride: int, groups: int, trim: int = 0) -> jax.Array:
    half = w.shape[0] // 2 - trim
    return lax.conv_general_dilated(
        x,
        w,
        window_strides=(stride, stride),
        padding=((half, half), (half, half)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


@functools.lru_cache(maxsize=64)
def _selector(k: int, *, stride: int, height: int, width: int) -> np.ndarray:
    """`float32[k*k, Q*P]`: 1 where tap t carries input position p to output position q."""

    def axis(size: int) -> np.ndarray:  # [k, output, input]
        tap, out, position = np.ogrid[:k, : -(-size // stride), :size]
        return position == out * stride + tap - k // 2

    taps = axis(height)[:, None, :, None, :, None] & axis(width)[None, :, None, :, None, :]
    return taps.reshape(k * k, -1).astype(np.float32)


# `custom_vjp` has no keyword-only arguments.
@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _shifted(x: jax.Array, w: jax.Array, true_kernel: jax.Array | None, stride: int) -> jax.Array:
    """Depthwise convolution of `[C, H, W, N]` as a sum of k*k shifted products."""
    return _trimmed(lambda w: _products(x, w, stride=stride), w, true_kernel)


def _shifted_forward(
    x: jax.Array, w: jax.Array, true_kernel: jax.Array | None, stride: int
) -> tuple:
    return _shifted(x, w, true_kernel, stride=stride), (x, w, true_kernel)


def _shifted_backward(stride: int, saved: tuple, dy: jax.Array) -> tuple:
    x, w, true_kernel = saved

    def gradients(kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
        dw = _weight_gradient(x, kernel, dy, stride=stride)
        margin = (w.shape[0] - kernel.shape[0]) // 2
        dw = jnp.pad(dw, ((margin, margin), (margin, margin), (0, 0)))
        return _input_gradient(x, kernel, dy, stride=stride), dw

    dx, dw = _trimmed(gradients, w, true_kernel)
    return dx, dw, None


_shifted.defvjp(_shifted_forward, _shifted_backward)


def _trimmed(
    function: Callable[[jax.Array], Any], w: jax.Array, true_kernel: jax.Array | None
) -> Any:
    """Calls a function with a kernel, or with its middle where the border is zero."""
    if true_kernel is None or w.shape[0] < 5:
        return function(w)
    smaller = lambda w: function(w[1:-1, 1:-1])
    return lax.cond(true_kernel < w.shape[0], smaller, function, w)


def _products(x: jax.Array, w: jax.Array, *, stride: int) -> jax.Array:
    k = w.shape[0]
    # Without the barrier XLA computes the padding, and what comes before it, once for each tap.
    padded = lax.optimization_barrier(_pad(x, k))
    shifted = lambda tap: _tap(padded, tap, k=k, stride=stride)
    products: Any = (shifted((i, j)) * w[i, j, :, None, None, None] for i, j in _taps(k))
    return sum(products)


def _input_gradient(x: jax.Array, w: jax.Array, dy: jax.Array, *, stride: int) -> jax.Array:
    """The same shifted sum with the flipped kernel, over dy spread out to the input's positions."""
    if stride > 1:
        config = [
            (0, size - (stride * (n - 1) + 1), stride - 1)
            for size, n in zip(x.shape[1:3], dy.shape[1:3], strict=True)
        ]
        dy = lax.pad(dy, jnp.zeros((), dy.dtype), [(0, 0, 0), *config, (0, 0, 0)])
    return _products(dy, w[::-1, ::-1], stride=1)


def _weight_gradient(x: jax.Array, w: jax.Array, dy: jax.Array, *, stride: int) -> jax.Array:
    """dw[i, j] = sum over positions and images of tap(i, j) * dy, a strip of a row at a time.

    Left to autodiff these are k*k reductions over whole maps. Here all taps of a strip accumulate
    image by image, and the images are summed once at the end.
    """
    k, (channels, height, width, n) = w.shape[0], dy.shape
    strips = -(-width // _STRIP)
    strip = -(-width // strips)
    extra = strips * strip - width
    padded = jnp.pad(_pad(x, k), ((0, 0), (0, 0), (0, extra * stride), (0, 0)))
    dy = jnp.pad(dy, ((0, 0), (0, 0), (0, extra), (0, 0)))
    padded, dy = lax.optimization_barrier((padded, dy))
    reach = (strip - 1) * stride + k

    def add_strip(index: jax.Array, total: jax.Array) -> jax.Array:
        row, column = index // strips, index % strips * strip
        inputs = lax.dynamic_slice(
            padded, (0, row * stride, column * stride, 0), (channels, k, reach, n)
        )
        gradients = lax.dynamic_slice(dy, (0, row, column, 0), (channels, 1, strip, n))
        products = (
            inputs[:, :, j * stride : j * stride + k] * gradients[:, :, j : j + 1]
            for j in range(strip)
        )
        return total + sum(products)

    total = jnp.zeros((channels, k, k, n), dy.dtype)
    return lax.fori_loop(0, height * strips, add_strip, total).sum(axis=3).transpose(1, 2, 0)


def _pad(x: jax.Array, k: int) -> jax.Array:
    half = k // 2
    return jnp.pad(x, ((0, 0), (half, half), (half, half), (0, 0)))


def _taps(k: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(k) for j in range(k)]


def _tap(padded: jax.Array, tap: tuple[int, int], *, k: int, stride: int) -> jax.Array:
    """The input of tap (i, j) at every output position, in either layout."""
    (i, j), height, width = tap, padded.shape[1] - k + 1, padded.shape[2] - k + 1
    return padded[:, i : i + height : stride, j : j + width : stride]
