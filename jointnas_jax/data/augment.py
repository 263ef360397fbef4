"""Augmentation of a batch on the device, between the stored image and the network.

`plan_epoch` draws all random numbers of an epoch at once: they depend on trial and epoch, not on
the architecture, so one compiled program draws them for every candidate.

Shapes: N images, B of them in a batch, S = N // B steps, H x W x C as stored, R = the
architecture's resolution, L classes.
"""

import functools
import math
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jointnas_jax.data.randaugment import KINDS


class Augmentation(NamedTuple):
    """Augmentation of a dataset, whatever the recipe."""

    crop_padding: int = 0  # pixels by which a stored image may shift, edges repeated
    flip: bool = False  # mirror left-right with probability 1/2
    # Smallest share of the image's area that a random crop keeps, at an aspect ratio from 3/4 to
    # 4/3, less where a side would be longer than the image's, resized to the network's resolution
    # (Inception's crop); 1 is off.
    min_area: float = 1.0
    transforms: int = 0  # RandAugment's transformations of each image
    strength: float = 0.9  # strength of the transformations, in [0, 1]


class EpochPlan(flax.struct.PyTreeNode):
    """The batches of one epoch, without the augmentations that are off."""

    steps: jax.Array  # int32[], steps of the epoch: members // B
    images: jax.Array  # int32[S, B], numbers of the images; rows from `steps` on are not used
    corners: jax.Array  # int32[S, B, 2], start of each crop in the padded image
    flips: jax.Array  # bool[S, B]
    mixup: jax.Array  # float32[S], mixing weight of each step
    # float32[S, B, 4], top, left, height and width of each crop as shares of the image.
    boxes: jax.Array | None = None
    kinds: jax.Array | None = None  # int32[S, B, T], RandAugment's transformations
    signs: jax.Array | None = None  # float32[S, B, T], 1 or -1, their directions


