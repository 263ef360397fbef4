"""A candidate's network as a Flax module.

Shapes: N images, R = resolution, C image channels, L classes, B blocks. "map" is a feature map in
the layout of the lowering, see `nets/conv.py`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jointnas_jax.nets import conv
from jointnas_jax.nets.envelope import Envelope, Switches
from jointnas_jax.nets.norm import (
    ACTIVATIONS,
    Affine,
    Moments,
    batch_norm,
    moving_average,
    normalise,
)
from jointnas_jax.space import ArchSpec, Block

# More than any stage has blocks; see `_draws`.
_BLOCKS_PER_STAGE = 1024

_he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


def _depthwise_init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """He initialisation with the fan-in of a depthwise kernel `[k, k, C]`, which is k * k."""
    k = shape[0]
    return _he_normal(key, (k * k, shape[-1]), dtype).reshape(shape)


class BatchNorm(nn.Module):
    """Batch normalisation with the activation behind it; see `nets/norm.py`."""

    lowering: str = "conv"
    activation: str = ""
    zero_scale: bool = False  # start the scale at 0, in the last BN before a residual is added

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        axis = conv.channel_axis(self.lowering)
        width = x.shape[axis : axis + 1]
        init = nn.initializers.zeros if self.zero_scale else nn.initializers.ones
        scale = self.param("scale", init, width)
        affine = Affine(scale, self.param("bias", nn.initializers.zeros, width))
        mean = self.variable("batch_stats", "mean", jnp.zeros, width)
        var = self.variable("batch_stats", "var", jnp.ones, width)
        kind = dict(activation=self.activation, lowering=self.lowering)
        if not train:
            return normalise(x, Moments(mean.value, var.value), affine, **kind)
        y, batch = batch_norm(x, affine, **kind)
        if not self.is_initializing():
            mean.value = moving_average(mean.value, batch.mean)
            var.value = moving_average(var.value, batch.var)
        return y


class Pointwise(nn.Module):
    """1x1 convolution without bias: map of C channels -> map of `features` channels."""

    features: int
    lowering: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[conv.channel_axis(self.lowering)], self.features)
        return conv.pointwise(x, self.param("kernel", _he_normal, shape), self.lowering)


class Depthwise(nn.Module):
    """Depthwise convolution without bias; see `conv.depthwise`."""

    kernel: int
    stride: int
    trim: int
    lowering: str

    @nn.compact
    def __call__(self, x: jax.Array, true_kernel: jax.Array | None = None) -> jax.Array:
        """Applies it; the taps outside of `true_kernel: int32[]` stay zero."""
        shape = (self.kernel, self.kernel, x.shape[conv.channel_axis(self.lowering)])
        w = self.param("kernel", _depthwise_init, shape)
        if true_kernel is not None:
            w = w * tap_mask(self.kernel, true_kernel)
        return conv.depthwise(
            x,
            w,
            stride=self.stride,
            lowering=self.lowering,
            true_kernel=true_kernel,
            trim=self.trim,
        )


def tap_mask(kernel: int, true_kernel: jax.Array) -> jax.Array:
    """`bool[k, k, 1]`: the taps of a smaller kernel in the middle of a larger one."""
    inside = abs(jnp.arange(kernel) - kernel // 2) <= true_kernel // 2
    return (inside[:, None] & inside)[:, :, None]


class SqueezeExcite(nn.Module):
    """Scales each channel by a hard-sigmoid gate computed from the channels' means."""

    channels: int
    lowering: str = "conv"

    @nn.compact
    def __call__(self, x: jax.Array, on: jax.Array | None = None) -> jax.Array:
        """Applies the gate to a map; where `on: float32[]` is 0, the gate is open."""
        means = conv.pool(x, self.lowering)
        gate = nn.Dense(self.channels, kernel_init=_he_normal, name="reduce")(means)
        gate = nn.Dense(means.shape[-1], kernel_init=_he_normal, name="expand")(nn.hard_swish(gate))
        gate = nn.hard_sigmoid(gate)
        if on is not None:
            gate = jnp.where(on > 0, gate, 1.0)
        return x * conv.gate(gate.astype(x.dtype), self.lowering)


