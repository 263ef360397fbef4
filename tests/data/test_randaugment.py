"""Every transformation is Pillow's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from jointnas_jax.data.randaugment import KINDS, transform, transform_batch

STRENGTH = 0.5


@pytest.fixture(scope="module")
def photo():
    """Smooth, with an edge, neither dark nor bright everywhere, 24 x 32."""
    y, x = np.mgrid[:24, :32]
    planes = [90 + 3 * x + 40 * (y > 12), 60 + 5 * y + 2 * x, 200 - 4 * y - x]
    return np.clip(np.stack(planes, -1), 0, 255).astype(np.uint8)


def ours(photo, name, sign=1.0, strength=STRENGTH):
    changed = jax.jit(transform, static_argnames="strength")(
        jnp.float32(photo), KINDS.index(name), jnp.float32(sign), strength=strength
    )
    return np.asarray(changed)


# Enhancements go from what they take away (0) past the image (1): 1 +- 0.9 * strength.
PILLOW = {
    "auto_contrast": lambda image, sign: ImageOps.autocontrast(image),
    "equalize": lambda image, sign: ImageOps.equalize(image),
    "solarize": lambda image, sign: ImageOps.solarize(image, round(256 * (1 - STRENGTH))),
    "posterize": lambda image, sign: ImageOps.posterize(image, 8 - round(4 * STRENGTH)),
    "color": lambda image, sign: ImageEnhance.Color(image).enhance(1 + 0.9 * sign * STRENGTH),
    "contrast": lambda image, sign: ImageEnhance.Contrast(image).enhance(1 + 0.9 * sign * STRENGTH),
    "brightness": lambda image, sign: ImageEnhance.Brightness(image).enhance(
        1 + 0.9 * sign * STRENGTH
    ),
    "sharpness": lambda image, sign: ImageEnhance.Sharpness(image).enhance(
        1 + 0.9 * sign * STRENGTH
    ),
}


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("name", PILLOW)
def test_colours_change_as_in_pillow(photo, name, sign):
    expected = np.asarray(PILLOW[name](Image.fromarray(photo), sign), np.float32)
    # Pillow rounds here and there on the way.
    np.testing.assert_allclose(ours(photo, name, sign), expected, atol=1.01)
    assert (ours(photo, name, sign) != photo).any()


WARPS = {  # Pillow's affine coefficients, of pixels counted from the middle
    "rotate": lambda s: (np.cos(s), -np.sin(s), 0, np.sin(s), np.cos(s), 0),
    "shear_x": lambda s: (1, 0.3 * STRENGTH * s, 0, 0, 1, 0),
    "shear_y": lambda s: (1, 0, 0, 0.3 * STRENGTH * s, 1, 0),
    "translate_x": lambda s: (1, 0, 0.45 * STRENGTH * s * 32, 0, 1, 0),
    "translate_y": lambda s: (1, 0, 0, 0, 1, 0.45 * STRENGTH * s * 24),
}


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("name", WARPS)
def test_warps_move_pixels_as_in_pillow(photo, name, sign):
    a, b, c, d, e, f = WARPS[name](np.deg2rad(30 * STRENGTH) * sign if name == "rotate" else sign)
    # From the middle of the image: Pillow counts from the corner, at the middle of pixels.
    middle_x, middle_y = 16, 12
    c += middle_x - a * middle_x - b * middle_y
    f += middle_y - d * middle_x - e * middle_y
    image = Image.fromarray(photo)
    expected = np.asarray(
        image.transform(image.size, Image.Transform.AFFINE, (a, b, c, d, e, f), Image.BILINEAR)
    )
    inside = np.asarray(
        Image.new("L", image.size, 255).transform(
            image.size, Image.Transform.AFFINE, (a, b, c, d, e, f), Image.BILINEAR
        )
    )
    moved = ours(photo, name, sign)
    known = inside == 255
    # At the border Pillow takes the nearest pixel.
    known[1:-1, 1:-1] &= known[:-2, 1:-1] & known[2:, 1:-1] & known[1:-1, :-2] & known[1:-1, 2:]
    known[[0, -1]] = known[:, [0, -1]] = False
    assert known.mean() > 0.4
    close = np.abs(moved - expected)[known] <= 2
    assert close.mean() > 0.99
    assert (moved != photo).any()


def test_what_comes_from_outside_is_grey(photo):
    moved = ours(photo, "translate_x", 1.0)
    assert (moved[:, -1] == 128).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_batch_keeps_its_form_and_each_image_its_own_transformations(channels):
    images = np.random.default_rng(0).integers(0, 256, (4, 9, 7, channels), dtype=np.uint8)
    kinds = jnp.array([[-1, -1], [2, -1], [-1, 2], [2, 3]])
    out = np.asarray(transform_batch(images, kinds, jnp.ones((4, 2)), strength=STRENGTH))
    assert (out.dtype, out.shape) == (np.uint8, images.shape)
    np.testing.assert_array_equal(out[0], images[0])
    solarized = np.where(images < 128, images, 255 - images)
    np.testing.assert_array_equal(out[1], solarized[1])
    np.testing.assert_array_equal(out[2], solarized[2])
    np.testing.assert_array_equal(out[3], solarized[3] // 4 * 4)


@pytest.mark.parametrize("kind", range(-1, len(KINDS)))
def test_strength_0_changes_little_but_for_what_has_no_strength(photo, kind):
    name = "identity" if kind < 0 else KINDS[kind]
    if name in ("auto_contrast", "equalize"):
        pytest.skip("these have no strength")
    changed = transform(jnp.float32(photo), kind, jnp.float32(1.0), strength=0.0)
    np.testing.assert_allclose(changed, photo, atol=0.51)
