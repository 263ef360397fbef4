"""Plays a workload on a fleet, event by event, and counts what it took.

The same seed gives the same play. A training's luck depends on seed and number alone, so fleets and
ways of asking are compared with the same stragglers.
"""

import collections
import heapq
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from jointnas_jax.errors import InputError
from jointnas_jax.simulation.asking import ASKERS, Release
from jointnas_jax.simulation.fleet import Fleet
from jointnas_jax.simulation.workload import Training, Workload

# Streams of random numbers.
_SPREAD, _PREEMPTION = range(2)
# Of one training; a fleet that needs more gets nowhere.
_MOST_ATTEMPTS = 1000


class Played(NamedTuple):
    """What a play took.

    Attributes:
      seconds: wall time of the study.
      search_seconds: until the coarse stage has ended.
      training: device-seconds of epochs that counted.
      compiling: device-seconds of compiling that counted.
      lost: device-seconds that preemptions undid: epochs that were not saved, programs.
      preemptions: how many.
      known: number of a training of the coarse stage -> results known when it was asked for.
    """

    seconds: float
    search_seconds: float
    training: float
    compiling: float
    lost: float
    preemptions: int
    known: dict[int, int]


class _Attempt:
    """A training on a worker, until it ends or the worker is preempted.

    Attributes:
      training, worker: which, where.
      start: when it began; epochs begin at `ready`, after compiling.
      epoch: seconds of one.
      done: epochs that it began with.
      target: epochs that it ends with.
      fails: when the worker is preempted, if it still runs.
      plan: number of its event; others of it are out of date.
    """

    __slots__ = (
        *("training", "worker", "start", "ready", "epoch", "done", "target", "fails", "plan"),
    )

    def __init__(self, training: Training, worker: int, start: float, ready: float, epoch: float):
        self.training, self.worker, self.start, self.ready = training, worker, start, ready
        self.epoch, self.done, self.target, self.fails = epoch, 0, 0, math.inf
        self.plan = -1

    @property
    def end(self) -> float:
        """When it ends if nothing happens."""
        return self.ready + (self.target - self.done) * self.epoch

    def epochs(self, now: float) -> int:
        """Whole epochs that it has trained by now."""
        left = self.target - self.done
        return (
            min(left, max(0, math.floor((now - self.ready) / self.epoch))) if self.epoch else left
        )


