"""What the evaluator takes and gives."""

import dataclasses
import hashlib
import queue
import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import jax

from jointnas_jax.errors import InputError, JointNASError, StorageError, StudyError, one_line
from jointnas_jax.nets.envelope import Envelope
from jointnas_jax.runtime.interrupt import Interrupt
from jointnas_jax.space import ArchSpec, Candidate
from jointnas_jax.telemetry.progress import Progress

# What the system says of a full disk; XLA calls it RESOURCE_EXHAUSTED, as it calls a full memory.
_NO_SPACE = "No space left on device"


@dataclasses.dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
      candidate: what to train.
      key: of the trial.
      epochs: how long.
      on_full_split: train on the whole training split and measure test accuracy, once at the end;
        otherwise train without the validation images and measure validation accuracy after each
        epoch.
      progress: called after each epoch with its number, from 1, and the loss.
      kept: whether its weights are wanted.
    """

    candidate: Candidate
    key: jax.Array
    epochs: int
    on_full_split: bool = False
    progress: Callable[[int, float], None] | None = None
    kept: bool = False


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What a job gave.

    Attributes:
      accuracies: after each epoch (after the last one only for a final training), fractions.
      reason: why the job failed, None if it did not.
      variables: trained Flax variables on the host, None after a failure.
      seconds: wall time, compiling included, shared out among those that trained side by side.
      pack: that it trained in, see `Trial`.
    """

    accuracies: tuple[float, ...]
    reason: str | None
    variables: Any
    seconds: float = 0.0
    pack: str = ""

    @property
    def accuracy(self) -> float | None:
        """At the end; None after a failure."""
        return self.accuracies[-1] if self.reason is None else None


@dataclasses.dataclass(frozen=True)
class RunContext:
    """What an evaluator keeps on disk, and what can end a training before its time.

    Attributes:
      folder: the workdir, where states of trainings are kept; None: they are not.
      speed_factors: that the planner went by where the study began; None: those of this machine.
      interrupt: tells when to save all states and stop.
      progress: told what trains, and of states that cannot be used.
    """

    folder: Path | None = None
    speed_factors: tuple[float, float] | None = None
    interrupt: Interrupt = dataclasses.field(default_factory=Interrupt)
    progress: Progress = dataclasses.field(default_factory=Progress)


@dataclasses.dataclass(frozen=True)
class Packing:
    """How the jobs of one call were divided.

    Attributes:
      candidates: jobs.
      envelopes: programs that several architectures share.
      exact: programs of one architecture.
      efficiency: useful over executed multiply-adds.
    """

    candidates: int
    envelopes: int
    exact: int
    efficiency: float

    @staticmethod
    def of(packs: Sequence[Any], efficiency: float) -> "Packing":
        """Counts packs; `efficiency` as above."""
        shared = sum(isinstance(pack.shape, Envelope) for pack in packs)
        jobs = sum(len(pack.members) for pack in packs)
        return Packing(jobs, shared, len(packs) - shared, efficiency)

    def __str__(self) -> str:
        return (
            f"{self.candidates} trainings in {self.envelopes} envelopes and {self.exact} exact "
            f"programs, {self.efficiency:.0%} of the executed FLOPs useful"
        )


class Call:
    """One call of the evaluator, which several workers serve.

    Attributes:
      jobs: all of them.
      known: positions of those that do not train.
      done: positions with outcomes, or the error that ended the work.
      stop: nobody waits for the rest any more: it ends, and saves nothing.
    """

    def __init__(self, jobs: Sequence[Job], known: Collection[int]):
        """Nothing is claimed but what is known."""
        self.jobs, self.known = jobs, frozenset(known)
        self.done: queue.SimpleQueue = queue.SimpleQueue()
        self.stop = threading.Event()
        self._claimed = set(known)
        self._lock = threading.Lock()

    def claim(self, positions: Collection[int]) -> list[int]:
        """Those that no worker has; the caller has them from now on."""
        with self._lock:
            free = [i for i in positions if i not in self._claimed]
            self._claimed.update(free)
            return free

    def release(self, positions: Collection[int]) -> None:
        """Gives back what was claimed and did not train."""
        with self._lock:
            self._claimed.difference_update(positions)

    def waiting(self, positions: Collection[int]) -> bool:
        """Whether any of them is still to be claimed."""
        with self._lock:
            return not self._claimed.issuperset(positions)


def pack_name(shape: ArchSpec | Envelope) -> str:
    """What a trial calls the pack that it trained in."""
    if not isinstance(shape, Envelope):
        return "exact"
    return "envelope-" + hashlib.sha256(repr(shape).encode()).hexdigest()[:8]


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
