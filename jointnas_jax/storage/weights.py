"""Trained weights and a fitted predictor on disk, by Orbax, each with a digest beside it."""

from pathlib import Path
from typing import Any

from jointnas_jax.files import check_digest, saving, write_digest
from jointnas_jax.runtime.arrays_on_disk import load_arrays, save_arrays


def save_variables(path: Path, variables: Any) -> None:
    """Replaces a folder with Flax variables, or any tree of arrays; raises `StorageError`."""
    with saving(path):
        save_arrays(path, variables)
        write_digest(path)


def load_variables(path: Path) -> Any:
    """Reads the folder of `save_variables`; raises as `check_digest` does."""
    check_digest(path)
    return load_arrays(path)