@functools.partial(jax.jit, static_argnames=("augmentation", "batch_size"))
def plan_epoch(
    members: jax.Array,
    alpha: jax.Array,
    key: jax.Array,
    *,
    augmentation: Augmentation,
    batch_size: int,
) -> EpochPlan:
    """Draws the batches of one epoch.

    Args:
      members: `bool[N]`, the images to train on; each is used once at most.
      alpha: `float32[]`, mixup's alpha.
      key: key of trial and epoch, consumed.
      augmentation: the augmentation.
      batch_size: B; an incomplete last batch is left out.
    """
    order_key, corner_key, flip_key, mixup_key = jax.random.split(key, 4)
    steps = len(members) // batch_size
    # Members first, in random order: non-members get the largest draws.
    draws = jnp.where(members, jax.random.uniform(order_key, members.shape), 2.0)
    order = jnp.argsort(draws)[: steps * batch_size]
    shape = (steps, batch_size)
    flips = jax.random.bernoulli(flip_key, 0.5, shape) & augmentation.flip
    limit = 2 * augmentation.crop_padding + 1
    # Streams 0 to 3 are the keys of `split`.
    kind_key, sign_key, box_key = (jax.random.fold_in(key, stream) for stream in (4, 5, 6))
    boxes = kinds = signs = None
    if augmentation.min_area < 1:
        boxes = _boxes(box_key, shape, augmentation.min_area)
    if augmentation.transforms:
        drawn = (*shape, augmentation.transforms)
        kinds = jax.random.randint(kind_key, drawn, minval=-1, maxval=len(KINDS))
        signs = jax.random.rademacher(sign_key, drawn, jnp.float32)
    return EpochPlan(
        steps=(members.sum() // batch_size).astype(jnp.int32),
        images=order.reshape(shape),
        corners=jax.random.randint(corner_key, (*shape, 2), minval=0, maxval=limit),
        flips=flips,
        mixup=mixup_weights(alpha, mixup_key, steps),
        boxes=boxes,
        kinds=kinds,
        signs=signs,
    )


def _boxes(key: jax.Array, shape: tuple[int, ...], min_area: float) -> jax.Array:
    """Draws `float32[*shape, 4]`, see `EpochPlan`. The key is consumed."""
    area_key, ratio_key, corner_key = jax.random.split(key, 3)
    area = jax.random.uniform(area_key, shape, minval=min_area, maxval=1.0)
    # At most as far from a square as both sides fit: a cut side would make the area too small.
    widest = jnp.minimum(math.log(4 / 3), -jnp.log(area))
    log_ratio = jax.random.uniform(ratio_key, shape, minval=-1.0, maxval=1.0) * widest
    half = jnp.exp(log_ratio / 2)
    sides = jnp.minimum(jnp.sqrt(area)[..., None] * jnp.stack([1 / half, half], -1), 1.0)
    corners = jax.random.uniform(corner_key, (*shape, 2)) * (1 - sides)
    return jnp.concatenate([corners, sides], -1)


def mixup_weights(alpha: jax.Array, key: jax.Array, count: int) -> jax.Array:
    """Draws `float32[count]` ~ Beta(alpha, alpha), 1 where alpha is 0. The key is consumed."""
    # At the small alphas in use, gamma draws underflow to 0 / 0; their logarithms do not.
    log_a, log_b = jax.random.loggamma(key, jnp.maximum(alpha, 1e-3), (2, count))
    return jnp.where(alpha > 0, jax.nn.sigmoid(log_a - log_b), 1.0)


def crop(
    images: jax.Array, corners: jax.Array, padding: int, *, windows: bool = False
) -> jax.Array:
    """Shifts each of `[B, H, W, C]` to start at `corners: int32[B, 2]` of its padded image.

    It shifts by 1, 2, 4, ... pixels where a corner has that bit: TPUs cut windows at places of
    their own out one image after the other, 5 microseconds each. With `windows` they are cut out;
    the pixels are the same, but on CPU the last bits of what is computed from them are not.
    """
    if not padding:
        return images
    height, width, channels = images.shape[1:]
    bits = (2 * padding).bit_length()
    # More than any corner reaches.
    pad = (padding, padding if windows else 2**bits - 1 - padding)
    images = jnp.pad(images, ((0, 0), pad, pad, (0, 0)), mode="edge")
    if windows:
        return jax.vmap(
            lambda image, corner: jax.lax.dynamic_slice(
                image, (corner[0], corner[1], 0), (height, width, channels)
            )
        )(images, corners)
    for axis in (1, 2):
        start = corners[:, axis - 1, None, None, None]
        for shift in (2**bit for bit in range(bits)):
            size = images.shape[axis] - shift
            cut = functools.partial(jax.lax.slice_in_dim, images, axis=axis)
            images = jnp.where(start & shift > 0, cut(shift, shift + size), cut(0, size))
    return images


def flip(images: jax.Array, flips: jax.Array) -> jax.Array:
    """Mirrors images `[B, H, W, C]` left-right where `flips: bool[B]`."""
    return jnp.where(flips[:, None, None, None], images[:, :, ::-1], images)


def normalise(images: jax.Array, mean: ArrayLike, std: ArrayLike) -> jax.Array:
    """Maps `uint8[B, H, W, C]` to `float32`, each channel to zero mean and unit variance."""
    return (images.astype(jnp.float32) - mean) / std


def resize(images: jax.Array, resolution: int) -> jax.Array:
    """Resizes `float32[B, H, W, C]` to `float32[B, R, R, C]`, bilinear with anti-aliasing."""
    shape = (images.shape[0], resolution, resolution, images.shape[3])
    return images if images.shape == shape else jax.image.resize(images, shape, "bilinear")


def crop_resize(images: jax.Array, boxes: jax.Array, resolution: int) -> jax.Array:
    """Cuts `boxes: float32[B, 4]` out of `float32[B, H, W, C]` and resizes them to R x R."""
    height, width, channels = images.shape[1:]

    def one(image: jax.Array, box: jax.Array) -> jax.Array:
        size = box[2:] * jnp.array([height, width])
        scale = resolution / size
        start = -box[:2] * jnp.array([height, width]) * scale
        shape = (resolution, resolution, channels)
        return jax.image.scale_and_translate(
            image, shape, spatial_dims=(0, 1), scale=scale, translation=start, method="bilinear"
        )

    return jax.vmap(one)(images, boxes)


def mix(
    images: jax.Array, targets: jax.Array, weight: jax.Array, parts: int = 1
) -> tuple[jax.Array, jax.Array]:
    """Mixup: `weight * x + (1 - weight) * partner` (Zhang et al., arXiv 1710.09412).

    Images are `float32[B, H, W, C]`, targets class probabilities `float32[B, L]`. The partner of
    image i is image B - 1 - i, as good as a random one in a shuffled batch; in a batch in the
    order of `nets.network.shared_order` these two are in the same of the `parts`, mirrored in it.
    """

    def mixed(x: jax.Array) -> jax.Array:
        cut = x.reshape(parts, -1, *x.shape[1:])
        return weight * x + (1 - weight) * cut[:, ::-1].reshape(x.shape)

    return mixed(images), mixed(targets)
