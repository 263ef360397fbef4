"""When a driver asks for candidates: in rounds as the paper does, or as results arrive.

An asker names the trainings that the player starts, and hears of every training that ends. All
askers train the same candidates: which ones a search would choose at another moment, nobody knows
beforehand.
"""

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

from jointnas_jax.simulation.workload import Phase, Training, Workload


class Release(NamedTuple):
    """Trainings that may start."""

    at: float  # time in seconds
    trainings: tuple[Training, ...]  # in order; none where the driver is busy until then


class Asker(abc.ABC):
    """A driver.

    Attributes:
      seen: number of a training of the coarse stage -> results that the search had seen when it
        asked for it.
      stopping: whether the early-stop rule has decided.
    """

    def __init__(self) -> None:
        self.seen: dict[int, int] = {}
        self.stopping = False

    @abc.abstractmethod
    def start(self, now: float) -> list[Release]:
        """What comes first."""

    @abc.abstractmethod
    def ended(self, now: float, training: Training) -> list[Release]:
        """What comes after a training has ended."""

    def released(self, now: float) -> list[Release]:
        """What comes after a release: the driver is free again."""
        del now
        return []


class Synchronous(Asker):
    """Rounds: what ends early waits for the last one."""

    def __init__(self, phases: Sequence[Phase]):
        super().__init__()
        self._phases = iter(phases)
        self._left = self._results = 0
        self._coarse = False

    def start(self, now: float) -> list[Release]:
        # Phases without trainings take the driver's time only.
        for phase in self._phases:
            now += phase.before
            if phase.trainings:
                self._left, self._coarse = len(phase.trainings), phase.coarse
                if phase.coarse:
                    self.seen |= {t.number: self._results for t in phase.trainings}
                return [Release(now, phase.trainings)]
        return [Release(now, ())]

    def ended(self, now: float, training: Training) -> list[Release]:
        self._left -= 1
        self._results += self._coarse
        return [] if self._left else self.start(now)


class Asynchronous(Asker):
    """Asks for the next candidate as soon as a worker is free, after a new fit.

    One fit serves all workers that wait when it begins. No more than a first round starts without a
    result. Trainings that begin before the early-stop rule has decided end when it has, after their
    epoch. What follows the coarse stage is as in rounds.
    """

    def __init__(self, workload: Workload, workers: int, barrier: bool):
        """`barrier`: the first round ends before the driver asks for any other candidate."""
        super().__init__()
        phases = dataclasses.replace(workload, one_host=False).laid_out(workers)
        first, *later = [phase for phase in phases if phase.coarse and phase.trainings]
        self._rest = Synchronous([phase for phase in phases if not phase.coarse])
        self._fit = sum(phase.before for phase in later) / max(1, len(later))
        self._busy_until = first.before
        self._workers = workers
        self._barrier = barrier
        self._first = len(first.trainings)
        self._queue = [training for phase in (first, *later) for training in phase.trainings]
        self._numbers = {training.number for training in self._queue}
        self._firsts = {training.number for training in first.trainings}
        if not barrier:
            full, late = max(t.epochs for t in self._queue), self._queue[self._first :]
            self._queue[self._first :] = [t._replace(epochs=full, short=t.epochs) for t in late]
        self._free = self._results = self._next = 0

    def start(self, now: float) -> list[Release]:
        self._busy_until += now
        self._free = self._workers
        return [self._take(self._first)]

    def ended(self, now: float, training: Training) -> list[Release]:
        if training.number not in self._numbers:
            return self._rest.ended(now, training)
        self._results += 1
        self._free += 1
        self._firsts.discard(training.number)
        self.stopping = not self._firsts
        if self._results == len(self._queue):
            return self._rest.start(now)
        return self.released(now)

    def released(self, now: float) -> list[Release]:
        if not self._free or self._next == len(self._queue):
            return []
        if self._next < self._first:  # the head of the pool needs no fit
            return [self._take(self._first)._replace(at=now)]
        if now < self._busy_until or not self._results or (self._barrier and self._firsts):
            return []
        self._busy_until = now + self._fit
        return [self._take(len(self._queue))]

    def _take(self, end: int) -> Release:
        chosen = self._queue[self._next : min(end, self._next + self._free)]
        self._next += len(chosen)
        self._free -= len(chosen)
        self.seen |= {training.number: self._results for training in chosen}
        return Release(self._busy_until, tuple(chosen))


def widened(workload: Workload, workers: int) -> Workload:
    """The same with rounds after the first that are as wide as the fleet, if that is wider."""
    coarse = [phase for phase in workload.phases if phase.coarse]
    later = [training for phase in coarse[1:] for training in phase.trainings]
    if not later:
        return workload
    wide = max(workers, len(coarse[0].trainings))
    rounds = [
        coarse[1]._replace(name=f"round {2 + i // wide}", trainings=tuple(later[i : i + wide]))
        for i in range(0, len(later), wide)
    ]
    rest = [phase for phase in workload.phases if not phase.coarse]
    return dataclasses.replace(workload, phases=(coarse[0], *rounds, *rest))


# By name, made of the workload and the number of workers.
ASKERS: dict[str, Callable[[Workload, int], Asker]] = {
    "sync": lambda workload, workers: Synchronous(workload.laid_out(workers)),
    "wide": lambda workload, workers: Synchronous(widened(workload, workers).laid_out(workers)),
    "async": lambda workload, workers: Asynchronous(workload, workers, barrier=False),
    "mixed": lambda workload, workers: Asynchronous(workload, workers, barrier=True),
}
