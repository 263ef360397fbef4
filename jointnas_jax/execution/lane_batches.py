"""Jobs in batches that train side by side; a batch that fails is tried job by job."""

import dataclasses
import hashlib
import queue
import threading
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import jax
import numpy as np

from jointnas_jax.errors import InterruptedStudyError
from jointnas_jax.execution.job import (
    Job,
    RunContext,
    TrainResult,
    is_out_of_memory,
    raise_if_blameless,
    reason_of,
)
from jointnas_jax.execution.packing import pack_name
from jointnas_jax.execution.schedule import Assignment, Layout, Schedule
from jointnas_jax.storage.workdir import STATE

# Trains jobs of one kind at once, in the program of an assignment, until the event is set.
TrainFn = Callable[[Assignment, Sequence[Job], threading.Event], list[TrainResult]]


def state_folder(
    workdir: Path | None, assignment: Assignment, jobs: Sequence[Job], devices: int
) -> Path | None:
    """Folder for the state of just these trainings, in a program of just these shapes."""
    if workdir is None:
        return None
    keys = [np.asarray(jax.random.key_data(job.key)).tolist() for job in jobs]
    what = [(job.candidate, job.kind) for job in jobs]
    together = assignment.layout is Layout.TOGETHER
    program = (assignment.shape, assignment.lanes, assignment.devices(devices), together)
    name = hashlib.sha256(repr((program, keys, what)).encode()).hexdigest()[:16]
    return workdir / STATE / name


class LaneBatcher:
    """Trains the jobs of a schedule in lane batches; several workers share it.

    Attributes:
      results: positions with results, or the error that ended the work.
      stop: set when nobody waits for the rest any more: it ends, and saves nothing.
    """

    def __init__(self, schedule: Schedule, devices: int, train_fn: TrainFn, context: RunContext):
        """Has trained nothing yet.

        Args:
          schedule: to train.
          devices: devices of this worker.
          train_fn: trains one lane batch.
          context: context of the run.
        """
        self.results: queue.SimpleQueue[tuple[int, TrainResult] | BaseException]
        self.results = queue.SimpleQueue()
        self.stop = threading.Event()
        self._stored = schedule.stored
        self._devices = devices
        self._train_fn = train_fn
        self._context = context
        # Positions that a worker trains or has trained.
        self._claimed = set(schedule.stored)
        self._lock = threading.Lock()

    def train(self, assignment: Assignment) -> int:
        """Trains an assignment, but for jobs that are stored or that another worker has.

        Returns:
          The lanes that fitted into the memory.

        Raises:
          JointNASError: the run cannot go on; see `raise_if_blameless`.
        """
        for ordered in assignment.kinds():
            left = set(ordered) - self._stored
            while left:
                for batch in self._divide(assignment, ordered, left):
                    wanted = [i for i in batch if i in left]
                    mine = self._claim(wanted)
                    left.difference_update(set(wanted) - set(mine))
                    batch = batch if mine == wanted else mine
                    if mine and not self._train(assignment, batch, left):
                        self._release(mine)
                        assignment = assignment.with_fewer_lanes()
                        break
        return assignment.lanes

    def waiting(self, assignment: Assignment) -> bool:
        """Whether any of its jobs is still to be claimed."""
        with self._lock:
            return not self._claimed.issuperset(assignment.jobs)

    def _claim(self, positions: Collection[int]) -> list[int]:
        """Those that no worker has; the caller has them from now on."""
        with self._lock:
            free = [i for i in positions if i not in self._claimed]
            self._claimed.update(free)
            return free

    def _release(self, positions: Collection[int]) -> None:
        with self._lock:
            self._claimed.difference_update(positions)

    def _divide(
        self, assignment: Assignment, ordered: Sequence[int], left: Collection[int]
    ) -> list[list[int]]:
        """Divides the jobs that are left.

        A run may have ended when a part of a batch was stored: if the batch has a state, all of it
        goes on from there.
        """
        size = assignment.size(self._devices)

        def cut(some: Sequence[int]) -> list[list[int]]:
            return [[*some[i : i + size]] for i in range(0, len(some), size)]

        begun = []
        for batch in cut(ordered):
            if 0 < sum(i in left for i in batch) < len(batch):
                jobs = [assignment.jobs[i] for i in batch]
                folder = state_folder(self._context.folder, assignment, jobs, self._devices)
                if folder is not None and folder.exists():
                    begun.append(batch)
        return begun + cut([i for i in ordered if i in left and not any(i in b for b in begun)])

    def _train(self, assignment: Assignment, batch: Sequence[int], left: set[int]) -> bool:
        """Trains jobs side by side, and one after the other where that fails: it is one's fault.

        What a lane computes depends on its candidate and key alone, so the others lose time only.

        Args:
          assignment: the program.
          batch: positions of the jobs; results of those that are not `left` are dropped.
          left: jobs without a result; those that get one are removed.

        Returns:
          Whether there was memory for so many lanes.
        """
        self._context.interrupt.check()
        if self.stop.is_set():
            raise InterruptedStudyError
        wanted, start = [i for i in batch if i in left], time.perf_counter()
        try:
            results = self._train_fn(assignment, [assignment.jobs[i] for i in batch], self.stop)
        except Exception as error:  # a candidate must not end the study
            raise_if_blameless(error)
            if is_out_of_memory(error) and assignment.lanes > 1:
                return False
            results = [TrainResult((), reason_of(error), None)] if len(batch) == 1 else []
        # Not before the error is gone, which holds what it has in memory.
        if not results:
            return all(self._train(assignment, [i], left) for i in wanted)
        seconds, pack = (time.perf_counter() - start) / len(wanted), pack_name(assignment.shape)
        for index, result in zip(batch, results, strict=True):
            if index in left:
                left.remove(index)
                self.results.put((index, dataclasses.replace(result, seconds=seconds, pack=pack)))
        return True
