"""A candidate's network as a Flax module.

Shapes: N images, R = resolution, C image channels, L classes.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jointnas_jax.nets import conv
from jointnas_jax.space import ArchSpec, Block
from jointnas_jax.space.arch import round8

BN_MOMENTUM = 0.9
BN_EPSILON = 1e-5

ACTIVATIONS = {"hswish": nn.hard_swish, "relu": nn.relu, "swish": nn.swish}

_he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


def _depthwise_init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """He initialisation with the fan-in of a depthwise kernel `[k, k, C]`, which is k * k."""
    k = shape[0]
    return _he_normal(key, (k * k, shape[-1]), dtype).reshape(shape)


class BatchNorm(nn.Module):
    """Batch normalisation in one pass over the input, folded into one scale and shift.

    Flax's own computes the same, normalising first and scaling after. Variance is
    E[x^2] - E[x]^2, clipped at 0.

    Attributes:
      zero_scale: start the scale at 0, for the last BN before a residual is added.
    """

    zero_scale: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        width = x.shape[-1:]
        init = nn.initializers.zeros if self.zero_scale else nn.initializers.ones
        scale = self.param("scale", init, width)
        bias = self.param("bias", nn.initializers.zeros, width)
        mean = self.variable("batch_stats", "mean", jnp.zeros, width)
        var = self.variable("batch_stats", "var", jnp.ones, width)
        if train:
            axes = tuple(range(x.ndim - 1))
            batch_mean = x.mean(axes)
            batch_var = jnp.maximum(jnp.square(x).mean(axes) - jnp.square(batch_mean), 0.0)
            if not self.is_initializing():
                mean.value = BN_MOMENTUM * mean.value + (1 - BN_MOMENTUM) * batch_mean
                var.value = BN_MOMENTUM * var.value + (1 - BN_MOMENTUM) * batch_var
        else:
            batch_mean, batch_var = mean.value, var.value
        factor = scale * jax.lax.rsqrt(batch_var + BN_EPSILON)
        return x * factor + (bias - batch_mean * factor)


class Pointwise(nn.Module):
    """1x1 convolution without bias: `float32[..., C]` -> `float32[..., features]`."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return conv.pointwise(x, self.param("kernel", _he_normal, (x.shape[-1], self.features)))


class Depthwise(nn.Module):
    """Depthwise convolution without bias: `float32[N, H, W, C]` -> `float32[N, H/s, W/s, C]`."""

    kernel: int
    stride: int
    lowering: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.kernel, self.kernel, x.shape[-1])
        w = self.param("kernel", _depthwise_init, shape)
        return conv.depthwise(x, w, self.stride, self.lowering)


class SqueezeExcite(nn.Module):
    """Scales each channel by a hard-sigmoid gate computed from the channels' means."""

    channels: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        gate = x.mean(axis=(1, 2))
        gate = nn.hard_swish(nn.Dense(self.channels, kernel_init=_he_normal, name="reduce")(gate))
        gate = nn.Dense(x.shape[-1], kernel_init=_he_normal, name="expand")(gate)
        return x * nn.hard_sigmoid(gate)[:, None, None, :]


class MBConv(nn.Module):
    """Inverted bottleneck: expand, depthwise, squeeze-and-excitation, project, residual."""

    block: Block
    lowering: str

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, branch_scale: jax.Array) -> jax.Array:
        """Applies the block to `float32[N, H, W, C]`; `branch_scale: float32[N]` multiplies the
        residual branch of each image."""
        b, act = self.block, ACTIVATIONS[self.block.activation]
        y = x
        if b.hidden != b.in_channels:
            y = act(BatchNorm(name="expand_bn")(Pointwise(b.hidden, name="expand")(y), train))
        y = Depthwise(b.kernel, b.stride, self.lowering, name="depthwise")(y)
        y = act(BatchNorm(name="depthwise_bn")(y, train))
        if b.se_channels:
            y = SqueezeExcite(b.se_channels, name="se")(y)
        y = Pointwise(b.out_channels, name="project")(y)
        y = BatchNorm(zero_scale=b.residual, name="project_bn")(y, train)
        if not b.residual:
            return y
        return x + y * branch_scale[:, None, None, None] if train else x + y


class Network(nn.Module):
    """The network of one architecture: stem, MBConv stages, MBPool head, classifier.

    Attributes:
      arch: the architecture.
      lowering: `shift` or `conv`, see `jointnas_jax.nets.conv`.
    """

    arch: ArchSpec
    lowering: str = "conv"

    @nn.compact
    def __call__(
        self,
        images: jax.Array,
        train: bool = False,
        dropout: jax.Array | float = 0.0,
        stochastic_depth: jax.Array | float = 0.0,
    ) -> jax.Array:
        """Returns logits `float32[N, L]`.

        Args:
          images: `float32[N, R, R, C]`, normalised.
          train: use batch statistics and the two drop rates; needs the RNG streams `dropout` and
            `stochastic_depth`.
          dropout: `float32[]`, drop probability before the classifier.
          stochastic_depth: `float32[]`, drop probability of the last block; that of block l of L is
            l / L of it.
        """
        arch = self.arch
        stem, head = arch.stem, arch.head
        shape = (stem.kernel, stem.kernel, arch.image_channels, stem.channels)
        # The official stem also carries a bias, which the BN behind it cancels.
        w = self.param("stem", _he_normal, shape)
        x = conv.conv(images, w, stem.stride, self.lowering)
        x = ACTIVATIONS[stem.activation](BatchNorm(name="stem_bn")(x, train))

        blocks = list(arch.blocks())
        scales = jnp.ones((len(blocks), len(x)))
        if train:
            rates = stochastic_depth * jnp.arange(1, len(blocks) + 1) / len(blocks)
            # One draw for all blocks: each draw of its own costs compile time.
            scales = drop(scales, rates[:, None], self.make_rng("stochastic_depth"))
        for block, scale in zip(blocks, scales, strict=True):
            x = MBConv(block, self.lowering, name=block.name)(x, train, scale)

        act = ACTIVATIONS[head.activation]
        x = Pointwise(round8(x.shape[-1] * head.expand), name="head_expand")(x)
        x = act(BatchNorm(name="head_bn")(x, train)).mean(axis=(1, 2))
        x = act(Pointwise(head.channels, name="head_project")(x))
        if train:
            x = drop(x, dropout, self.make_rng("dropout"))
        return nn.Dense(arch.num_classes, kernel_init=_he_normal, name="classifier")(x)


def drop(x: jax.Array, rate: jax.Array, key: jax.Array) -> jax.Array:
    """Zeroes entries with probability `rate` and rescales the others. The key is consumed.

    Unlike `nn.Dropout` this takes a traced rate, so that a new recipe compiles nothing.
    """
    return x * jax.random.bernoulli(key, 1.0 - rate, x.shape) / (1.0 - rate)
