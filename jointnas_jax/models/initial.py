"""The weights that trainings start from."""

import dataclasses
from pathlib import Path

from jointnas_jax.config import Config
from jointnas_jax.data.source import open_dataset
from jointnas_jax.models.model import load
from jointnas_jax.train.program import Initial


def load_initial(config: Config) -> Initial | None:
    """Loads `config.train.init`, if any, for the images of the config.

    Raises:
      DataError: the dataset cannot be opened.
      ModelError: the model cannot be loaded.
      DamagedError: its weights are not what was written.
    """
    if not config.train.init:
        return None
    model, dataset = load(Path(config.train.init)), open_dataset(dataclasses.asdict(config.data))
    return Initial(model.variables, classes=tuple(model.labels) == dataset.labels)
