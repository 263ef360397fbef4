"""Contract: training and `classify` see the same pixels of an image, of any mode and format."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms, TiffImagePlugin
from test_source import write_dataset

from jointnas_jax.data.image_file import read_image
from jointnas_jax.data.source import open_dataset
from jointnas_jax.errors import DataError

RED_BLUE = np.zeros((16, 16, 3), np.uint8)
RED_BLUE[:, :8] = (250, 10, 10)
RED_BLUE[:, 8:] = (10, 10, 240)
COLOUR = Image.fromarray(RED_BLUE)
SQUARES = np.add.outer(np.arange(16), np.arange(16)).astype(np.uint8) * 8
GREY = Image.fromarray(SQUARES)
DEEP = SQUARES.astype(np.uint16) * 256 + 77
LEFT = Image.fromarray(np.where(np.arange(16) < 8, 200, 0).astype(np.uint8)[None].repeat(16, 0))
UP = np.asarray(LEFT.transpose(Image.Transpose.ROTATE_270))


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return file.getvalue()


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6  # what is left is up
    return exif


def transparent(image, opaque=0):
    image = image.copy()
    image.putalpha(Image.new("L", image.size, opaque))
    return image


def tiff(array, **tags):
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for number, value in tags.items():
        info[getattr(TiffImagePlugin, number)] = value
    return encoded(Image.fromarray(array), "TIFF", tiffinfo=info)


def clear(image, kind="PNG"):
    """A palette image, one of whose colours is transparent."""
    return encoded(image.quantize(4), kind, transparency=0)


def pgm(maximum):
    values = DEEP.astype(int) * maximum // 65535
    return b"P5 16 16 %d\n" % maximum + values.astype(">u2").tobytes()


def lab(image):
    srgb, target = (ImageCms.createProfile(name) for name in ("sRGB", "LAB"))
    return ImageCms.profileToProfile(image, srgb, target, outputMode="LAB")


# Name -> file, its pixels (None: refused), how far off those may be.
FILES = {
    "L": (encoded(GREY), SQUARES, 0),
    "RGB": (encoded(COLOUR), RED_BLUE, 0),
    "1": (encoded(LEFT.point(lambda v: v and 255).convert("1")), np.asarray(LEFT) // 200 * 255, 0),
    "palette, colour": (encoded(COLOUR.quantize(4)), RED_BLUE, 0),
    "palette, grey": (encoded(LEFT.quantize(4)), np.asarray(LEFT), 0),
    "palette, transparent": (clear(COLOUR), RED_BLUE, 0),
    "LA": (encoded(transparent(GREY)), SQUARES, 0),
    "RGBA": (encoded(transparent(COLOUR, 100)), RED_BLUE, 0),
    "RGB, transparent colour": (encoded(COLOUR, transparency=(250, 10, 10)), RED_BLUE, 0),
    "16-bit PNG": (encoded(Image.fromarray(DEEP)), SQUARES, 0),
    "16-bit TIFF": (tiff(DEEP), SQUARES, 0),
    "16-bit TIFF, white is zero": (
        tiff(65535 - DEEP, PHOTOMETRIC_INTERPRETATION=0),
        SQUARES,
        0,
    ),
    "16-bit PGM": (pgm(65535), SQUARES, 1),
    "10-bit PGM": (pgm(1023), SQUARES, 1),
    "32-bit TIFF": (tiff(DEEP.astype(np.int32)), None, 0),
    "float TIFF": (tiff(SQUARES.astype(np.float32)), None, 0),
    "CMYK TIFF": (encoded(COLOUR.convert("CMYK"), "TIFF"), RED_BLUE, 1),
    "CMYK JPEG": (encoded(COLOUR.convert("CMYK"), "JPEG", quality=100), RED_BLUE, 6),
    "LAB TIFF": (encoded(lab(COLOUR), "TIFF"), RED_BLUE, 14),
    "JPEG": (encoded(COLOUR, "JPEG", quality=100, subsampling=0), RED_BLUE, 4),
    "JPEG, turned": (encoded(LEFT, "JPEG", quality=100, exif=turned()), UP, 4),
    "PNG, turned": (encoded(LEFT, exif=turned()), UP, 0),
    "palette, turned": (encoded(LEFT.quantize(4), exif=turned()), UP, 0),
    "16-bit PNG, turned": (
        encoded(Image.fromarray(np.asarray(LEFT).astype(np.uint16) * 256), exif=turned()),
        UP,
        0,
    ),
    "GIF": (clear(COLOUR, "GIF"), RED_BLUE, 0),
    "GIF, frames": (
        encoded(COLOUR.quantize(4), "GIF", save_all=True, append_images=[GREY.quantize(4)]),
        RED_BLUE,
        0,
    ),
    "BMP": (encoded(COLOUR, "BMP"), RED_BLUE, 0),
    "WebP, transparent": (
        encoded(transparent(COLOUR, 9), "WEBP", lossless=True, exact=True),
        RED_BLUE,
        0,
    ),
    "JPEG2000": (encoded(COLOUR, "JPEG2000"), RED_BLUE, 0),
    "TGA, which is not in the list": (encoded(COLOUR, "TGA"), None, 0),
    "no image": (b"no image", None, 0),
    "half an image": (encoded(GREY, compress_level=0)[:150], None, 0),
}


def expected(pixels, channels):
    image = Image.fromarray(pixels.astype(np.uint8))
    return np.asarray(image.convert({1: "L", 3: "RGB"}[channels])).reshape(16, 16, channels)


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """A function from the name of a file and channels to its pixels in training."""
    sources = {}
    for channels in (1, 3):
        files = [(data, i % 2) for i, (data, _, _) in enumerate(FILES.values())]
        root = tmp_path_factory.mktemp(str(channels))
        folder = write_dataset(root, {"train": files}, shape=(16, 16, channels))
        dataset = open_dataset(dict(name="", dir=str(folder), image_size=0))
        source = dataset.open_split("train")  # in another order
        order = {source[i]["image"]: i for i in range(len(source))}
        sources[channels] = dataset, source, order

    def read(name, channels):
        dataset, source, order = sources[channels]
        return dataset.decode(source, "train", np.array([order[FILES[name][0]]]))[0][0]

    return read


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", FILES)
def test_training_and_classify_see_the_same_right_pixels_or_refuse(
    training, tmp_path, name, channels
):
    content, pixels, off = FILES[name]
    file = tmp_path / "image"
    file.write_bytes(content)
    readers = {
        "example": lambda: training(name, channels),
        "image": lambda: read_image(file, (16, 16, channels)),
    }
    for what, reader in readers.items():
        if pixels is None:
            with pytest.raises(DataError, match=what) as error:
                reader()
            assert str(error.value).isprintable()
        else:
            read = reader()
            assert read.dtype == np.uint8
            difference = np.abs(read.astype(int) - expected(pixels, channels))
            assert difference.max() <= off, what
    if pixels is not None:
        np.testing.assert_array_equal(readers["example"](), readers["image"]())


@pytest.mark.parametrize("channels", [2, 4])
def test_a_dataset_may_have_transparency_as_a_channel(tmp_path, channels):
    image = transparent(GREY if channels == 2 else COLOUR, 100)
    folder = write_dataset(
        tmp_path, {"train": [(encoded(image), i) for i in (0, 1)]}, shape=(16, 16, channels)
    )
    images = open_dataset(dict(name="", dir=str(folder), image_size=0)).load("train").images
    np.testing.assert_array_equal(images[0], np.asarray(image))
