"""Exports: a trained network in a folder of its own, for other tools, with a model card.

A folder has one or several formats, `model.json` (the description, with digests of all files) and
`model_card.md`. It is written whole or not at all.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import safetensors.numpy
from flax import traverse_util

from jointnas_jax.errors import ModelError, one_line
from jointnas_jax.files import reading, replacing, write_json
from jointnas_jax.models.exported_program import (
    ONNX,
    STABLEHLO,
    load_program,
    to_onnx,
    to_stablehlo,
)
from jointnas_jax.models.model import (
    SAFETENSORS,
    SEPARATOR,
    Classifier,
    Model,
    load,
    of_models,
    read_description,
)
from jointnas_jax.report.card import CARD, FORMATS, model_card
from jointnas_jax.storage.manifest import fetched
from jointnas_jax.storage.weights import save_variables
from jointnas_jax.storage.workdir import EXPORTS, MODEL, WEIGHTS


def to_safetensors(model: Model) -> bytes:
    """Returns all variables by flat names such as `params/stem_bn/scale`; metadata has the rest."""
    flat = traverse_util.flatten_dict(model.variables, sep=SEPARATOR)
    tensors = {name: np.ascontiguousarray(value) for name, value in flat.items()}
    description = model.describe() | {"facts": dict(model.metadata)}
    metadata = {name: json.dumps(value) for name, value in description.items()}
    return safetensors.numpy.save(tensors, {"format": "flax", **metadata})


# Formats of one file: its name, and the function that returns its content for a batch size.
_FILES: dict[str, tuple[str, Callable[[Model, int], bytes]]] = {
    "safetensors": (SAFETENSORS, lambda model, _: to_safetensors(model)),
    "stablehlo": (STABLEHLO, to_stablehlo),
    "onnx": (ONNX, to_onnx),
}
# Names of everything that an export can have.
_NAMES = {MODEL, CARD, WEIGHTS, f"{WEIGHTS}.sha256", *(name for name, _ in _FILES.values())}


def export_model(
    model: Model,
    folder: Path,
    formats: Sequence[str],
    *,
    batch_size: int = 0,
    overwrite: bool = False,
) -> list[Path]:
    """Writes an export; returns the paths in its folder.

    Args:
      model: The network.
      folder: A new or empty folder, or with `overwrite` an earlier export.
      formats: Names in `FORMATS`.
      batch_size: Images that a `stablehlo` or `onnx` program takes at a time; 0: any number.
      overwrite: Replace an earlier export.

    Raises:
      ModelError: The folder is none of these, or a converter is not installed.
      StorageError: Something cannot be written.
    """
    folder = Path(os.path.abspath(folder))
    _check_free(folder, overwrite)
    writers = dict(_FILES[name] for name in formats if name in _FILES)
    contents = {name: write(model, batch_size) for name, write in writers.items()}
    description = {
        "formats": [name for name in FORMATS if name in formats],
        "batch_size": batch_size,
        **model.describe(),
        "facts": dict(model.metadata),
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()},
    }
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"cannot be written: {one_line(error)}; give another --out"
        raise ModelError(f"`{folder}` {reason}") from error
    with replacing(folder) as fresh:
        for name, content in contents.items():
            (fresh / name).write_bytes(content)
        if "orbax" in formats:
            save_variables(fresh / WEIGHTS, model.variables)
        (fresh / CARD).write_text(model_card(description), encoding="utf-8", errors="replace")
        write_json(fresh / MODEL, description, digest=True)
    return sorted(folder.iterdir())


def default_folder(workdir: Path, formats: Sequence[str], winner: int, seed: int | None) -> Path:
    """Default folder of an export: one for each choice, in the workdir."""
    parts = [name for name in FORMATS if name in formats]
    parts += [f"winner{winner}"] * bool(winner) + [f"seed{seed}"] * (seed is not None)
    return workdir / EXPORTS / "-".join(parts)


def _check_free(folder: Path, overwrite: bool) -> None:
    """Raises `ModelError` if the folder may not be written."""
    try:
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            return
        names = {path.name for path in folder.iterdir()}
        if not {MODEL, CARD} <= names <= _NAMES:
            raise ModelError(f"`{folder}` holds other things than an export; give another --out")
        if not overwrite:
            raise ModelError(
                f"`{folder}` holds an export; give another --out, or replace it with --overwrite"
            )
    except OSError as error:
        raise ModelError(f"`{folder}` cannot be used: {one_line(error)}") from error


def load_classifier(name: str | Path, winner: int = 0) -> Classifier:
    """Loads a model, or an export that is a program.

    Args:
      name: See the path of `load`.
      winner: See `load`.

    Raises:
      InputError: The folder holds neither, or a winner is chosen where there is one model.
      DamagedError: The content is not what was written.
    """
    with fetched(name, of_models) as folder:
        return _load_classifier(folder, winner)


def _load_classifier(folder: Path, winner: int) -> Classifier:
    file = folder / MODEL
    with reading(file, ModelError):
        data = read_description(file) if file.is_file() else {}
        if not winner and not {"orbax", "safetensors"} & set(data.get("formats", ["orbax"])):
            return load_program(folder, data)
    return load(folder, winner)
