"""Makes the executor that a config names."""

from collections.abc import Sequence

import numpy as np

from jointnas_jax.config import Config
from jointnas_jax.data.source import Images
from jointnas_jax.execution.executor import Executor
from jointnas_jax.execution.job import RunContext
from jointnas_jax.execution.lane_batches import TrainFn
from jointnas_jax.execution.local import LocalExecutor
from jointnas_jax.execution.multihost import MultihostExecutor
from jointnas_jax.space import ArchSpec, JointSpace


def make_executor(
    config: Config,
    space: JointSpace,
    images: tuple[Images, np.ndarray, Images],
    *,
    sample: Sequence[ArchSpec],
    context: RunContext,
    train_fn: TrainFn | None = None,
) -> Executor:
    """Makes the executor that the config names; arguments as of `LocalExecutor`.

    Raises:
      InputError: it cannot work here.
    """
    if config.executor == "ray":
        # Only now: it is an extra.
        from jointnas_jax.execution.ray_executor import RayExecutor

        assert train_fn is None, "actors train by themselves"
        return RayExecutor(config, space, sample, context)
    made = MultihostExecutor if config.executor == "pod" else LocalExecutor
    return made(config, space, images, sample=sample, context=context, train_fn=train_fn)
