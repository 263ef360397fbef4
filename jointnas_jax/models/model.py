"""A trained network with the preprocessing of its images, in memory and on disk.

An imported model is a folder with `model.json` and its weights, and so is an export with weights
(`models/export.py`); the workdir of a finished study is the model of one of its winners.
"""

import dataclasses
import functools
import json
import math
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.numpy
import scipy.special
from flax import traverse_util

from jointnas_jax.arguments import check_integer, check_path_or_url
from jointnas_jax.data import augment
from jointnas_jax.data.image_file import read_image
from jointnas_jax.errors import DamagedError, ModelError, one_line
from jointnas_jax.files import read_checked, read_json, reading, remove_unfinished, write_json
from jointnas_jax.models.metadata import training_metadata, winner_metadata
from jointnas_jax.nets.init import variable_shapes
from jointnas_jax.nets.network import Network
from jointnas_jax.rules import local_path
from jointnas_jax.space import ArchSpec
from jointnas_jax.storage.manifest import fetched
from jointnas_jax.storage.weights import load_variables, save_variables
from jointnas_jax.storage.workdir import (
    CONFIG,
    MODEL,
    PAUSED,
    RESULT,
    STATE,
    TENSORBOARD,
    TRAINED,
    TRAINING,
    WEIGHTS,
)

# Winners of a study and seeds of one, at most, see `SearchConfig` and `StudyConfig`.
_MOST = 1000
SAFETENSORS = "model.safetensors"  # in an export
# Between the names of nested variables in a safetensors file.
SEPARATOR = "/"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classifier:
    """A function from images to logits, with the names of its classes.

    Attributes:
      arch: Architecture of the network.
      image_size: Height and width of its images; the network resizes them to its resolution.
      crop: See `read_image`.
      labels: Name of each class.
    """

    arch: ArchSpec
    image_size: tuple[int, int]
    crop: float | None
    labels: tuple[str, ...]

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Returns `float32[N, L]` for `images: uint8[N, H, W, C]` of `image_size`."""
        raise NotImplementedError

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Returns `float32[N, L]` for `images: uint8[N, H, W, C]` of `image_size`."""
        return scipy.special.softmax(self.logits(images), axis=-1)

    def classify(self, path: str | Path, top: int) -> list[dict[str, Any]]:
        """Returns the `top` most probable classes of an image file, best first.

        Each is `{"index": int, "label": str, "probability": float}`. Raises as `read_image` does.
        """
        file = Path(local_path(str(path)))
        image = read_image(file, (*self.image_size, self.arch.image_channels), self.crop)
        (probabilities,) = self.probabilities(image[None])
        return [
            {"index": int(i), "label": self.labels[i], "probability": float(probabilities[i])}
            for i in np.argsort(-probabilities, kind="stable")[:top]
        ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model(Classifier):
    """A trained network and its preprocessing.

    `module, variables = model` are the Flax module and its variables:
    `module.apply(variables, model.preprocess(images))` are logits.

    Attributes:
      variables: Flax variables of the network.
      mean, std: Mean and standard deviation of each channel, in [0, 255], to normalise images.
      metadata: Origin of the network, see `models/metadata.py`.
    """

    variables: Any = dataclasses.field(repr=False)
    mean: tuple[float, ...]
    std: tuple[float, ...]
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)

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

    def __iter__(self) -> Iterator[Any]:
        """Yields module and variables."""
        yield self.module
        yield self.variables

    @functools.cached_property
    def module(self) -> Network:
        """The Flax module: `float32[N, R, R, C]` as `preprocess` returns them -> logits."""
        return Network(self.arch)

    def preprocess(self, images: jax.Array) -> jax.Array:
        """Normalises and resizes `uint8[N, H, W, C]`, as stored in the dataset, for the module."""
        mean, std = (np.asarray(values, np.float32) for values in (self.mean, self.std))
        return augment.resize(augment.normalise(images, mean, std), self.arch.resolution)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Returns `float32[N, L]` for `images: uint8[N, H, W, C]` of `image_size`."""
        return np.asarray(self._program(self.variables, images))

    @functools.cached_property
    def _program(self) -> Callable[[Any, np.ndarray], jax.Array]:
        return jax.jit(lambda v, images: self.module.apply(v, self.preprocess(images)))

    def __getstate__(self) -> dict[str, Any]:
        """What a pickle holds: compiled programs are made again."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    def describe(self) -> dict[str, Any]:
        """All but the weights, as JSON."""
        return {
            "arch": self.arch.to_dict(),
            "image_size": list(self.image_size),
            "crop": self.crop,
            "pixels": {"mean": list(self.mean), "std": list(self.std)},
            "labels": list(self.labels),
        }


def numbered(count: int) -> tuple[str, ...]:
    """Names of classes that have none."""
    return tuple(str(i) for i in range(count))


