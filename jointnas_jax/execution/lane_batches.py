"""Jobs in groups that train side by side; a group that fails is tried job by job."""

import dataclasses
import hashlib
import threading
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from jointnas_jax.errors import InterruptedStudyError
from jointnas_jax.execution.job import (
    Call,
    Job,
    RunContext,
    TrainResult,
    is_out_of_memory,
    pack_name,
    raise_if_blameless,
    reason_of,
)
from jointnas_jax.nets.envelope import Envelope
from jointnas_jax.space import ArchSpec
from jointnas_jax.storage.workdir import STATE


class Place(NamedTuple):
    """Where jobs train side by side.

    Attributes:
      shape: of the program.
      lanes: on each device.
      device: the only one; None: all.
      together: all devices share one lane.
      devices: number of devices.
    """

    shape: ArchSpec | Envelope
    lanes: int
    device: int | None
    together: bool
    devices: int

    @property
    def size(self) -> int:
        """Jobs that train at once."""
        return self.lanes if self.together else self.lanes * self.devices

    def with_fewer_lanes(self) -> "Place":
        """The next power of two below, so that it is the same whatever was tried before."""
        return self._replace(lanes=1 << (self.lanes - 1).bit_length() - 1)


def state_folder(workdir: Path | None, place: Place, jobs: Sequence[Job]) -> Path | None:
    """Where the state of just these trainings is kept, in a program of just these shapes."""
    if workdir is None:
        return None
    keys = [np.asarray(jax.random.key_data(job.key)).tolist() for job in jobs]
    what = [(job.candidate, job.epochs, job.on_full_split) for job in jobs]
    program = (place.shape, place.lanes, place.devices, place.together)
    name = hashlib.sha256(repr((program, keys, what)).encode()).hexdigest()[:16]
    return workdir / STATE / name


@dataclasses.dataclass(frozen=True)
class Groups:
    """Trains jobs of a call in groups.

    Attributes:
      call: that the jobs are of.
      train_at: trains jobs side by side at a place, until it is told to stop.
      keeping: of the evaluator.
    """

    call: Call
    train_at: Callable[[Place, Sequence[Job], threading.Event], list[TrainResult]]
    keeping: RunContext

    def train(self, place: Place, ordered: Sequence[int]) -> Place:
        """Trains jobs of one kind, but for those that are known or that another worker has.

        Args:
          place: where to begin.
          ordered: positions in the call.

        Returns:
          The place with as many lanes as fitted into the memory.

        Raises:
          JointNASError: the run cannot go on; see `raise_if_blameless`.
        """
        left = set(ordered) - self.call.known
        while left:
            for group in self._divide(place, ordered, left):
                wanted = [i for i in group if i in left]
                mine = self.call.claim(wanted)
                left.difference_update(set(wanted) - set(mine))
                if mine and not self._train(place, group if mine == wanted else mine, left):
                    self.call.release(mine)
                    place = place.with_fewer_lanes()
                    break
        return place

    def _divide(
        self, place: Place, ordered: Sequence[int], left: Collection[int]
    ) -> list[list[int]]:
        """Divides the jobs that are left.

        A run may have ended when a part of a group was stored: if the group has a state, all of it
        goes on from there.
        """
        cut = lambda some: [some[i : i + place.size] for i in range(0, len(some), place.size)]
        begun = []
        for group in cut(ordered):
            if 0 < sum(i in left for i in group) < len(group):
                jobs = [self.call.jobs[i] for i in group]
                folder = state_folder(self.keeping.folder, place, jobs)
                if folder is not None and folder.exists():
                    begun.append(group)
        return begun + cut([i for i in ordered if i in left and not any(i in g for g in begun)])

    def _train(self, place: Place, group: Sequence[int], left: set[int]) -> bool:
        """Trains jobs side by side, and one after the other where that fails: it is one's fault.

        What a lane computes depends on its candidate and key alone, so the others lose time only.

        Args:
          place: where.
          group: the jobs; outcomes of those that are not `left` are not wanted.
          left: jobs without an outcome; those that get one are removed.

        Returns:
          Whether there was memory for so many lanes.
        """
        self.keeping.interrupt.check()
        if self.call.stop.is_set():
            raise InterruptedStudyError
        wanted, start = [i for i in group if i in left], time.perf_counter()
        try:
            jobs = [self.call.jobs[i] for i in group]
            outcomes = self.train_at(place, jobs, self.call.stop)
        except Exception as error:  # a candidate must not end the study
            raise_if_blameless(error)
            if is_out_of_memory(error) and place.lanes > 1:
                return False
            outcomes = [TrainResult((), reason_of(error), None)] if len(group) == 1 else []
        # Not before the error is gone, which holds what it has in memory.
        if not outcomes:
            return all(self._train(place, [i], left) for i in wanted)
        seconds = (time.perf_counter() - start) / len(wanted)
        for index, outcome in zip(group, outcomes, strict=True):
            if index in left:
                left.remove(index)
                measured = {"seconds": seconds, "pack": pack_name(place.shape)}
                self.call.done.put((index, dataclasses.replace(outcome, **measured)))
        return True