class MBConv(nn.Module):
    """Inverted bottleneck: expand, depthwise, squeeze-and-excitation, project, residual."""

    block: Block
    lowering: str

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        *,
        train: bool,
        branch_scale: jax.Array,
        switches: Switches | None = None,
    ) -> jax.Array:
        """Applies the block to a map; in an envelope with the switches of this block, scalars.

        Training uses batch statistics, and `branch_scale: float32[N]` multiplies the residual
        branch of each image.
        """
        b, low = self.block, self.lowering
        y = x
        if b.expands:
            y = Pointwise(b.hidden, low, name="expand")(y)
            y = BatchNorm(low, b.activation, name="expand_bn")(y, train)
        if switches:
            y = jnp.where(switches.expands > 0, y, fit_channels(x, b.hidden, low))
        depthwise = Depthwise(
            kernel=b.kernel, stride=b.stride, trim=b.trim, lowering=low, name="depthwise"
        )
        y = depthwise(y, switches.kernel if switches else None)
        y = BatchNorm(low, b.activation, name="depthwise_bn")(y, train)
        if b.se_channels:
            se = SqueezeExcite(b.se_channels, low, name="se")
            y = se(y, switches.se if switches else None)
        y = Pointwise(b.out_channels, low, name="project")(y)
        y = BatchNorm(low, zero_scale=b.residual, name="project_bn")(y, train)
        scale = branch_scale if train else None
        return add_residual(x, y, b, lowering=low, branch_scale=scale, switches=switches)


def add_residual(
    x: jax.Array,
    y: jax.Array,
    block: Block,
    *,
    lowering: str,
    branch_scale: jax.Array | None,
    switches: Switches | None,
) -> jax.Array:
    """Returns the output of a block, given its input and the output of its last BN."""
    scaled = y
    if branch_scale is not None:
        scaled = y * conv.per_image(branch_scale.astype(y.dtype), lowering)
    if switches is None:
        return x + scaled if block.residual else y
    # An absent block is a residual block whose branch is zero.
    present, residual = (s.astype(y.dtype) for s in (switches.present, switches.residual))
    y = present * (jnp.where(residual > 0, scaled, y) if block.residual else y)
    if not block.residual:
        return y
    return y + residual * fit_channels(x, block.out_channels, lowering)


def fit_channels(x: jax.Array, channels: int, lowering: str) -> jax.Array:
    """Pads a map with zero channels, or cuts off its last ones."""
    axis = conv.channel_axis(lowering)
    x = jax.lax.slice_in_dim(x, 0, min(channels, x.shape[axis]), axis=axis)
    widths = [(0, channels - x.shape[axis] if a == axis else 0) for a in range(4)]
    return jnp.pad(x, widths)


class _Parts(nn.Module):
    """Stem and head of a network.

    Variables, statistics, logits and everything behind a global pool are float32.
    """

    arch: ArchSpec | Envelope
    lowering: str = "conv"  # or `matmul`, see `nets/conv.py`
    block: type[nn.Module] = MBConv
    dtype: str = "float32"  # or `bfloat16`, the dtype of feature maps
    mapped: bool = False  # whether it runs under `vmap` over variables, see `conv.conv`
    parts: int = 1  # in which devices share a batch, in the order of `shared_order`

    @nn.nowrap
    def _stem(self, images: jax.Array, train: bool) -> jax.Array:
        """The first convolution: `float32[N, R, R, C]` -> map."""
        stem, low = self.arch.stem, self.lowering
        shape = (stem.kernel, stem.kernel, self.arch.image_channels, stem.channels)
        # The official stem also carries a bias, which the BN behind it cancels.
        w = self.param("stem", _he_normal, shape)
        x = conv.to_map(images.astype(self.dtype), low)
        x = conv.conv(x, w, stride=stem.stride, lowering=low, mapped=self.mapped)
        return BatchNorm(low, stem.activation, name="stem_bn")(x, train)

    @nn.nowrap
    def _head(self, x: jax.Array, train: bool, dropout: jax.Array | float) -> jax.Array:
        """Everything behind the last block: map -> logits `float32[N, L]`."""
        arch, head, low = self.arch, self.arch.head, self.lowering
        x = Pointwise(arch.head_hidden, low, name="head_expand")(x)
        x = conv.pool(BatchNorm(low, head.activation, name="head_bn")(x, train), low)
        project = nn.Dense(
            head.channels, use_bias=False, kernel_init=_he_normal, name="head_project"
        )
        x = ACTIVATIONS[head.activation](project(x))
        if train:
            order = shared_order(len(x), self.parts)
            draws = _draws(self.make_rng("dropout"), np.arange(head.channels), order)
            x = drop(x, dropout, draws.T)
        return nn.Dense(arch.num_classes, kernel_init=_he_normal, name="classifier")(x)


