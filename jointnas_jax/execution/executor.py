"""Who trains a study's jobs: the protocol, see `execution/factory.py` for its implementations."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

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


@runtime_checkable
class StreamingExecutor(Executor, Protocol):
    """An executor that also trains jobs one by one, wherever a lane is free."""

    def free_lanes(self) -> int:
        """How many jobs could begin at once, beyond those that were submitted."""

    def submit(self, position: int, job: Job, *, later: int, stored: bool = False) -> None:
        """Has a job trained as soon as a lane is free.

        Args:
          position: names its result.
          job: to train.
          later: about how many jobs are submitted in all.
          stored: schedule it only, so that programs are those of a study that was not interrupted.
        """

    def next_result(self) -> tuple[int, TrainResult] | None:
        """Waits for the next job to end; returns its position and result, None if none trains.

        Raises:
          InterruptedStudyError: the run was interrupted.
        """
