"""The network that trainings of winners learn from."""

from pathlib import Path

import numpy as np

from jointnas_jax.config import Config
from jointnas_jax.errors import ModelError
from jointnas_jax.models.model import load
from jointnas_jax.nets.conv import resolve_dtype, resolve_lowering
from jointnas_jax.nets.network import Network
from jointnas_jax.space import JointSpace
from jointnas_jax.train.step import PixelStats, Teacher


def load_teacher(config: Config, space: JointSpace) -> Teacher | None:
    """Loads `config.train.teacher`, if any; raises `ModelError` where it does not fit the space."""
    if not config.train.teacher:
        return None
    model = load(Path(config.train.teacher))
    shape = (model.arch.image_channels, model.arch.num_classes)
    if shape != (needed := (space.image_channels, space.num_classes)):
        raise ModelError(
            f"the teacher `{config.train.teacher}` has (image_channels, num_classes) = {shape}, "
            f"the dataset {needed}"
        )
    mean, std = np.array(model.mean, np.float32), np.array(model.std, np.float32)
    dtype = resolve_dtype(config.train.dtype)
    module = Network(model.arch, resolve_lowering(config.train.lowering, dtype), dtype=dtype)
    return Teacher(
        variables=model.variables,
        stats=PixelStats(mean=mean, std=std),
        module=module,
        share=config.train.teacher_share,
    )
