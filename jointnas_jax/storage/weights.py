"""Trained weights and a fitted predictor on disk, by Orbax, each with a digest beside it."""

import shutil
from pathlib import Path
from typing import Any

from orbax.checkpoint import v1 as ocp

from jointnas_jax.files import check_digest, saving, write_digest


def save_variables(path: Path, variables: Any) -> None:
    """Replaces a folder with Flax variables, or any tree of arrays; raises `StorageError`."""
    with saving(path):
        if path.exists():
            shutil.rmtree(path)
        ocp.save(path.resolve(), variables)
        write_digest(path)


def load_variables(path: Path) -> Any:
    """Reads the folder of `save_variables`; raises as `check_digest` does."""
    check_digest(path)
    return ocp.load(path.resolve())
