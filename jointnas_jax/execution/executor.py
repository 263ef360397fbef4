"""Who trains a study's jobs: the protocols, see `execution/factory.py` for implementations."""

from collections.abc import Collection, Sequence
from typing import Any, Protocol, runtime_checkable

from jointnas_jax.execution.job import Job, Results, TrainResult
from jointnas_jax.execution.schedule import Schedule


class Executor(Protocol):
    """Trains jobs, wherever that may be."""

    @property
    def schedules(self) -> Sequence[Schedule]:
        """Those of all batches so far."""

    @property
    def pixels(self) -> dict[str, list[float]]:
        """`mean` and `std` per channel of the training split."""

    @property
    def speed_factors(self) -> tuple[float, float]:
        """Those that schedules depend on, see `measured_speed_factors`."""

    @property
    def machine(self) -> dict[str, Any]:
        """What results may depend on, see `Provenance`."""

    def train(
        self, jobs: Sequence[Job], *, later: int = 0, stored: Collection[int] = ()
    ) -> Results:
        """Yields position and result of each job that is not stored, as soon as it has ended.

        A job that fails has a result like any other. Closing the generator stops the rest.

        Args:
          jobs: to train.
          later: how many jobs like these will follow.
          stored: positions of jobs that are scheduled, but do not train.
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
