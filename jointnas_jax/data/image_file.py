"""Image files from outside, decoded by Pillow, as inputs of a network."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from jointnas_jax.errors import DataError, one_line

# Listed, because for some other formats Pillow starts a program (for EPS, Ghostscript).
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_MODES = {1: "L", 3: "RGB"}


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
      DataError: the file is missing, damaged, no image, too large, or has more than 8 bits per
        channel; or there is no colour mode of C channels.
    """
    height, width, channels = shape
    if channels not in _MODES:
        raise DataError(f"image files have 1 or 3 channels, the network needs {channels}")
    image, box = _decode(path, _MODES[channels]), None
    if crop is not None:
        # In pixels of the file: resizing first would blow up a very long image.
        scale = min(image.width / width, image.height / height) * crop
        left, top = (image.width - width * scale) / 2, (image.height - height * scale) / 2
        box = (left, top, left + width * scale, top + height * scale)
    image = image.resize((width, height), Image.Resampling.BILINEAR, box)
    return np.asarray(image).reshape(shape)


def _decode(path: Path, mode: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=_FORMATS) as file:
                upright = ImageOps.exif_transpose(file)
                if not file.mode.startswith(("I", "F")):
                    return upright.convert(mode)
                wide = file.mode
    except Exception as error:  # decoders raise many kinds
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise DataError(f"image `{path}` cannot be read: {one_line(reason)}") from error
    raise DataError(f"image `{path}` must have 8 bits per channel, got Pillow's mode {wide}")
