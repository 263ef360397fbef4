"""The state of one training on disk, so that it can go on after an interruption; by Orbax."""

import time
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

# A state is saved after an epoch, but not more often than this.
_SECONDS_BETWEEN = 60.0


class Checkpoints:
    """Keeps the latest state of a training."""

    def __init__(self, folder: Path):
        """Opens a folder, which is made if need be."""
        policy = ocp.training.preservation_policies.LatestN(1)
        self._manager = ocp.training.Checkpointer(folder.resolve(), preservation_policy=policy)
        self._last = time.monotonic()

    def restore(self, state: Any) -> tuple[Any, int, dict[str, Any]]:
        """Returns the saved state, the epochs it has behind it, and what was noted with it.

        Args:
          state: before the first epoch, which is returned if nothing is saved.
        """
        latest = self._manager.latest
        if latest is None:
            return state, 0, {}
        restored = self._manager.load(latest.step, state)
        return restored, latest.step, self._manager.metadata(latest.step).custom_metadata

    def save(self, epochs: int, state: Any, notes: dict[str, Any]) -> None:
        """Saves the state after so many epochs, with notes that JSON can hold, if it is time to."""
        if time.monotonic() - self._last < _SECONDS_BETWEEN:
            return
        self._manager.save(epochs, jax.device_get(state), custom_metadata=notes)
        self._last = time.monotonic()

    def close(self) -> None:
        """Waits until all is written."""
        self._manager.close()
