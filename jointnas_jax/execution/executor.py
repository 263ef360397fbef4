"""Who trains a study's jobs: the protocol, see `execution/factory.py` for its implementations."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Protocol

from jointnas_jax.execution.job import Job, Packing, TrainResult


class Executor(Protocol):
    """Trains jobs, wherever that may be.

    Attributes:
      packings: of all calls so far.
      pixels: `mean` and `std` per channel of the training split.
      speed_factors: that the planner goes by, see `measured_speed_factors`.
      machine: what results may depend on, see `Provenance`.
    """

    packings: list[Packing]
    pixels: dict[str, list[float]]
    speed_factors: tuple[float, float]
    machine: dict[str, Any]

    def completed(
        self, jobs: Sequence[Job], later: int = 0, known: Collection[int] = ()
    ) -> Iterator[tuple[int, TrainResult]]:
        """Yields a position and outcome for each job that is not known, as soon as it is there.

        Args:
          jobs: to train.
          later: how many jobs like these will follow.
          known: positions of jobs that are planned, but do not train.

        A job that fails has an outcome like any other. Closing the generator stops the rest.
        """

    def close(self) -> None:
        """Ends whatever trains elsewhere."""
