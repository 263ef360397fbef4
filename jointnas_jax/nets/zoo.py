"""The published networks FBNetV3-A to G (arXiv 2006.02049), by the official model definitions.

    arch = zoo.fbnetv3("a")
    variables = zoo.module("a").init(key, images)

FLOPs and params equal the published figures to the digit (`nets/cost.py`).
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from jointnas_jax.errors import SpaceError, nearest
from jointnas_jax.space import ArchSpec, Head, Stage, Stem, read_arch

if TYPE_CHECKING:
    from jointnas_jax.nets.network import Network

_STRIDES = (1, 2, 2, 2, 1, 2, 1)
_SE = (False, False, True, False, True, True, True)
_RESOLUTION = dict(a=224, b=248, c=248, d=248, e=264, f=272, g=320)
_STEM = dict(a=16, b=16, c=16, d=24, e=24, f=24, g=32)
# Channels, depth, kernel first / rest, expansion first / rest, and where the official padding is
# less than (k-1)/2, the trim. B is A at another resolution.
_STAGES = {
    "a": (
        (16, 2, 3, 3, 1, 1),
        (24, 4, 5, 5, 4, 2),
        (40, 5, 5, 5, 5, 3),
        (72, 5, 5, 3, 5, 3, 1),
        (120, 6, 3, 5, 5, 3),
        (184, 6, 3, 5, 6, 4, 1),
        (224, 1, 5, 5, 6, 6),
    ),
    "c": (
        (16, 2, 3, 3, 1, 1),
        (24, 5, 5, 3, 5, 3),
        (48, 5, 5, 5, 5, 2),
        (88, 5, 5, 3, 4, 3, 1),
        (120, 6, 3, 5, 4, 3),
        (216, 6, 5, 5, 5, 5, 1),
        (216, 1, 5, 5, 6, 6),
    ),
    "d": (
        (16, 2, 3, 3, 1, 1),
        (24, 6, 3, 3, 5, 2),
        (40, 5, 5, 3, 4, 3),
        (72, 5, 3, 3, 5, 3),
        (128, 7, 3, 5, 5, 3),
        (208, 6, 3, 5, 6, 5),
        (240, 1, 5, 5, 6, 6),
    ),
    "e": (
        (16, 3, 3, 3, 1, 1),
        (24, 5, 5, 5, 4, 2),
        (48, 5, 5, 5, 4, 3),
        (80, 5, 5, 3, 5, 3, 1),
        (128, 8, 3, 5, 5, 3),
        (216, 6, 3, 5, 6, 5),
        (240, 1, 5, 5, 6, 6),
    ),
    "f": (
        (24, 3, 3, 3, 1, 1),
        (32, 5, 5, 5, 4, 2),
        (56, 5, 5, 5, 4, 3),
        (88, 5, 5, 3, 5, 3),
        (144, 9, 3, 5, 5, 3),
        (248, 7, 3, 5, 6, 5, 1),
        (272, 1, 5, 5, 6, 6),
    ),
    "g": (
        (24, 3, 3, 3, 1, 1),
        (40, 5, 5, 5, 4, 2),
        (56, 5, 5, 5, 4, 3),
        (104, 5, 5, 3, 5, 3),
        (160, 9, 3, 5, 5, 3),
        (264, 7, 3, 5, 6, 5),
        (288, 2, 5, 5, 6, 6),
    ),
}
_STAGES["b"] = _STAGES["a"]
NAMES = tuple(f"fbnetv3_{letter}" for letter in _STEM)


def fbnetv3(letter: str, num_classes: int = 1000, plain_padding: bool = False) -> ArchSpec:
    """Returns a published network, "a" to "g"; raises `SpaceError` for another letter.

    With `plain_padding` every convolution is padded by (k-1)/2, as in the weights that other
    libraries publish; officially some halving layers of A, B, C, E and F are padded less.
    """
    letter = letter.lower()
    if letter not in _STEM:
        raise SpaceError(f"there is no FBNetV3-{letter}; known: {', '.join(_STEM)}")
    stages = []
    for row, stride, se in zip(_STAGES[letter], _STRIDES, _SE, strict=True):
        channels, depth, kernel_first, kernel_rest, expand_first, expand_rest, *trim = row
        stage = Stage(
            channels=channels,
            depth=depth,
            kernel_first=kernel_first,
            kernel_rest=kernel_rest,
            expand_first=expand_first,
            expand_rest=expand_rest,
            stride=stride,
            trim=0 if plain_padding else sum(trim),
            se=se,
        )
        stages.append(stage)
    return ArchSpec(
        resolution=_RESOLUTION[letter],
        image_channels=3,
        num_classes=num_classes,
        stem=Stem(_STEM[letter]),
        stages=tuple(stages),
        head=Head(),
    )


def module(letter: str, num_classes: int = 1000, plain_padding: bool = False) -> "Network":
    """Returns the Flax module of a published network; see `fbnetv3`."""
    from jointnas_jax.nets.network import Network  # costs need no JAX

    return Network(fbnetv3(letter, num_classes, plain_padding))


def find(name: str, plain_padding: bool = False) -> ArchSpec:
    """Returns a network by its full name, such as `fbnetv3_a`, or from a candidate's JSON file.

    Raises `SpaceError` if there is neither.
    """
    if name in NAMES:
        return fbnetv3(name[-1], plain_padding=plain_padding)
    if name.endswith(".json") or os.path.isfile(name):
        return read_arch(Path(name))
    raise SpaceError(f"there is no network and no file `{name}`{nearest(name, NAMES)}")
