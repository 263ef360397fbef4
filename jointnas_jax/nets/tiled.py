"""MBConv blocks of an envelope that compute the true channels only.

An envelope pads the expansion of every block to the largest of its architectures, yet everything
from the expansion to the projection treats channels apart: expand, BN, depthwise, BN and the rows
of the projection. So a block runs as a loop over tiles of a few channels, whose number of rounds is
an array: an architecture pays for its own width, and an absent block for nothing. A tile stays in
the cache of a core besides. SE couples the channels through one small gate, between two such loops.

A loop whose length is an array has no derivative in JAX; `_branch` brings its own. It saves the
outputs of expansion and depthwise convolution, and computes BN and activation again.

For lowering `matmul`, on devices with one lane: under `vmap` a loop runs as long as its longest
lane. Shapes: T channels of a tile, C input and D output channels, N images.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from jointnas_jax.nets import conv
from jointnas_jax.nets.envelope import Switches
from jointnas_jax.nets.network import BatchNorm, MBConv, add_residual, fit_channels, tap_mask
from jointnas_jax.nets.norm import (
    Affine,
    Moments,
    batch_norm,
    batch_norm_gradients,
    moving_average,
    normalise,
)
from jointnas_jax.space import Block

_LOW = "matmul"
# Bytes of a tile's map before the depthwise convolution; half and double were slower.
_TILE_BYTES = 512 * 1024
_LARGEST_TILE = 32


class Static(NamedTuple):
    """Static properties of a branch."""

    stride: int
    activation: str


class Tile(NamedTuple):
    """The weights of a tile, `float32`; of all tiles with a leading axis."""

    expand: Any  # [T, C]; None in a block that never expands
    expand_bn: Affine | None  # [T], behind the expansion; None likewise
    depthwise: Any  # [T, k, k]
    depthwise_bn: Affine  # [T], behind the depthwise convolution
    project: Any  # [T, D]


class Flags(NamedTuple):
    """The switches that act inside a branch, and its number of tiles."""

    expands: jax.Array  # float32[]
    se: jax.Array  # float32[]
    kernel: jax.Array  # int32[]
    tiles: jax.Array  # int32[]


class TiledMBConv(nn.Module):
    """`MBConv` inside an envelope, with the same variables; trains in tiles, evaluates whole."""

    block: Block
    lowering: str = _LOW

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool, branch_scale: jax.Array, switches: Switches
    ) -> jax.Array:
        """See `MBConv`."""
        b = self.block
        if not train:
            whole = functools.partial(MBConv(b, _LOW, parent=None).apply, self.variables)
            out: Any = whole(x, train=train, branch_scale=branch_scale, switches=switches)
            return out
        params, stats = self.variables["params"], self.variables["batch_stats"]
        size, count = tiles(b.hidden, x[0].size)
        weights = _cut(b, params, switches, size=size, count=count)
        channels = count * size
        x_in = x if b.expands else fit_channels(x, channels, _LOW)
        se = _pad_se(params["se"], channels) if b.se_channels else None
        flags = Flags(
            expands=switches.expands,
            se=switches.se,
            kernel=switches.kernel,
            tiles=-(-switches.hidden // size),
        )
        static = Static(b.stride, b.activation)
        y, moments = _branch(static, x_in, weights, se=se, flags=flags)
        for name, moment in moments.items():
            new = {k: v.reshape(-1)[: b.hidden] for k, v in moment._asdict().items()}
            self.put_variable("batch_stats", name, jax.tree.map(moving_average, stats[name], new))
        y = BatchNorm(_LOW, zero_scale=b.residual, name="project_bn")(y, train)
        return add_residual(x, y, b, lowering=_LOW, branch_scale=branch_scale, switches=switches)


def tiles(channels: int, values: int) -> tuple[int, int]:
    """Cuts channels, each of so many values before the depthwise convolution, into equal tiles.

    Returns:
      Channels of a tile, a multiple of 8, and the number of tiles.
    """
    largest = min(_LARGEST_TILE, max(8, _TILE_BYTES // (4 * values) // 8 * 8))
    count = -(-channels // largest)
    return -(-channels // (8 * count)) * 8, count


def _cut(block: Block, params: Any, switches: Switches, *, size: int, count: int) -> Tile:
    """Cuts the weights of a block into tiles, the last one padded with zeros."""

    def cut(w: jax.Array) -> jax.Array:  # channels first
        w = jnp.pad(w, [(0, count * size - block.hidden)] + [(0, 0)] * (w.ndim - 1))
        return w.reshape(count, size, *w.shape[1:])

    def cut_bn(name: str) -> Affine:
        return Affine(cut(params[name]["scale"]), cut(params[name]["bias"]))

    expand = expand_bn = None
    if block.expands:
        w = params["expand"]["kernel"].T
        # Without expansion a branch works on the block's input: the identity selects it.
        w = jnp.where(switches.expands > 0, w, jnp.eye(w.shape[0], w.shape[1]))
        expand, expand_bn = cut(w), cut_bn("expand_bn")
    kernel = params["depthwise"]["kernel"] * tap_mask(block.kernel, switches.kernel)
    return Tile(
        expand=expand,
        expand_bn=expand_bn,
        depthwise=cut(kernel.transpose(2, 0, 1)),
        depthwise_bn=cut_bn("depthwise_bn"),
        project=cut(params["project"]["kernel"]),
    )


def _pad_se(se: Any, channels: int) -> Any:
    """Pads the channels of the SE weights to whole tiles."""
    missing = channels - se["reduce"]["kernel"].shape[0]
    rows, columns, entries = ((0, missing), (0, 0)), ((0, 0), (0, missing)), (0, missing)
    return {
        "reduce": se["reduce"] | {"kernel": jnp.pad(se["reduce"]["kernel"], rows)},
        "expand": {
            "kernel": jnp.pad(se["expand"]["kernel"], columns),
            "bias": jnp.pad(se["expand"]["bias"], entries),
        },
    }


# `custom_vjp` has no keyword-only arguments.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _branch(static: Static, x: jax.Array, weights: Tile, se: Any, flags: Flags) -> tuple:
    """From a block's input `[C, H, W, N]` to its projection `[D, H/s, W/s, N]`.

    In a block that never expands the input is padded to whole tiles.

    Returns:
      The projection, and the `Moments` of each BN by name, `float32[tiles, T]` each.
    """
    return _branch_forward(static, x, weights, se=se, flags=flags)[0]


def _branch_forward(
    static: Static, x: jax.Array, weights: Tile, se: Any, flags: Flags
) -> tuple[tuple, tuple]:
    stride, activation = static
    scale = weights.depthwise_bn.scale
    count, size = scale.shape
    _, height, width, n = x.shape
    small = (size, -(-height // stride), -(-width // stride), n)
    # What is not written is not read, except for the moments.
    buffer = lambda shape: lax.empty((count, *shape), x.dtype)
    zeros = jnp.zeros_like(scale)
    moments = Moments(zeros, zeros)
    expanded = None if weights.expand is None else (buffer((size, height, width, n)), moments)
    saved = (expanded, buffer(small), moments)

    def compute(t: jax.Array) -> tuple:
        """The saved values of a tile, and its output."""
        tile = _at(weights, t)
        before, expanded = _expand(static, x, tile, flags=flags, t=t)
        d = _depthwise(before, tile.depthwise, static=static, flags=flags)
        y, moments = batch_norm(d, tile.depthwise_bn, activation=activation, lowering=_LOW)
        return (expanded, d, moments), y

    project = lambda t, y: _at(weights.project, t).T @ y.reshape(size, -1)
    total = jnp.zeros((weights.project.shape[2], small[1] * small[2] * n))
    if se is None:

        def add(t: jax.Array, carry: tuple) -> tuple:
            saved, total = carry
            values, y = compute(t)
            return _put(saved, values, t), total + project(t, y)

        saved, total = lax.fori_loop(0, flags.tiles, add, (saved, total))
        gated = None
    else:

        def keep(t: jax.Array, carry: tuple) -> tuple:
            values, y = compute(t)
            return _put(carry, (values, y, y.mean((1, 2))), t)

        carry = (saved, buffer(small), jnp.zeros((count, size, n)))
        saved, outputs, means = lax.fori_loop(0, flags.tiles, keep, carry)
        gates = _gates(se, means, flags.se)

        def add_gated(t: jax.Array, total: jax.Array) -> jax.Array:
            y, g = _at((outputs, gates), t)
            return total + project(t, y * g[:, None, None])

        total = lax.fori_loop(0, flags.tiles, add_gated, total)
        gated = (outputs, means, gates)
    expanded, _, last = saved
    by_name = {"depthwise_bn": last}
    if expanded is not None:
        by_name["expand_bn"] = jax.tree.map(lambda v: v * flags.expands, expanded[1])
    y = total.reshape(-1, *small[1:])
    return (y, by_name), (x, weights, se, flags, saved, gated)


def _branch_backward(static: Static, saved_all: tuple, cotangents: tuple) -> tuple:
    x, weights, se, flags, (expanded, depthwise, moments), gated = saved_all
    kind = dict(activation=static.activation, lowering=_LOW)
    dout = cotangents[0].reshape(cotangents[0].shape[0], -1)  # running statistics have none
    channels, size = x.shape[0], weights.depthwise_bn.scale.shape[1]
    small = depthwise.shape[1:]

    def backward(t: jax.Array, dy: jax.Array, dx: jax.Array) -> tuple[jax.Array, Tile]:
        """From the gradient of a tile's output to dx and the weights' gradients."""
        tile, d, moments_d = _at((weights, depthwise, moments), t)
        dd, dbn = batch_norm_gradients(d, dy, moments_d, affine=tile.depthwise_bn, **kind)
        if expanded is None:
            before = lax.dynamic_slice_in_dim(x, t * size, size)
        else:
            z, moments_z = _at(expanded, t)
            a = normalise(z, moments_z, tile.expand_bn, **kind)
            before = jnp.where(flags.expands > 0, a, z)
        convolve = functools.partial(_depthwise, static=static, flags=flags)
        _, to_before = jax.vjp(convolve, before, tile.depthwise)
        dbefore, dkernel = to_before(dd)
        gradients = Tile(
            expand=None, expand_bn=None, depthwise=dkernel, depthwise_bn=dbn, project=None
        )
        if expanded is None:
            return lax.dynamic_update_slice_in_dim(dx, dbefore, t * size, axis=0), gradients
        da = dbefore * flags.expands
        dz, dexpand_bn = batch_norm_gradients(z, da, moments_z, affine=tile.expand_bn, **kind)
        dz = jnp.where(flags.expands > 0, dz, dbefore).reshape(size, -1)
        dx = dx + (tile.expand.T @ dz).reshape(dx.shape)
        dexpand = dz @ x.reshape(channels, -1).T
        return dx, gradients._replace(expand=dexpand, expand_bn=dexpand_bn)

    dweights, dx = jax.tree.map(jnp.zeros_like, weights), jnp.zeros_like(x)
    dproject, dweights = dweights.project, dweights._replace(project=None)
    if se is None:

        def step(t: jax.Array, carry: tuple) -> tuple:
            dx, dweights, dproject = carry
            dx, gradients = backward(t, (_at(weights.project, t) @ dout).reshape(small), dx)
            tile, d, moments_d = _at((weights, depthwise, moments), t)
            y = normalise(d, moments_d, tile.depthwise_bn, **kind)
            new = (gradients, y.reshape(size, -1) @ dout.T)
            dweights, dproject = _put((dweights, dproject), new, t)
            return dx, dweights, dproject

        dx, dweights, dproject = lax.fori_loop(0, flags.tiles, step, (dx, dweights, dproject))
        return dx, dweights._replace(project=dproject), None, None

    gates = gated[2]
    dgated, dmeans, dproject, dse = _gate_gradients(weights, se, flags, gated=gated, dout=dout)

    def step_rest(t: jax.Array, carry: tuple) -> tuple:
        dx, dweights = carry
        d, g, m = _at((dgated, gates, dmeans), t)
        dx, gradients = backward(t, d * g[:, None, None] + m[:, None, None], dx)
        return dx, _put(dweights, gradients, t)

    dx, dweights = lax.fori_loop(0, flags.tiles, step_rest, (dx, dweights))
    return dx, dweights._replace(project=dproject), dse, None


def _gate_gradients(
    weights: Tile, se: Any, flags: Flags, *, gated: tuple, dout: jax.Array
) -> tuple:
    """Backward through projection and gate.

    Returns:
      Gradients of the gated outputs, the channels' means, the projection's weights and the
      variables of the SE.
    """
    outputs, means, gates = gated
    size, small = outputs.shape[1], outputs.shape[1:]

    def step(t: jax.Array, carry: tuple) -> tuple:
        y, g, w = _at((outputs, gates, weights.project), t)
        dgated = (w @ dout).reshape(small)
        dw = (y * g[:, None, None]).reshape(size, -1) @ dout.T
        return _put(carry, (dgated, dw, (dgated * y).sum((1, 2))), t)

    carry = (
        lax.empty(outputs.shape, outputs.dtype),
        jnp.zeros_like(weights.project),
        jnp.zeros_like(gates),
    )
    dgated, dproject, dgates = lax.fori_loop(0, flags.tiles, step, carry)
    _, to_means = jax.vjp(lambda se, means: _gates(se, means, flags.se), se, means)
    dse, dmeans = to_means(dgates)
    return dgated, dmeans / (small[1] * small[2]), dproject, dse


_branch.defvjp(_branch_forward, _branch_backward)


def _expand(
    static: Static, x: jax.Array, tile: Tile, *, flags: Flags, t: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, Moments] | None]:
    """Input of a tile's depthwise convolution; output of its expansion with the moments."""
    size = tile.depthwise_bn.scale.shape[0]
    if tile.expand is None or tile.expand_bn is None:
        return lax.dynamic_slice_in_dim(x, t * size, size), None
    z = (tile.expand @ x.reshape(x.shape[0], -1)).reshape(size, *x.shape[1:])
    kind = dict(activation=static.activation, lowering=_LOW)
    a, moments = batch_norm(z, tile.expand_bn, **kind)
    return jnp.where(flags.expands > 0, a, z), (z, moments)


