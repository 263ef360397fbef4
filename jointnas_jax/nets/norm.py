"""Batch normalisation and the activation behind it, in few passes over the map.

    y = act(x * factor + shift),  factor = scale / sqrt(var + eps),  shift = bias - mean * factor

Mean and variance come from one pass (variance is E[x^2] - E[x]^2, clipped at 0), normalising is
folded into one scale and shift for each channel, and the derivative is written out: it needs two
sums per channel and one more pass. Barriers keep what belongs to a channel out of the loops over
its elements. Statistics and sums are float32 whatever the map is. "map" and lowering: see
`nets/conv.py`; C channels.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from jointnas_jax.nets import conv

BN_MOMENTUM = 0.9
BN_EPSILON = 1e-5

ACTIVATIONS = {"hswish": nn.hard_swish, "relu": nn.relu, "swish": nn.swish, "": lambda x: x}


class Moments(NamedTuple):
    """Mean and variance of each channel of a map, `float32[C]` each."""

    mean: jax.Array
    var: jax.Array


class Affine(NamedTuple):
    """Scale and bias of each channel, `float32[C]` each."""

    scale: jax.Array
    bias: jax.Array


# `custom_vjp` has no keyword-only arguments.
@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def batch_norm(
    x: jax.Array, affine: Affine, activation: str, lowering: str
) -> tuple[jax.Array, Moments]:
    """Normalises a map by its own moments and applies an activation of `ACTIVATIONS`.

    Returns:
      The map, and the moments, which have no derivative.
    """
    return _forward(x, affine, activation=activation, lowering=lowering)[0]


def _forward(
    x: jax.Array, affine: Affine, activation: str, lowering: str
) -> tuple[tuple[jax.Array, Moments], tuple]:
    axes = _axes(lowering)
    exact = x.astype(jnp.float32)
    mean = exact.mean(axes)
    var = jnp.maximum(jnp.square(exact).mean(axes) - jnp.square(mean), 0.0)
    moments = Moments(mean, var)
    y = normalise(x, moments, affine, activation=activation, lowering=lowering)
    return (y, moments), (x, moments, affine)


def _backward(activation: str, lowering: str, saved: tuple, cotangents: tuple) -> tuple:
    x, moments, affine = saved
    kind = dict(activation=activation, lowering=lowering)
    return batch_norm_gradients(x, cotangents[0], moments, affine=affine, **kind)


batch_norm.defvjp(_forward, _backward)


def normalise(
    x: jax.Array, moments: Moments, affine: Affine, *, activation: str, lowering: str
) -> jax.Array:
    """Normalises a map by given moments and applies an activation; see `batch_norm`."""
    factor, shift = _fold(moments, affine, lowering)
    return ACTIVATIONS[activation](x * factor + shift).astype(x.dtype)


def batch_norm_gradients(
    x: jax.Array,
    dy: jax.Array,
    moments: Moments,
    *,
    affine: Affine,
    activation: str,
    lowering: str,
) -> tuple[jax.Array, Affine]:
    """Gradients of x, scale and bias, given the moments of x and the gradient of y."""
    axes, dtype = _axes(lowering), x.dtype
    x, dy = x.astype(jnp.float32), dy.astype(jnp.float32)
    (mean, var), scale = moments, affine.scale
    count = x.size // mean.size
    factor, shift = _fold(moments, affine, lowering)
    if activation:
        (dy,) = jax.vjp(ACTIVATIONS[activation], x * factor + shift)[1](dy)
    dbias, along = dy.sum(axes), (dy * x).sum(axes)
    inverse = lax.rsqrt(var + BN_EPSILON)
    centred = along - mean * dbias  # sum of dy * (x - mean)
    slope = -scale * inverse**3 * centred / count
    offset = -scale * inverse * dbias / count - mean * slope
    slope, offset = lax.optimization_barrier((slope, offset))
    dx = dy * factor + x * conv.per_channel(slope, lowering) + conv.per_channel(offset, lowering)
    return dx.astype(dtype), Affine(inverse * centred, dbias)


def moving_average(old: jax.Array, new: jax.Array) -> jax.Array:
    """Running statistics after a step."""
    return BN_MOMENTUM * old + (1 - BN_MOMENTUM) * new


def _fold(moments: Moments, affine: Affine, lowering: str) -> tuple[jax.Array, jax.Array]:
    """Factor and shift, ready to broadcast; the barrier keeps them out of the loop over x."""
    factor = affine.scale * lax.rsqrt(moments.var + BN_EPSILON)
    factor, shift = lax.optimization_barrier((factor, affine.bias - moments.mean * factor))
    return conv.per_channel(factor, lowering), conv.per_channel(shift, lowering)


def _axes(lowering: str) -> tuple[int, ...]:
    return tuple(axis for axis in range(4) if axis != conv.channel_axis(lowering))