class Network(_Parts):
    """The network of one architecture: stem, MBConv stages, MBPool head, classifier.

    Of an envelope it is every architecture inside: `switches` say which.
    """

    @nn.compact
    def __call__(
        self,
        images: jax.Array,
        *,
        train: bool = False,
        dropout: jax.Array | float = 0.0,
        stochastic_depth: jax.Array | float = 0.0,
        switches: Switches | None = None,
    ) -> jax.Array:
        """Returns logits `float32[N, L]`.

        Args:
          images: `float32[N, R, R, C]`, normalised.
          train: use batch statistics and the two drop rates; needs the RNG streams `dropout` and
            `stochastic_depth`.
          dropout: `float32[]`, drop probability before the classifier.
          stochastic_depth: `float32[]`, drop probability of the last block; block l of L has l / L
            of it.
          switches: the architecture inside the envelope, `[B]` arrays; None without an envelope.
        """
        x = self._stem(images, train)
        blocks = list(self.arch.blocks())
        scales = jnp.ones((len(blocks), images.shape[0]))  # a symbol in an exported program
        if train:
            depth = switches.depth if switches else jnp.arange(1, len(blocks) + 1) / len(blocks)
            rows = np.array([_BLOCKS_PER_STAGE * b.stage + b.index for b in blocks])
            order = shared_order(len(images), self.parts)
            draws = _draws(self.make_rng("stochastic_depth"), rows, order)
            scales = drop(scales, stochastic_depth * depth[:, None], draws)
        for i, block in enumerate(blocks):
            switch = jax.tree.map(lambda s, i=i: s[i], switches)
            module = self.block(block, self.lowering, name=block.name)
            x = module(x, train=train, branch_scale=scales[i], switches=switch)
        return self._head(x, train, dropout)


class NetworkPart(_Parts):
    """The stem, the only block or the head of a network, with its variables."""

    part: str = "block"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the part, not training, to its input in the network."""
        if self.part == "stem":
            return self._stem(x, train=False)
        if self.part == "head":
            return self._head(x, train=False, dropout=0.0)
        (block,) = self.arch.blocks()
        module = self.block(block, self.lowering, name=block.name)
        return module(x, train=False, branch_scale=jnp.ones(1))


def drop(x: jax.Array, rate: jax.Array | float, draws: jax.Array) -> jax.Array:
    """Zeroes entries with probability `rate` and rescales the others, by uniform `draws`.

    Unlike `nn.Dropout` this takes a traced rate, so that a new recipe compiles nothing.
    """
    return x * (draws >= rate) / (1.0 - rate)


def shared_order(batch: int, parts: int) -> np.ndarray:
    """Positions `int[B]` of a batch in the order in which devices share it.

    Each of the equal `parts` has both image i and image B - 1 - i, which mixup mixes, so that no
    device waits for an image of another. B is a multiple of twice the parts, or there is one.
    """
    if parts == 1:
        return np.arange(batch)
    halves = np.arange(batch // 2).reshape(parts, -1)
    return np.concatenate([halves, batch - 1 - halves[:, ::-1]], axis=1).ravel()


def _draws(key: jax.Array, rows: np.ndarray, order: np.ndarray) -> jax.Array:
    """Uniform draws `float32[R, N]`, one key for each of `rows: int[R]`.

    Image n has the draw of position `order[n]`. A row depends on its number alone: a block or
    channel gets the same draws whatever other blocks and channels the network, or its envelope,
    has. The key is consumed.
    """
    draw = lambda row: jax.random.uniform(jax.random.fold_in(key, row), (len(order),))
    draws = jax.vmap(draw)(rows)
    return draws if (order == np.arange(len(order))).all() else draws[:, order]