def _depthwise(x: jax.Array, kernel: jax.Array, *, static: Static, flags: Flags) -> jax.Array:
    kernel = kernel.transpose(1, 2, 0)
    return conv.depthwise(x, kernel, stride=static.stride, lowering=_LOW, true_kernel=flags.kernel)


def _gates(se: Any, means: jax.Array, on: jax.Array) -> jax.Array:
    """Gates `float32[tiles, T, N]` of an SE, from the channels' means of the same shape."""
    flat = means.reshape(-1, means.shape[2])
    reduced = se["reduce"]["kernel"].T @ flat + se["reduce"]["bias"][:, None]
    gates = se["expand"]["kernel"].T @ nn.hard_swish(reduced) + se["expand"]["bias"][:, None]
    return jnp.where(on > 0, nn.hard_sigmoid(gates), 1.0).reshape(means.shape)


def _at(values: Any, t: jax.Array) -> Any:
    """Entry t of every leaf."""
    return jax.tree.map(lambda v: lax.dynamic_index_in_dim(v, t, keepdims=False), values)


def _put(buffers: Any, values: Any, t: jax.Array) -> Any:
    """Writes entry t of every leaf."""
    return jax.tree.map(
        lambda b, v: lax.dynamic_update_index_in_dim(b, v, t, axis=0), buffers, values
    )
