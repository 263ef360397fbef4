"""Scalars for TensorBoard."""

import importlib.util
from pathlib import Path
from typing import Any

from jointnas_jax.errors import ConfigError, needs_extra
from jointnas_jax.storage.workdir import TENSORBOARD
from jointnas_jax.telemetry.progress import Listener


class Scalars(Listener):
    """Writes measurements into the folder `tensorboard` of the workdir.

    Names are `STAGE/trial_NUMBER` (accuracy by epoch), `study/best` and `study/images_per_second`
    (by trainings done), `study/kendall` and `study/spearman` (by round).
    """

    def __init__(self) -> None:
        """Raises `ConfigError` where the package tensorboardX is not installed."""
        if importlib.util.find_spec("tensorboardX") is None:
            raise ConfigError(needs_extra("`--tensorboard`", "tensorboardX", "tensorboard"))
        self._writer: Any = None

    def begin(self, workdir: Path) -> None:
        """Opens a file, beside those of earlier runs."""
        # Only now: it is an extra.
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(workdir / TENSORBOARD), flush_secs=10)

    def scalar(self, name: str, value: float, step: int) -> None:
        """Writes a number."""
        if self._writer:
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Writes the rest."""
        if self._writer:
            self._writer.close()
