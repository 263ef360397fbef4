import numpy as np
import pytest
from PIL import Image

from jointnas_jax.data.image_file import read_image
from jointnas_jax.errors import DataError


def save(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


def random_image(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_of_the_right_size_is_not_touched(tmp_path, channels):
    image = random_image(9, 7, channels)
    file = save(tmp_path / "a.png", image.squeeze())
    np.testing.assert_array_equal(read_image(file, (9, 7, channels)), image)


def test_grey_and_colour_are_converted(tmp_path):
    grey, colour = random_image(8, 8), random_image(8, 8, 3)
    as_colour = read_image(save(tmp_path / "g.png", grey), (8, 8, 3))
    np.testing.assert_array_equal(as_colour, np.repeat(grey[..., None], 3, axis=-1))
    as_grey = read_image(save(tmp_path / "c.png", colour), (8, 8, 1))[..., 0]
    np.testing.assert_allclose(as_grey, colour @ [0.299, 0.587, 0.114], atol=1)
    see_through = np.concatenate([colour, random_image(8, 8, 1)], axis=-1)
    opaque = read_image(save(tmp_path / "a.png", see_through), (8, 8, 3))
    np.testing.assert_array_equal(opaque, colour)


def test_a_crop_keeps_the_middle_and_the_proportions(tmp_path):
    """Of 40 x 80 pixels half of the shorter side: the middle 20 x 20."""
    image = np.zeros((40, 80), np.uint8)
    image[10:30, 30:50] = 200
    file = save(tmp_path / "a.png", image)
    middle = read_image(file, (10, 10, 1), crop=0.5)
    assert (middle[1:-1, 1:-1] == 200).all()
    assert middle.min() > 100  # half of a pixel at the edge comes from outside
    assert (read_image(file, (10, 10, 1), crop=1.0) == 0).any()
    whole = read_image(file, (10, 10, 1))[..., 0]
    assert whole[5, 5] > 150  # a filter as wide as the shrinking looks over the edge
    assert whole[:, 0].max() == 0


def test_a_very_long_image_is_cropped_before_it_is_resized(tmp_path):
    file = save(tmp_path / "a.png", np.full((1, 60_000), 7, np.uint8))
    assert (read_image(file, (64, 64, 1), crop=0.95) == 7).all()


def test_a_photo_is_turned_upright(tmp_path):
    image = np.zeros((16, 32), np.uint8)
    image[:, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: what is left is up
    turned = read_image(save(tmp_path / "a.png", image, exif=exif), (32, 16, 1))[..., 0]
    assert turned[:15].min() == 255
    assert turned[17:].max() == 0


def test_what_is_no_image_is_one_line(tmp_path, monkeypatch):
    text, cut = tmp_path / "a.png", tmp_path / "b.png"
    text.write_text("no image")
    whole = save(tmp_path / "c.png", random_image(64, 64))
    cut.write_bytes(whole.read_bytes()[:2000])
    script = tmp_path / "d.eps"
    script.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EOF\n")
    for file in (tmp_path / "missing.png", tmp_path, text, cut, script):
        with pytest.raises(DataError, match=f"image `{file}` cannot be read: .") as caught:
            read_image(file, (8, 8, 1))
        assert str(caught.value).isprintable()
    wide = save(tmp_path / "e.tiff", random_image(8, 8).astype(np.float32))
    with pytest.raises(DataError, match="8 bits per channel, .* got Pillow's mode F"):
        read_image(wide, (8, 8, 1))
    with pytest.raises(DataError, match="1 or 3 channels, the network needs 4"):
        read_image(whole, (8, 8, 4))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64 - 1)
    with pytest.raises(DataError, match="exceeds limit"):
        read_image(whole, (8, 8, 1))
