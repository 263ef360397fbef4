"""What an executor takes and returns, and which errors are a candidate's fault."""

import dataclasses
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jointnas_jax.errors import InputError, JointNASError, StorageError, StudyError, one_line
from jointnas_jax.runtime.interrupt import Interrupt
from jointnas_jax.space import Candidate
from jointnas_jax.telemetry.progress import Progress
from jointnas_jax.train.metrics import Metrics
from jointnas_jax.train.paused import Paused

# What the system says of a full disk; XLA calls it RESOURCE_EXHAUSTED, as it calls a full memory.
_NO_SPACE = "No space left on device"


@dataclasses.dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
      candidate: what to train.
      key: key of the trial.
      epochs: how long, those before a pause included.
      on_full_split: train on the whole training split and measure test accuracy, once at the end;
        otherwise train without the validation images and measure validation accuracy after each
        epoch.
      progress: called after each epoch with its number, from 1, and the loss.
      kept: whether its weights are wanted.
      recorded: measure raw and averaged weights, and both on the test split at the end.
      full_epochs: how long the recipe's schedule is; 0: as long as the training.
      resumed: where it paused before; None: it begins.
      pauses: whether it can go on later.
    """

    candidate: Candidate
    key: jax.Array
    epochs: int
    on_full_split: bool = False
    progress: Callable[[int, float], None] | None = None
    kept: bool = False
    recorded: bool = False
    full_epochs: int = 0
    resumed: Paused | None = None
    pauses: bool = False

    @property
    def first_epoch(self) -> int:
        """Epochs that it had before."""
        return self.resumed.epochs if self.resumed else 0

    @property
    def kind(self) -> tuple[int | bool, ...]:
        """Jobs of one kind can train side by side."""
        lengths = self.first_epoch, self.epochs, self.full_epochs
        return *lengths, self.on_full_split, self.recorded, self.pauses


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What a job returns.

    Attributes:
      accuracies: after each epoch (on the full split: after the last one only), fractions; of a
        training that paused before the epochs since.
      reason: why the job failed, None if it did not.
      variables: trained Flax variables on the host, None after a failure.
      seconds: wall time, compiling included, shared out among those that trained side by side.
      pack: that it trained in, see `Trial`.
      scores: by what candidates are compared, see `config.search.score`, after the same epochs;
        empty where it is accuracy.
      curves: see `Training`; empty where nothing was recorded.
      answers: `int32[2, N]` to the test images, see `metrics.answers_of`; None where they were not
        measured.
      paused: where it paused, and can go on; None elsewhere.
    """

    accuracies: tuple[float, ...]
    reason: str | None
    variables: Any
    seconds: float = 0.0
    pack: str = ""
    scores: tuple[float, ...] = ()
    curves: Mapping[str, tuple[Metrics, ...]] = dataclasses.field(default_factory=dict)
    answers: np.ndarray | None = None
    paused: Paused | None = None

    @property
    def accuracy(self) -> float | None:
        """At the end; None after a failure."""
        return self.accuracies[-1] if self.reason is None else None

    @property
    def score(self) -> float | None:
        """At the end; None after a failure."""
        return self.score_curve[-1] if self.reason is None else None

    @property
    def score_curve(self) -> tuple[float, ...]:
        """The score after each epoch."""
        return self.scores or self.accuracies


# Positions with their results; closing it stops what trains.
Results = Generator[tuple[int, TrainResult], None, None]


@dataclasses.dataclass(frozen=True)
class RunContext:
    """Where an executor saves, how fast its devices count as, and who can end its trainings.

    Attributes:
      folder: the workdir, for states of trainings; None: they are not saved.
      speed_factors: those that the study began with; None: the devices here are measured.
      interrupt: tells when to save all states and stop.
      progress: progress of the run.
    """

    folder: Path | None = None
    speed_factors: tuple[float, float] | None = None
    interrupt: Interrupt = dataclasses.field(default_factory=Interrupt)
    progress: Progress = dataclasses.field(default_factory=Progress)


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device or the host has too little memory; a full disk is something else."""
    if isinstance(error, MemoryError):
        return True
    exhausted = isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
    return exhausted and _NO_SPACE not in str(error)


def raise_if_blameless(error: Exception) -> None:
    """Raises what ends the run, where an error in a training is no fault of a candidate.

    Raises:
      JointNASError: a full disk, images that cannot be read, an interruption.
    """
    if isinstance(error, InputError):  # read before training: it was sound then
        raise StudyError(f"the training cannot go on: {error}") from error
    if isinstance(error, JointNASError):
        raise error
    causes = [error, error.__cause__]
    of_the_system = any(isinstance(e, OSError) and not isinstance(e, TimeoutError) for e in causes)
    if of_the_system or _NO_SPACE in str(error):
        raise StorageError(f"the training cannot go on: {one_line(error)}") from error


def reason_of(error: Exception) -> str:
    """Why a candidate failed, on one line."""
    kind = "out_of_memory" if is_out_of_memory(error) else type(error).__name__
    return f"{kind}: {(str(error).splitlines() or [''])[0]}"