def save_model(model: Model, folder: Path, overwrite: bool = False) -> None:
    """Writes a model into a folder that is new, empty, or with `overwrite` an imported model.

    Raises `ModelError` for other folders, and where it cannot write.
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
        write_json(folder / MODEL, model.describe())
        save_variables(folder / WEIGHTS, model.variables)
    except OSError as error:
        raise ModelError(f"`{folder}` cannot be written: {one_line(error)}") from error


def load(path: str | Path, winner: int = 0, seed: int | None = None) -> Model:
    """Loads a trained model; this is `jointnas_jax.load`.

    Args:
      path: Workdir of a finished study or of the training of one candidate, also its URL in a
        bucket; folder of `scripts/import_weights.py`, or export with weights (`orbax` or
        `safetensors`).
      winner: Rank of the winner of a study; 0 is the best, of a front the most accurate and
        dearest.
      seed: Index among the winner's trainings; None is the first that did not fail.

    Raises:
      InputError: The folder holds none of these, or a part of it breaks a rule.
      DamagedError: The result or the weights are not what was written.
    """
    name = check_path_or_url("path", path)
    winner = check_integer("winner", winner, 0, _MOST)
    seed = None if seed is None else check_integer("seed", seed, 0, _MOST)
    with fetched(name, of_models) as folder:
        return _load(folder, winner, seed)


def of_models(name: str) -> bool:
    """Whether a file of a workdir may be a part of its models."""
    return not name.startswith((f"{STATE}/", f"{PAUSED}/", f"{TENSORBOARD}/", "report/"))


def _load(folder: Path, winner: int, seed: int | None) -> Model:
    with reading(folder, ModelError):
        file = _find(folder)
    if file.name == MODEL and (winner or seed is not None):
        raise ModelError(
            f"a winner and a seed are chosen among those of a study; `{folder}` holds one model"
        )
    with reading(file, ModelError):
        if file.name == RESULT:
            return _read_winner(folder, read_json(file), winner, seed)
        data = read_description(file)
        metadata = data.get("facts", {})
        if file.parent != folder and (folder / RESULT).is_file():
            metadata = training_metadata(folder, read_json(folder / RESULT))
        return _assemble(data, _saved_variables(file.parent, data), metadata)


def read_description(file: Path) -> dict[str, Any]:
    """Reads a `model.json`: users may edit that of an import, that of an export has a digest."""
    data = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(data, dict):
        raise TypeError("it is no object")
    return read_json(file) if "digest" in data else data


def _find(folder: Path) -> Path:
    """The file that describes the model in a folder; raises `ModelError` if there is none."""
    for file in (folder / TRAINED / MODEL, folder / MODEL):
        if file.is_file():
            return file
    if (folder / RESULT).is_file() and not (folder / TRAINING).is_file():
        return folder / RESULT
    for begun, what in ((CONFIG, "study"), (TRAINING, "training")):
        if (folder / begun).is_file():
            raise ModelError(
                f"`{folder}` holds no model yet: its {what} has not finished; the command that "
                "began it goes on"
            )
    raise ModelError(
        f"`{folder}` holds no model: neither the `{RESULT}` of a finished study nor the "
        f"`{MODEL}` that scripts/import_weights.py and scripts/export.py write"
    )


def _read_winner(folder: Path, result: Mapping[str, Any], winner: int, seed: int | None) -> Model:
    """A winner of a study, by default of the first seed that did not fail."""
    winners = result["winners"]
    if not 0 <= winner < len(winners):
        raise ModelError(
            f"the study in `{folder}` has {len(winners)} winners, numbered from 0; there is no "
            f"winner {winner}"
        )
    weights = folder / WEIGHTS / f"winner{winner}"
    names = (re.fullmatch("seed([0-9]{1,9})", p.name) for p in weights.glob("*") if p.is_dir())
    seeds = sorted(int(match[1]) for match in names if match)
    if not seeds:
        raise ModelError(f"`{folder}` holds no weights of its winner; were they removed?")
    if seed is not None and seed not in seeds:
        raise ModelError(
            f"`{weights}` holds weights of the seeds {one_line(seeds)}; there are none of {seed}"
        )
    seed = seeds[0] if seed is None else seed
    # From the result, which has a digest: `winner0.json` is for people and other scripts.
    arch = winners[winner]["candidate"]["arch"]
    # Old studies stored neither shape nor labels: then images are as the network takes them.
    data = {
        "arch": arch,
        "crop": 1.0,
        "image_size": result["dataset"].get("image_shape", [arch["resolution"]] * 2)[:2],
        "labels": numbered(arch["num_classes"]),
        **result["dataset"],
    }
    variables = _load_variables(weights / f"seed{seed}")
    return _assemble(data, variables, winner_metadata(folder, result, winner, seed))


def _saved_variables(folder: Path, data: Mapping[str, Any]) -> Any:
    """The variables of an imported model, or of an export that has them."""
    formats = data.get("formats", ["orbax"])
    if "orbax" in formats:
        return _load_variables(folder / WEIGHTS)
    if "safetensors" not in formats:
        raise ModelError(
            f"the export in `{folder}` has no weights to load, its format is "
            f"{one_line(', '.join(formats))}; export with --format=orbax or safetensors"
        )
    content = read_checked(folder / SAFETENSORS, data["files"][SAFETENSORS])
    return traverse_util.unflatten_dict(safetensors.numpy.load(content), sep=SEPARATOR)


def _load_variables(weights: Path) -> Any:
    try:
        return load_variables(weights)
    except DamagedError:
        raise
    except Exception as error:  # Orbax raises errors of any class
        raise ModelError(f"weights `{weights}` cannot be read: {one_line(error)}") from error


def _assemble(data: Mapping[str, Any], variables: Any, metadata: Mapping[str, Any]) -> Model:
    height, width = data["image_size"]
    return Model(
        arch=ArchSpec.from_dict(data["arch"]),
        image_size=(height, width),
        crop=data["crop"],
        labels=tuple(data["labels"]),
        variables=variables,
        mean=tuple(data["pixels"]["mean"]),
        std=tuple(data["pixels"]["std"]),
        metadata=metadata,
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
