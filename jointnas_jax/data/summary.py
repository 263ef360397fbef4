"""What a dataset holds, before anything trains on it: numbers, a line for people, a contact sheet.

N images of a part, H x W x C.
"""

import hashlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from jointnas_jax.data.source import ImageDataset, Images, Split

# Rows and columns of a contact sheet, and the pixels of an image in it, at least.
_CLASSES, _COLUMNS, _SIDE = 20, 12, 48
_GAP = 2
# Share of images that is too little of them to be used without a word.
_LITTLE = 0.6
# Images of which sizes are looked up, and that are compared with each other.
_LOOKED_AT, _COMPARED = 2_000, 200_000


def summarise(
    dataset: ImageDataset, images: tuple[Images, np.ndarray, Images], train_split: str
) -> dict[str, Any]:
    """Describes the images of a study.

    Args:
      dataset: the dataset.
      images: training split, `bool[N]` which of it validate, test split.
      train_split: name of the training split.

    Returns:
      `images` by part, `classes` (name -> images by part), `smallest` (name of the class with the
      fewest training images), `shape` as loaded, `stored` (least and largest height and width),
      `used` (share of an image that is loaded, in the mean), and `copies`: images of one content,
      `within` the training images and `across` these and others; None where there are too many
      images to compare, or they stay on disk.
    """
    train, validation, test = images
    parts = {
        "training": train.labels[~validation],
        "validation": train.labels[validation],
        "test": test.labels,
    }
    count = len(dataset.labels)
    counts = {part: np.bincount(labels, minlength=count) for part, labels in parts.items()}
    sizes = dataset.stored_sizes(train_split, _LOOKED_AT)
    every = counts["training"] + counts["validation"]
    return {
        "name": dataset.name,
        "images": {part: len(labels) for part, labels in parts.items()},
        "classes": {
            name: {part: int(counts[part][i]) for part in parts}
            for i, name in enumerate(dataset.labels)
        },
        "smallest": dataset.labels[int(every.argmin())],
        "shape": list(dataset.image_shape),
        "stored": [sizes.min(0).tolist(), sizes.max(0).tolist()],
        "used": _used(sizes, dataset.image_shape[:2]),
        "copies": _copies(train, validation, test),
    }


def in_words(summary: Mapping[str, Any]) -> list[str]:
    """A summary for people, one line or more."""
    classes, smallest = summary["classes"], summary["smallest"]
    fewest = sum(classes[smallest][part] for part in ("training", "validation"))
    (low, high), shape = summary["stored"], summary["shape"]
    sizes = _size(low) if low == high else f"{_size(low)} to {_size(high)}"
    lines = [
        f"{len(classes)} classes, the smallest, `{smallest}`, with {fewest:,} training images; "
        f"files of {sizes}, used at {_size(shape[:2])}, {shape[2]} channels"
    ]
    if summary.get("used", 1.0) < _LITTLE:
        lines.append(
            f"warning: images have other proportions than {_size(shape[:2])}: of their area "
            f"{summary['used']:.0%} is used, the middle"
        )
    copies = summary["copies"]
    if copies and copies["within"]:
        lines.append(f"{copies['within']:,} training images are copies of others")
    if copies and copies["across"]:
        lines.append(
            f"warning: {copies['across']:,} validation or test images are training images, too: "
            "what they say is worth nothing"
        )
    return lines


def _used(sizes: np.ndarray, shape: tuple[int, int]) -> float:
    """Mean share of images of `sizes: int64[n, 2]` in the part with the proportions of a shape."""
    ratios = sizes / np.array(shape)
    return float((ratios.min(1) / ratios.max(1)).mean())


def _size(size: Sequence[int]) -> str:
    return "x".join(map(str, size))


def _copies(train: Images, validation: np.ndarray, test: Images) -> dict[str, int] | None:
    decoded = isinstance(train, Split) and isinstance(test, Split)
    if not decoded or len(train) + len(test) > _COMPARED:
        return None
    ours, theirs = _digests(train), _digests(test)
    known = set(ours[~validation])
    others = [*ours[validation], *theirs]
    return {
        "within": int((~validation).sum()) - len(known),
        "across": sum(digest in known for digest in others),
    }


def _digests(images: Images) -> np.ndarray:
    """A digest of each image, `bytes[N]`."""
    digests: list[bytes] = []
    for start in range(0, len(images), 1024):
        pixels, _ = images.read(np.arange(start, min(start + 1024, len(images))))
        digests += [hashlib.blake2b(p.tobytes(), digest_size=16).digest() for p in pixels]
    return np.array(digests, object)


def contact_sheet(images: Images, labels: Sequence[str]) -> bytes:
    """Some images of each class as a PNG file: a row for each class, the first classes only.

    Args:
      images: of the training split.
      labels: names of the classes.
    """
    rows = []
    for label in range(min(len(labels), _CLASSES)):
        chosen = np.flatnonzero(images.labels == label)[:_COLUMNS]
        pixels = images.read(chosen)[0] if len(chosen) else np.zeros((0, 1, 1, 1), np.uint8)
        rows.append([_tile(image) for image in pixels])
    width = max(tile.width for row in rows for tile in row)
    height = max(tile.height for row in rows for tile in row)
    size = (_COLUMNS * (width + _GAP), len(rows) * (height + _GAP))
    sheet = Image.new("RGB", size, "white")
    for y, row in enumerate(rows):
        for x, tile in enumerate(row):
            sheet.paste(tile, (x * (width + _GAP), y * (height + _GAP)))
    file = io.BytesIO()
    sheet.save(file, format="PNG")
    return file.getvalue()


def _tile(image: np.ndarray) -> Image.Image:
    """An image `uint8[H, W, C]` as colours, large enough to see; of many channels the first."""
    channels = image.shape[-1]
    colours = np.repeat(image[..., :1], 3, -1) if channels < 3 else image[..., :3]
    tile = Image.fromarray(colours)
    scale = _SIDE / min(tile.size)
    if scale > 1:
        return tile.resize([round(side * scale) for side in tile.size], Image.Resampling.NEAREST)
    tile.thumbnail((2 * _SIDE, 2 * _SIDE))
    return tile
