"""A trained network with all that its images need: on disk, and at work.

An imported model is a folder with `model.json` and its weights; a finished study's workdir is read
as the model of its first winner.
"""

import dataclasses
import functools
import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jointnas_jax.data import augment
from jointnas_jax.data.image_file import read_image
from jointnas_jax.errors import DamagedError, ModelError, one_line
from jointnas_jax.files import read_json, remove_unfinished, write_json
from jointnas_jax.nets.init import variable_shapes
from jointnas_jax.nets.network import Network
from jointnas_jax.space import ArchSpec
from jointnas_jax.study.checkpoint import load_variables, save_variables
from jointnas_jax.study.workdir import MODEL, RESULT, TRAINED, WEIGHTS

_WINNER = "winner0"


@dataclasses.dataclass(frozen=True)
class Model:
    """A trained network and how images reach it.

    Attributes:
      arch: the network.
      variables: its Flax variables.
      mean: of each channel, 0 to 255, what images are normalised by.
      std: likewise, positive.
      image_size: height and width that an image file is brought to; the network resizes them to its
        resolution.
      crop: see `read_image`.
      labels: name of each class.
    """

    arch: ArchSpec
    variables: Any = dataclasses.field(repr=False)
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: tuple[int, int]
    crop: float | None
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        """Raises `ModelError` if the parts do not fit together."""
        channels, classes = self.arch.image_channels, self.arch.num_classes
        for name, values in (("mean", self.mean), ("std", self.std)):
            sound = all(_is_number(v) and (v > 0 or name == "mean") for v in values)
            if len(values) != channels or not sound:
                raise ModelError(
                    f"`pixels.{name}` must be {channels} finite numbers, deviations above 0, "
                    f"got {values!r}"
                )
        if not all(isinstance(s, int) and s > 0 for s in self.image_size):
            raise ModelError(f"`image_size` must be two positive integers, got {self.image_size!r}")
        if self.crop is not None and not (_is_number(self.crop) and 0 < self.crop <= 1):
            raise ModelError(f"`crop` must be null or a number in (0, 1], got {self.crop!r}")
        if len(self.labels) != classes or not all(isinstance(s, str) for s in self.labels):
            raise ModelError(
                f"`labels` must be {classes} names, one for each class, got {len(self.labels)}"
            )
        if jax.tree.map(np.shape, self.variables) != variable_shapes(self.arch):
            raise ModelError("the weights do not have the names and shapes of the architecture")

    def classify(self, path: Path, top: int) -> list[dict[str, Any]]:
        """Returns the `top` most probable classes of an image file, best first.

        Each is `{"index": int, "label": str, "probability": float}`. Raises `DataError` as
        `read_image` does.
        """
        image = read_image(path, (*self.image_size, self.arch.image_channels), self.crop)
        (probabilities,) = self.probabilities(image[None])
        return [
            {"index": int(i), "label": self.labels[i], "probability": float(probabilities[i])}
            for i in np.argsort(-probabilities, kind="stable")[:top]
        ]

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Returns `float32[N, L]` for `images: uint8[N, H, W, C]` of `image_size`."""
        return np.asarray(self._program(self.variables, images))

    @functools.cached_property
    def _program(self) -> Callable[[Any, jax.Array], jax.Array]:
        mean, std = np.float32(self.mean), np.float32(self.std)

        def program(variables: Any, images: jax.Array) -> jax.Array:
            x = augment.resize(augment.normalise(images, mean, std), self.arch.resolution)
            return jax.nn.softmax(Network(self.arch).apply(variables, x))

        return jax.jit(program)


def numbered(count: int) -> tuple[str, ...]:
    """Names of classes that have none."""
    return tuple(str(i) for i in range(count))


def save_model(model: Model, folder: Path, overwrite: bool = False) -> None:
    """Writes a model into a folder that is new, empty, or with `overwrite` holds an imported one.

    Raises:
      ModelError: it is none of these, or cannot be written.
    """
    try:
        if folder.exists():
            remove_unfinished(folder)
        if folder.exists() and any(folder.iterdir()):
            if not (folder / MODEL).is_file():
                raise ModelError(f"`{folder}` holds other things; give another --out")
            if not overwrite:
                raise ModelError(f"`{folder}` exists; give another --out, or use --overwrite")
            if (folder / WEIGHTS).exists():
                shutil.rmtree(folder / WEIGHTS)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / MODEL, _describe(model))
        save_variables(folder / WEIGHTS, model.variables)
    except OSError as error:
        raise ModelError(f"`{folder}` cannot be written: {one_line(error)}") from error


def load_model(folder: Path) -> Model:
    """Reads a model: one that `save_model` wrote, that of a training of one candidate, or the
    first winner of a finished study.

    Raises:
      InputError: the folder holds neither, or something in it breaks a rule.
      DamagedError: the result or the weights are not what was written.
    """
    if (folder / TRAINED / MODEL).is_file():
        folder = folder / TRAINED
    if (folder / MODEL).is_file():
        file, read = folder / MODEL, _read_imported
    elif (folder / RESULT).is_file():
        file, read = folder / RESULT, _read_winner
    else:
        raise ModelError(
            f"`{folder}` holds no model: neither the `{RESULT}` of a finished study nor the "
            f"`{MODEL}` that scripts/import_weights.py writes"
        )
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        # A model's description may be written by hand; a study's result has a digest.
        return read(folder, read_json(file) if file.name == RESULT else data)
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError, RecursionError) as error:
        raise ModelError(f"`{file}` cannot be read as a model: {one_line(repr(error))}") from error


def _describe(model: Model) -> dict[str, Any]:
    """The content of `model.json`: all but the weights."""
    return {
        "arch": model.arch.to_dict(),
        "image_size": list(model.image_size),
        "crop": model.crop,
        "pixels": {"mean": list(model.mean), "std": list(model.std)},
        "labels": list(model.labels),
    }


def _read_imported(folder: Path, data: Mapping[str, Any]) -> Model:
    return _assemble(ArchSpec.from_dict(data["arch"]), folder / WEIGHTS, data, data["crop"])


def _read_winner(folder: Path, result: Mapping[str, Any]) -> Model:
    """The first winner of a study, of the first seed whose training did not fail."""
    # From the result, which has a digest: the winner's own file is for people and other scripts.
    arch = ArchSpec.from_dict(result["winners"][0]["candidate"]["arch"])
    dataset = result["dataset"]
    seeds = [p for p in (folder / WEIGHTS / _WINNER).glob("seed*") if p.is_dir()]
    weights = min(seeds, key=lambda p: (len(p.name), p.name), default=None)
    if weights is None:
        raise ModelError(f"`{folder}` holds no weights of its winner; were they removed?")
    # Studies of before these two were stored go on with the image as the network takes it.
    known = {"image_shape": [arch.resolution] * 2, "labels": numbered(arch.num_classes), **dataset}
    known["image_size"] = known["image_shape"][:2]
    return _assemble(arch, weights, known, crop=1.0)


def _assemble(arch: ArchSpec, weights: Path, data: Mapping[str, Any], crop: float | None) -> Model:
    try:
        variables = load_variables(weights)
    except DamagedError:
        raise
    except Exception as error:  # Orbax raises what it likes
        raise ModelError(f"weights `{weights}` cannot be read: {one_line(error)}") from error
    mean, std = (tuple(data["pixels"][name]) for name in ("mean", "std"))
    height, width = data["image_size"]
    return Model(arch, variables, mean, std, (height, width), crop, tuple(data["labels"]))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
