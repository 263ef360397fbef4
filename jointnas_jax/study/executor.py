"""Who trains a study's jobs: this process, actors of a Ray cluster, or one of several processes."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from jointnas_jax.config import Config
from jointnas_jax.data.source import Images
from jointnas_jax.space import ArchSpec, JointSpace
from jointnas_jax.study.evaluator import Evaluator
from jointnas_jax.study.jobs import Job, Keeping, Outcome, Packing
from jointnas_jax.study.peers import Connected, Peers
from jointnas_jax.study.pod import Pod
from jointnas_jax.study.shared import Shared


class Executor(Protocol):
    """Trains jobs, wherever that may be.

    Attributes:
      packings: of all calls so far.
      pixels: `mean` and `std` per channel of the training split.
      scales: that the planner goes by, see `measured_scales`.
      machine: what results may depend on, see `Origin`.
    """

    packings: list[Packing]
    pixels: dict[str, list[float]]
    scales: tuple[float, float]
    machine: dict[str, Any]

    def completed(
        self, jobs: Sequence[Job], later: int = 0, known: Collection[int] = ()
    ) -> Iterator[tuple[int, Outcome]]:
        """Yields a position and outcome for each job that is not known, as soon as it is there.

        Args:
          jobs: to train.
          later: how many jobs like these will follow.
          known: positions of jobs that are planned, but do not train.

        A job that fails has an outcome like any other. Closing the generator stops the rest.
        """

    def close(self) -> None:
        """Ends whatever trains elsewhere."""


def make_executor(
    config: Config,
    space: JointSpace,
    images: tuple[Images, np.ndarray, Images],
    sample: Sequence[ArchSpec],
    keeping: Keeping,
    peers: Peers | None = None,
) -> Executor:
    """Makes the executor that the config names.

    Args:
      config, space, images, sample, keeping: as of `Evaluator`.
      peers: the processes of the study; None: this one alone.

    Raises:
      InputError: it cannot work here.
    """
    if isinstance(peers, Connected):
        return Pod(config, space, images, sample, keeping, peers)
    if config.executor == "ray":
        # Only now: it is an extra.
        from jointnas_jax.study.fleet import Fleet

        return Fleet(config, space, sample, keeping)
    if config.executor == "shared":
        return Shared(config, space, images, sample, keeping)
    return Evaluator(config, space, *images, sample, keeping)
