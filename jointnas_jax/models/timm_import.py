"""Published weights of FBNetV3 networks, in timm's layout, as models."""

import dataclasses
from pathlib import Path

from jointnas_jax.errors import ModelError, nearest, one_line
from jointnas_jax.models.model import Model, numbered
from jointnas_jax.nets import zoo
from jointnas_jax.nets.timm_weights import class_count, from_timm, read_safetensors

# Evaluation of these weights in timm (`default_cfgs` in its `models/mobilenetv3.py`): side of the
# images, share of the shorter side in the crop, and ImageNet's mean and deviation. The sides are
# not those of the paper's networks (248, 248, 320).
SIDES = {"fbnetv3_b": 256, "fbnetv3_d": 256, "fbnetv3_g": 288}
CROP = 0.95
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


def import_timm(name: str, weights: Path, labels: Path | None = None) -> Model:
    """Reads weights in timm's layout.

    Args:
      name: Name of the network, one of `SIDES`.
      weights: safetensors file, whose classifier has the number of classes.
      labels: Text file with the name of each class, one a line; None numbers the classes.

    Raises:
      ModelError: There is no such network, or a file cannot be used.
    """
    if name not in SIDES:
        raise ModelError(f"there are no published weights of `{name}`{nearest(name, SIDES)}")
    tensors = read_safetensors(weights)
    try:
        count = class_count(tensors)
        arch = zoo.fbnetv3(name[-1], count, plain_padding=True)
        variables = from_timm(tensors, arch)
    except ModelError as error:
        raise ModelError(f"`{weights}` as `{name}`: {error}") from error
    side = SIDES[name]
    return Model(
        arch=dataclasses.replace(arch, resolution=side),
        variables=variables,
        mean=MEAN,
        std=STD,
        image_size=(side, side),
        crop=CROP,
        labels=_read_labels(labels, count) if labels else numbered(count),
    )


def _read_labels(path: Path, count: int) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8-sig").strip().splitlines()
    except (OSError, ValueError) as error:
        raise ModelError(f"class names `{path}` cannot be read: {one_line(error)}") from error
    if len(lines) != count:
        raise ModelError(f"`{path}` must have {count} lines, one name for each class; {len(lines)}")
    return tuple(line.strip() for line in lines)
