"""When a driver asks for candidates: in rounds as the paper does, or as results arrive.

An asker tells the player what to train, and hears of every training that ends. All of them train
the same candidates: which ones a search would choose at another moment, nobody knows beforehand.
"""

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

from jointnas_jax.simulation.workload import Phase, Training, Workload


class Release(NamedTuple):
    """Trainings that may start.

    Attributes:
      at: time in seconds.
      trainings: in order; none where the driver does something else until then.
    """

    at: float
    trainings: tuple[Training, ...]


class Asker(abc.ABC):
    """A driver.

    Attributes:
      known: number of a training of the coarse stage -> results that the search had seen when it
        asked for it.
      stopping: whether the early-stop rule has decided.
    """

    def __init__(self) -> None:
        self.known: dict[int, int] = {}
        self.stopping = False

    @abc.abstractmethod
    def start(self, now: float) -> list[Release]:
        """What comes first."""

    @abc.abstractmethod
    def told(self, now: float, training: Training) -> list[Release]:
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
        self._left, self._results, self._coarse = 0, 0, False

    def start(self, now: float) -> list[Release]:
        """The next phase; phases without trainings take the driver's time only."""
        for phase in self._phases:
            now += phase.before
            if phase.trainings:
                self._left, self._coarse = len(phase.trainings), phase.coarse
                if phase.coarse:
                    self.known |= {t.number: self._results for t in phase.trainings}
                return [Release(now, phase.trainings)]
        return [Release(now, ())]

    def told(self, now: float, training: Training) -> list[Release]:
        """Counts; the last one of a phase begins the next."""
        self._left -= 1
        self._results += self._coarse
        return [] if self._left else self.start(now)


class Asynchronous(Asker):
    """Tell as they finish, refit, ask again: a worker that is free gets the next candidate.

    One fit serves all workers that wait when it begins. No more than a first round starts without a
    result. Trainings that begin before the early-stop rule has decided end when it has, after their
    epoch. What follows the coarse stage is as in rounds.
    """

    def __init__(self, workload: Workload, workers: int, barrier: bool):
        """Plans nothing yet.

        Args:
          workload: whose rounds are dissolved.
          workers: candidates that train at once.
          barrier: whether the first round ends before any other candidate is asked for.
        """
        super().__init__()
        phases = dataclasses.replace(workload, one_host=False).laid_out(workers)
        coarse = [phase for phase in phases if phase.coarse and phase.trainings]
        self._rest = Synchronous([phase for phase in phases if not phase.coarse])
        self._begin = coarse[0].before
        fits = [phase.before for phase in coarse[1:]]
        self._fit = sum(fits) / len(fits) if fits else 0.0
        self._first = len(coarse[0].trainings)
        self._queue = [t for phase in coarse for t in phase.trainings]
        self._firsts = {t.number for t in self._queue[: self._first]}
        self._names = {t.number for t in self._queue}
        if not barrier:
            full = max(t.epochs for t in self._queue)
            late = self._queue[self._first :]
            self._queue[self._first :] = [t._replace(epochs=full, short=t.epochs) for t in late]
        self._barrier, self._workers = barrier, workers
        self._hungry = self._results = 0
        self._busy_until, self._next = 0.0, 0

    def start(self, now: float) -> list[Release]:
        """As many of the first round as there are workers."""
        self._busy_until = now + self._begin
        self._hungry = self._workers
        return [self._take(self._first)]

    def told(self, now: float, training: Training) -> list[Release]:
        """Counts, and asks again if the driver is free."""
        if training.number not in self._names:
            return self._rest.told(now, training)
        self._results += 1
        self._hungry += 1
        self._firsts.discard(training.number)
        self.stopping = not self._firsts
        if self._results == len(self._queue):
            return self._rest.start(now)
        return self.released(now)

    def released(self, now: float) -> list[Release]:
        """Asks for the workers that wait."""
        if not self._hungry or self._next == len(self._queue):
            return []
        if self._next < self._first:  # the head of the pool needs no fit
            return [self._take(self._first)._replace(at=now)]
        if now < self._busy_until or not self._results or (self._barrier and self._firsts):
            return []
        self._busy_until = now + self._fit
        return [self._take(len(self._queue))]

    def _take(self, end: int) -> Release:
        chosen = self._queue[self._next : min(end, self._next + self._hungry)]
        self._next += len(chosen)
        self._hungry -= len(chosen)
        self.known |= {t.number: self._results for t in chosen}
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


# By name, given a workload and the number of workers.
ASKERS: dict[str, Callable[[Workload, int], Asker]] = {
    "sync": lambda workload, workers: Synchronous(workload.laid_out(workers)),
    "wide": lambda workload, workers: Synchronous(widened(workload, workers).laid_out(workers)),
    "async": lambda workload, workers: Asynchronous(workload, workers, barrier=False),
    "mixed": lambda workload, workers: Asynchronous(workload, workers, barrier=True),
}
