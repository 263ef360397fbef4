"""The state of a training on disk, so that it can go on after an interruption; by Orbax.

Orbax writes whole checkpoints or none, but reads flipped bits without an error: so a digest of all
bytes is stored beside each.
"""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jointnas_jax.errors import DamagedError, StorageError, one_line
from jointnas_jax.files import check_digest, saving, write_digest
from jointnas_jax.runtime.arrays_on_disk import load_arrays, load_notes, save_arrays

# The newest may be damaged.
_STORED = 2


class Checkpoints:
    """Stores the latest states of a training."""

    def __init__(self, folder: Path, seconds: float = 60.0, say: Callable[[str], None] = print):
        """Sets the folder of this training alone, which the first `save` makes.

        At least `seconds` pass between two states; `say` gets a line about each damaged one.
        """
        self._folder = folder
        self._seconds = seconds
        self._say = say
        self._last = time.monotonic()

    def restore(self, state: Any) -> tuple[Any, int, dict[str, Any]]:
        """Returns the newest sound state, the number of its epochs, and its notes.

        Without one it is `state`, the one before the first epoch. Raises `StorageError` if a state
        has its digest and cannot be read.
        """
        for unfinished in self._folder.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        for step in reversed(self._steps()):
            folder = self._folder / str(step)
            try:
                check_digest(folder)
                notes, loaded = self._load(folder, state)
                # Orbax returns arrays of other shapes without an error.
                if _shapes(loaded) != _shapes(state):
                    raise DamagedError(f"`{folder}` has not the shapes of this training")
                return loaded, step, notes
            except DamagedError as error:
                self._say(f"a saved state is skipped, what came before it is used: {error}")
                shutil.rmtree(folder, ignore_errors=True)
        return state, 0, {}

    def _load(self, folder: Path, state: Any) -> tuple[dict[str, Any], Any]:
        """Reads a sound state with its notes; raises `StorageError`, so that it stays."""
        try:
            return load_notes(folder), load_arrays(folder, state)
        except MemoryError:
            raise
        except Exception as error:  # Orbax raises many kinds
            raise StorageError(
                f"the saved state `{folder}` cannot be read: {one_line(error)}; without it the "
                "training starts again"
            ) from error

    def due(self) -> bool:
        """Whether it is time to save a state."""
        return time.monotonic() - self._last >= self._seconds

    def save(self, epochs: int, state: Any, notes: dict[str, Any]) -> None:
        """Saves the state after some epochs, with notes (JSON data); raises `StorageError`."""
        folder = self._folder / str(epochs)
        with saving(self._folder):
            save_arrays(folder, jax.device_get(state), notes)
            write_digest(folder)
            for step in self._steps()[:-_STORED]:
                shutil.rmtree(self._folder / str(step))
        self._last = time.monotonic()

    def _steps(self) -> list[int]:
        """Epochs after which a state is stored, in order."""
        return sorted(int(path.name) for path in self._folder.glob("*") if path.name.isdigit())


def _shapes(state: Any) -> Any:
    return jax.tree.map(lambda leaf: (np.shape(leaf), np.asarray(leaf).dtype), state)
