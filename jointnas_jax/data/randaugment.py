"""RandAugment on the device (Cubuk et al., arXiv 1909.13719, section 3).

A few transformations in a row, each one of fourteen with equal probability, all of one strength.
They are Pillow's, as in the paper's code; a warp fills in mid-grey from outside of the image.

H x W x C = image, values in [0, 255], as `float32`.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

_OUTSIDE = 128.0
# Largest rotation in degrees, shear, shift as a share of the side; bits that posterize takes away.
_ROTATE, _SHEAR, _SHIFT, _BITS = 30.0, 0.3, 0.45, 4
# How far an enhancement goes from the image as it is, at full strength.
_ENHANCE = 0.9


def transform(image: jax.Array, kind: jax.Array, sign: jax.Array, *, strength: float) -> jax.Array:
    """Applies one transformation.

    Args:
      image: `float32[H, W, C]`, whole numbers from 0 to 255.
      kind: `int32[]`, in `range(len(KINDS))`; -1 changes nothing.
      sign: `float32[]`, 1 or -1, the direction of a transformation that has one.
      strength: in [0, 1].
    """
    warp = lambda image: _warp(image, kind - len(_PHOTOMETRIC), sign, strength=strength)
    # Under `vmap` all branches are computed and one result is used, so the five warps share one.
    photometric = [
        lambda image, function=function: function(image, sign, strength)
        for function in _PHOTOMETRIC.values()
    ]
    branches = [lambda image: image, *photometric, warp]
    changed = jax.lax.switch(jnp.minimum(kind + 1, len(branches) - 1), branches, image)
    return jnp.round(jnp.clip(changed, 0, 255))


def transform_batch(
    images: jax.Array, kinds: jax.Array, signs: jax.Array, *, strength: float
) -> jax.Array:
    """Applies T transformations to each of `uint8[B, H, W, C]`; see `transform`.

    Their kinds are `int32[B, T]`, their signs `float32[B, T]`.
    """
    changed = images.astype(jnp.float32)
    one = jax.vmap(functools.partial(transform, strength=strength))
    for layer in range(kinds.shape[1]):
        changed = one(changed, kinds[:, layer], signs[:, layer])
    return changed.astype(jnp.uint8)


def _auto_contrast(image: jax.Array, sign: jax.Array, strength: float) -> jax.Array:
    low, high = image.min((0, 1)), image.max((0, 1))
    scale = jnp.where(high > low, 255 / jnp.maximum(high - low, 1), 1.0)
    return jnp.where(high > low, jnp.floor((image - low) * scale), image)


def _equalize(image: jax.Array, sign: jax.Array, strength: float) -> jax.Array:
    def channel(values: jax.Array) -> jax.Array:
        counts = jnp.bincount(values.ravel().astype(jnp.int32), length=256)
        # Pillow's step: the pixels outside of the last filled bin, spread over 255 values.
        last = counts[255 - jnp.argmax(counts[::-1] > 0)]
        step = (counts.sum() - last) // 255
        table = (step // 2 + jnp.cumsum(counts) - counts) // jnp.maximum(step, 1)
        table = jnp.where(step > 0, jnp.clip(table, 0, 255), jnp.arange(256))
        return table[values.astype(jnp.int32)].astype(jnp.float32)

    return jax.vmap(channel, in_axes=2, out_axes=2)(image)


def _solarize(image: jax.Array, sign: jax.Array, strength: float) -> jax.Array:
    return jnp.where(image < 256 * (1 - strength), image, 255 - image)


def _posterize(image: jax.Array, sign: jax.Array, strength: float) -> jax.Array:
    step = 2 ** round(_BITS * strength)
    return jnp.floor(image / step) * step


def _color(image: jax.Array, sign: jax.Array, strength: float) -> jax.Array:
    return _enhance(image, _grey(image), sign, strength=strength)


def _contrast(image: jax.Array, sign: jax.Array, strength: float) -> jax.Array:
    return _enhance(image, jnp.floor(_grey(image).mean() + 0.5), sign, strength=strength)


def _brightness(image: jax.Array, sign: jax.Array, strength: float) -> jax.Array:
    return _enhance(image, 0.0, sign, strength=strength)


def _sharpness(image: jax.Array, sign: jax.Array, strength: float) -> jax.Array:
    height, width, _ = image.shape
    rows = lambda i: slice(i, height - 2 + i)
    columns = lambda j: slice(j, width - 2 + j)
    around = sum(image[rows(i), columns(j)] for i in range(3) for j in range(3))
    smooth = jnp.floor((around + 4 * image[1:-1, 1:-1]) / 13 + 0.5)
    return _enhance(image, image.at[1:-1, 1:-1].set(smooth), sign, strength=strength)


def _enhance(
    image: jax.Array, without: jax.Array | float, sign: jax.Array, *, strength: float
) -> jax.Array:
    """Moves an image away from the one `without` a property, or towards it."""
    return jnp.floor(
        jnp.clip(without + (1 + sign * _ENHANCE * strength) * (image - without), 0, 255)
    )


def _grey(image: jax.Array) -> jax.Array:
    """Luminance `float32[H, W, 1]` (ITU-R 601-2, as Pillow); a grey image is its own."""
    if image.shape[2] != 3:
        return image
    return jnp.floor(image @ jnp.array([0.299, 0.587, 0.114])[:, None] + 0.5)


def _warp(image: jax.Array, kind: jax.Array, sign: jax.Array, *, strength: float) -> jax.Array:
    """Rotation, shears and shifts (`kind` 0 to 4) about the middle of the image."""
    height, width, _ = image.shape
    angle = jnp.deg2rad(_ROTATE * strength) * sign
    shear = _SHEAR * strength * sign
    down, right = _SHIFT * strength * sign * height, _SHIFT * strength * sign * width
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    one, zero = jnp.ones(()), jnp.zeros(())
    # Where the value at (y, x), counted from the middle, comes from: [yy, yx, xy, xx], [y, x].
    maps = jnp.array(
        [
            [cos, sin, -sin, cos],
            [one, zero, shear, one],
            [one, shear, zero, one],
            [one, zero, zero, one],
            [one, zero, zero, one],
        ]
    )[kind]
    shift = jnp.array([[zero, zero]] * 3 + [[zero, right], [down, zero]])[kind]
    y, x = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    y, x = y - (height - 1) / 2, x - (width - 1) / 2
    from_y = maps[0] * y + maps[1] * x + shift[0] + (height - 1) / 2
    from_x = maps[2] * y + maps[3] * x + shift[1] + (width - 1) / 2

    def channel(values: jax.Array) -> jax.Array:
        return map_coordinates(values, (from_y, from_x), order=1, mode="constant", cval=_OUTSIDE)

    return jax.vmap(channel, in_axes=2, out_axes=2)(image)


_PHOTOMETRIC: dict[str, Callable] = {
    "auto_contrast": _auto_contrast,
    "equalize": _equalize,
    "solarize": _solarize,
    "posterize": _posterize,
    "color": _color,
    "contrast": _contrast,
    "brightness": _brightness,
    "sharpness": _sharpness,
}
_WARPS = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
# The identity is the fourteenth, kind -1.
KINDS = (*_PHOTOMETRIC, *_WARPS)