class _Player:
    """A play."""

    def __init__(self, workload: Workload, fleet: Fleet, rounds: str, seed: int):
        self._fleet, self._seed = fleet, seed
        self._ask = ASKERS[rounds](workload, fleet.workers)
        self._coarse = {
            t.number for phase in workload.phases if phase.coarse for t in phase.trainings
        }
        self._events: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._count = 0
        self._now = self._end = self._searched = 0.0
        self._waiting: collections.deque[Training] = collections.deque()
        self._idle = dict.fromkeys(range(fleet.workers))  # in the order in which they came free
        self._homes: dict[str, set[int]] = collections.defaultdict(set)  # workers of each program
        self._running: dict[int, _Attempt] = {}  # by worker
        self._saved: dict[int, int] = {}  # epochs, by number of a training
        self._attempts: collections.Counter[int] = collections.Counter()
        self._training = self._compiling = self._lost = 0.0
        self._cut, self._preemptions = False, 0

    def play(self) -> Played:
        """Plays to the end."""
        self._release(self._ask.start(0.0))
        while self._events:
            self._now, _, happen, what = heapq.heappop(self._events)
            happen(what)
            while self._waiting and self._idle:
                self._start(self._waiting.popleft())
        devices = self._fleet.worker_devices
        spent = (devices * s for s in (self._training, self._compiling, self._lost))
        return Played(self._end, self._searched, *spent, self._preemptions, dict(self._ask.known))

    def _at(self, time: float, happen: Callable[[Any], None], what: Any) -> int:
        """Makes something happen at a time, after what was made for it before: gives its number."""
        self._count += 1
        heapq.heappush(self._events, (time, self._count, happen, what))
        return self._count

    def _release(self, releases: Iterable[Release]) -> None:
        for release in releases:
            self._at(release.at, self._released, release.trainings)

    def _released(self, trainings: tuple[Training, ...]) -> None:
        self._end = self._now
        self._waiting.extend(trainings)
        self._release(self._ask.released(self._now))

    def _start(self, training: Training) -> None:
        """Starts a training, or goes on with it, where its program is if a worker there is free."""
        number, fleet, homes = training.number, self._fleet, self._homes[training.program]
        worker = min((w for w in homes if w in self._idle), default=next(iter(self._idle)))
        del self._idle[worker]
        compiling = 0.0
        if worker not in homes:
            own = fleet.compile_seconds
            compiling = own if own >= 0 else training.compile_seconds
            homes.add(worker)
        epoch = training.epoch_seconds * self._luck(number) / fleet.worker_speed
        attempt = _Attempt(training, worker, self._now, self._now + compiling, epoch)
        attempt.done = self._saved.get(number, 0)
        attempt.target = max(self._wanted(training), attempt.done)
        attempt.fails = self._now + self._lasts(number, self._attempts[number])
        self._attempts[number] += 1
        if self._attempts[number] > _MOST_ATTEMPTS:
            raise InputError(
                f"a training was preempted {_MOST_ATTEMPTS} times: devices do not last from one "
                "saved state to the next; lower --preemptions_per_hour or --checkpoint_minutes"
            )
        self._running[worker] = attempt
        self._plan(attempt)

    def _wanted(self, training: Training) -> int:
        early = self._ask.stopping and training.short is not None
        return training.short if early else training.epochs

    def _plan(self, attempt: _Attempt) -> None:
        """Notes what will happen to an attempt, instead of what was noted before."""
        fails = attempt.fails < attempt.end
        happen, time = (self._preempted, attempt.fails) if fails else (self._ended, attempt.end)
        attempt.plan = self._count + 1
        self._at(time, happen, (attempt, attempt.plan))

    def _ended(self, event: tuple[_Attempt, int]) -> None:
        attempt, plan = event
        if attempt.plan != plan:
            return
        training, self._end = attempt.training, self._now
        del self._running[attempt.worker]
        self._return(attempt.worker)
        self._spend(attempt, attempt.target - attempt.done)
        if training.number in self._coarse:
            self._searched = self._now
        self._release(self._ask.told(self._now, training))
        if self._ask.stopping and not self._cut:
            self._cut = True
            self._cut_short()

    def _cut_short(self) -> None:
        """The rule has decided: what runs for longer than it wants ends after its epoch."""
        for attempt in self._running.values():
            passed = (self._now - attempt.ready) / attempt.epoch if attempt.epoch else 0.0
            begun = attempt.done + max(0, math.ceil(passed))
            wanted = max(self._wanted(attempt.training), min(begun, attempt.target))
            if wanted < attempt.target:
                attempt.target = wanted
                self._plan(attempt)

    def _preempted(self, event: tuple[_Attempt, int]) -> None:
        """The worker is gone; the training goes on elsewhere from its last saved state."""
        attempt, plan = event
        if attempt.plan != plan:
            return
        training, worker = attempt.training, attempt.worker
        interval = 60 * self._fleet.checkpoint_minutes
        every = max(1, math.ceil(interval / attempt.epoch)) if attempt.epoch else 1
        kept = attempt.epochs(self._now) // every * every
        self._saved[training.number] = attempt.done + kept
        self._spend(attempt, kept)
        self._preemptions += 1
        del self._running[worker]
        for homes in self._homes.values():
            homes.discard(worker)
        self._waiting.appendleft(training)
        self._at(self._now + 60 * self._fleet.replacement_minutes, self._return, worker)

    def _return(self, worker: int) -> None:
        self._idle[worker] = None

    def _spend(self, attempt: _Attempt, epochs: int) -> None:
        """Counts the time of an attempt, of which so many epochs are kept; one compilation is."""
        compiling = min(attempt.ready, self._now) - attempt.start
        training, first = epochs * attempt.epoch, self._attempts[attempt.training.number] == 1
        self._training += training
        if first:
            self._compiling += compiling
        else:
            self._lost += compiling
        passed = self._now - attempt.start - compiling - training
        self._lost += passed if attempt.fails <= self._now else 0.0

    def _luck(self, number: int) -> float:
        """How many times as long as expected a training takes; 1 on average."""
        sigma = self._fleet.spread
        if not sigma:
            return 1.0
        rng = np.random.default_rng((self._seed, _SPREAD, number))
        return math.exp(sigma * rng.standard_normal() - sigma**2 / 2)

    def _lasts(self, number: int, attempt: int) -> float:
        """Seconds until a worker is preempted, the devices of which fail independently."""
        rate = self._fleet.preemptions_per_hour * self._fleet.worker_devices / 3600
        if not rate:
            return math.inf
        rng = np.random.default_rng((self._seed, _PREEMPTION, number, attempt))
        return rng.exponential(1 / rate)


def play(workload: Workload, fleet: Fleet, rounds: str = "sync", seed: int = 0) -> Played:
    """Plays a workload on a fleet.

    Args:
      workload: the study.
      fleet: that it runs on.
      rounds: name of an asker.
      seed: of stragglers and preemptions.

    Raises:
      InputError: preemptions leave no time for a training to get anywhere.
    """
    return _Player(workload, fleet, rounds, seed).play()
