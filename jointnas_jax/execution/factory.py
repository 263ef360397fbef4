"""Makes the executor that a config names."""

from collections.abc import Sequence

import numpy as np

from jointnas_jax.config import Config
from jointnas_jax.data.source import Images
from jointnas_jax.execution.executor import Executor
from jointnas_jax.execution.job import RunContext
from jointnas_jax.execution.local import Evaluator
from jointnas_jax.execution.multihost import MultihostExecutor
from jointnas_jax.space import ArchSpec, JointSpace


def make_executor(
    config: Config,
    space: JointSpace,
    images: tuple[Images, np.ndarray, Images],
    sample: Sequence[ArchSpec],
    keeping: RunContext,
) -> Executor:
    """Makes the executor that the config names.

    Args:
      config, space, images, sample, keeping: as of `Evaluator`.

    Raises:
      InputError: it cannot work here.
    """
    if config.executor == "ray":
        # Only now: it is an extra.
        from jointnas_jax.execution.ray_executor import RayExecutor

        return RayExecutor(config, space, sample, keeping)
    if config.executor == "pod":
        return MultihostExecutor(config, space, images, sample, keeping)
    return Evaluator(config, space, *images, sample, keeping)
