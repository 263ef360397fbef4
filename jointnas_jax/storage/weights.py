"""Trained weights and a fitted predictor on disk, by Orbax, each with a digest beside it."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from jointnas_jax.files import check_digest, saving, write_digest
from jointnas_jax.runtime.arrays_on_disk import load_arrays, load_notes, save_arrays

_ANSWERS = "answers"


def save_variables(path: Path, variables: Any, answers: np.ndarray | None = None) -> None:
    """Replaces a folder with trained weights; raises `StorageError`.

    Args:
      path: the folder.
      variables: Flax variables, or any tree of arrays.
      answers: `int[2, N]` to the test images, see `TrainResult`; beside the weights as notes.
    """
    notes = None if answers is None else {_ANSWERS: answers.tolist()}
    with saving(path):
        save_arrays(path, variables, notes)
        write_digest(path)


def load_variables(path: Path) -> Any:
    """Reads the folder of `save_variables`; raises as `check_digest` does."""
    check_digest(path)
    return load_arrays(path)


def forget(path: Path) -> None:
    """Removes a folder of `save_variables` and its digest, if they are there."""
    shutil.rmtree(path, ignore_errors=True)
    path.with_name(f"{path.name}.sha256").unlink(missing_ok=True)


def load_answers(path: Path) -> np.ndarray | None:
    """The answers that `save_variables` wrote, `int32[2, N]`; None where there were none."""
    said = (load_notes(path) or {}).get(_ANSWERS)
    return None if said is None else np.array(said, np.int32)
