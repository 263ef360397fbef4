"""Image files, decoded by Pillow: those of a dataset and those from outside by the same function.

Images are upright (EXIF), transparency is left out (the colours stay as stored), colour profiles
are not applied, and of several frames the first one counts. Palettes become their colours, and 16
bits their upper 8.
"""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin
from PIL.ImageFile import ImageFile

from jointnas_jax.errors import DataError, one_line

# Listed, because for some other formats Pillow starts a program (for EPS, Ghostscript).
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
# By channels; a dataset may have transparency as one of them.
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
CHANNELS = tuple(_MODES)
_GREY = ("1", "L", "LA")
# Pillow converts these to one other mode only.
_DETOURS = {"La": "LA", "RGBa": "RGBA", "PA": "RGBA", "LAB": "RGB"}

# Of Pillow: about large images, which are an error here, and odd metadata. Filters of a `with` are
# not for threads.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", module=r"PIL\.")


def decode_image(file: Path | BinaryIO, channels: int, name: str) -> Image.Image:
    """Decodes an image; see the text above.

    Args:
      file: the file, or its bytes.
      channels: 1 (grey), 2 (grey and transparency), 3 (colour) or 4 (colour and transparency).
      name: name of the image, for errors.

    Returns:
      An image of 8 bits per channel, of Pillow's mode for these channels.

    Raises:
      DataError: the file is missing, damaged, no image of a format in the list, too large, or of a
        colour space or range that has no 8 bits.
    """
    mode = _MODES[channels]
    with _upright(file, name) as image:
        return image if image.mode == mode else image.convert(mode)


def describe_image(file: Path | BinaryIO, name: str) -> tuple[int, int, int]:
    """Height, width and channels, 1 or 3, that an image has when it is decoded; decodes it.

    Raises `DataError` as `decode_image` does.
    """
    with _upright(file, name) as image:
        image.load()
        return image.height, image.width, 1 if image.mode in _GREY else 3


@contextlib.contextmanager
def _upright(file: Path | BinaryIO, name: str) -> Iterator[Image.Image]:
    """An open image, upright and of 8 bits; what fails to decode in it is a `DataError`."""
    try:
        with Image.open(file, formats=_FORMATS) as image:
            limit = Image.MAX_IMAGE_PIXELS
            if limit and image.width * image.height > limit:
                raise DataError(f"{name} cannot be read: it exceeds limit of {limit:,} pixels")
            ImageOps.exif_transpose(image, in_place=True)
            upright = _upper_bits(image, name) if image.mode.startswith(("I", "F")) else image
            if upright.mode in _DETOURS:
                upright = upright.convert(_DETOURS[upright.mode])
            yield upright
    except DataError:
        raise
    except Image.UnidentifiedImageError as error:
        known = ", ".join(_FORMATS)
        raise DataError(f"{name} cannot be read: it is no image, or none of {known}") from error
    except Exception as error:  # decoders raise many kinds
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise DataError(f"{name} cannot be read: {one_line(reason)}") from error


def read_image(path: Path, shape: tuple[int, int, int], crop: float | None = None) -> np.ndarray:
    """Reads an image file, upright, grey or in colour, bilinear with anti-aliasing.

    Args:
      path: the file; only the first of several frames is read.
      shape: H, W, C; C is 1 or 3.
      crop: share of the shorter side that a crop from the centre keeps, in the proportions of
        `shape`; None takes the whole image, and distorts it where its proportions differ.

    Returns:
      `uint8[H, W, C]`.

    Raises:
      DataError: as `decode_image`; or there is no colour mode of C channels.
    """
    height, width, channels = shape
    if channels not in (1, 3):
        raise DataError(f"image files have 1 or 3 channels, the network needs {channels}")
    image, box = decode_image(path, channels, f"image `{path}`"), None
    if crop is not None:
        # In pixels of the file: resizing first would blow up a very long image.
        scale = min(image.width / width, image.height / height) * crop
        left, top = (image.width - width * scale) / 2, (image.height - height * scale) / 2
        box = (left, top, left + width * scale, top + height * scale)
    image = image.resize((width, height), Image.Resampling.BILINEAR, box)
    return np.asarray(image).reshape(shape)


def _upper_bits(image: ImageFile, name: str) -> Image.Image:
    """The upper 8 bits of a grey image of more; raises `DataError`."""
    bits, inverted = 0, False
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        bits = 16
    if bits and isinstance(image, TiffImagePlugin.TiffImageFile):
        (bits,) = image.tag_v2[TiffImagePlugin.BITSPERSAMPLE]
        inverted = image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
    if bits not in (12, 16):
        raise DataError(
            f"{name} must have 8 bits per channel, or 16 without a sign, got Pillow's mode "
            f"{image.mode}, whose range is not known; convert it"
        )
    values = (np.asarray(image) >> (bits - 8)).astype(np.uint8)
    return Image.fromarray(255 - values if inverted else values)
