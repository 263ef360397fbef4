"""The state of a training on disk, so that it can go on after an interruption; by Orbax.

Orbax writes whole checkpoints or none, but reads flipped bits without an error: so a digest of all
bytes is stored beside each.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from jointnas_jax.errors import DamagedError, StorageError, one_line
from jointnas_jax.files import check_digest, saving, write_digest, writing

# The newest may be damaged.
_STORED = 2


class Checkpoints:
    """Stores the latest states of a training."""

    def __init__(self, folder: Path, seconds: float = 60.0, say: Callable[[str], None] = print):
        """Sets the folder of this training alone, which the first `save` makes.

        At least `seconds` pass between two states; `say` gets a line about each damaged one.
        """
        self._folder = folder.resolve()
        self._seconds = seconds
        self._say = say
        self._manager: ocp.training.Checkpointer | None = None
        self._last = time.monotonic()

    def restore(self, state: Any) -> tuple[Any, int, dict[str, Any]]:
        """Returns the newest sound state, the number of its epochs, and its notes.

        Without one it is `state`, the one before the first epoch. Raises `StorageError` if a state
        has its digest and cannot be read.
        """
        if not self._folder.exists():
            return state, 0, {}
        manager = self._open()
        for step in sorted((c.step for c in manager.checkpoints), reverse=True):
            folder = self._folder / str(step)
            try:
                check_digest(folder)
                notes, loaded = self._load(folder, step, state)
                # Orbax returns arrays of other shapes without an error.
                if _shapes(loaded) != _shapes(state):
                    raise DamagedError(f"`{folder}` has not the shapes of this training")
                return loaded, step, notes
            except DamagedError as error:
                self._say(f"a saved state is skipped, what came before it is used: {error}")
                manager.delete(step)
        return state, 0, {}

    def _load(self, folder: Path, step: int, state: Any) -> tuple[dict[str, Any], Any]:
        """Reads a sound state with its notes; raises `StorageError`, so that it stays."""
        try:
            manager = self._open()
            return manager.metadata(step).custom_metadata, manager.load(step, state)
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
        with saving(self._folder):
            self._open().save(epochs, jax.device_get(state), custom_metadata=notes)
            write_digest(self._folder / str(epochs))
        self._last = time.monotonic()

    def close(self) -> None:
        """Waits until all is written; raises `StorageError`."""
        if self._manager:
            with writing(self._folder):
                self._manager.close()

    def _open(self) -> ocp.training.Checkpointer:
        if self._manager is None:
            policy = ocp.training.preservation_policies.LatestN(_STORED)
            self._manager = ocp.training.Checkpointer(
                self._folder, preservation_policy=policy, cleanup_tmp_directories=True
            )
        return self._manager


def _shapes(state: Any) -> Any:
    return jax.tree.map(lambda leaf: (np.shape(leaf), np.asarray(leaf).dtype), state)
