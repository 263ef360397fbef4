"""Trained weights on disk, by Orbax."""

from pathlib import Path
from typing import Any

from orbax.checkpoint import v1 as ocp


def save_variables(path: Path, variables: Any) -> None:
    """Writes Flax variables into a new folder `path`."""
    ocp.save(path.resolve(), variables)


def load_variables(path: Path) -> Any:
    """Reads what `save_variables` wrote."""
    return ocp.load(path.resolve())
