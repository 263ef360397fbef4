"""Plays a workload on a fleet, event by event, and counts what it took.

The same seed gives the same play. A training's luck depends on seed and number alone, so fleets and
ways of asking are compared with the same stragglers.
"""

import collections
import dataclasses
import functools
import heapq
import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

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
    """What a play took; device-seconds count each device of a worker."""

    seconds: float  # wall time of the study
    search_seconds: float  # until the coarse stage has ended
    training: float  # device-seconds of epochs that counted
    compiling: float  # device-seconds of compiling that counted
    lost: float  # device-seconds that preemptions undid: epochs that were not saved, programs
    preemptions: int
    seen: dict[int, int]  # number of a coarse training -> results there were when it was asked for


@dataclasses.dataclass(eq=False)
class _Attempt:
    """A training on a worker, until it ends or the worker is preempted."""

    training: Training
    worker: int
    start: float
    ready: float  # when epochs begin, after compiling
    epoch: float  # seconds of one
    done: int  # epochs that it began with
    target: int  # epochs that it ends with
    fails: float  # when the worker is preempted, if it still runs
    version: int = 0  # of its next event, which older ones are not

    @property
    def end(self) -> float:
        """When it ends if nothing happens."""
        return self.ready + (self.target - self.done) * self.epoch

    def epochs(self, now: float) -> int:
        """Whole epochs that it has trained by now."""
        left = self.target - self.done
        if not self.epoch:
            return left
        return min(left, max(0, math.floor((now - self.ready) / self.epoch)))


class _Player:
    def __init__(self, workload: Workload, fleet: Fleet, rounds: str, *, seed: int):
        self._fleet = fleet
        self._seed = seed
        self._ask = ASKERS[rounds](workload, fleet.workers)
        coarse = [phase for phase in workload.phases if phase.coarse]
        self._coarse = {training.number for phase in coarse for training in phase.trainings}
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._count = 0
        self._now = self._end = self._searched = 0.0
        self._waiting: collections.deque[Training] = collections.deque()
        self._idle = dict.fromkeys(range(fleet.workers))  # in the order in which they came free
        self._homes: dict[str, set[int]] = collections.defaultdict(set)  # workers of each program
        self._running: dict[int, _Attempt] = {}  # by worker
        self._saved: dict[int, int] = {}  # epochs, by number of a training
        self._attempts: collections.Counter[int] = collections.Counter()
        self._training = self._compiling = self._lost = 0.0
        self._cut = False
        self._preemptions = 0

    def play(self) -> Played:
        """Plays to the end."""
        self._release(self._ask.start(0.0))
        while self._events:
            self._now, _, happen = heapq.heappop(self._events)
            happen()
            while self._waiting and self._idle:
                self._start(self._waiting.popleft())
        devices = self._fleet.worker_devices
        return Played(
            seconds=self._end,
            search_seconds=self._searched,
            training=devices * self._training,
            compiling=devices * self._compiling,
            lost=devices * self._lost,
            preemptions=self._preemptions,
            seen=dict(self._ask.seen),
        )

    def _at(self, time: float, happen: Callable[[], object]) -> None:
        """Makes something happen at a time, after what was made for it before."""
        self._count += 1
        heapq.heappush(self._events, (time, self._count, happen))

    def _release(self, releases: Iterable[Release]) -> None:
        for release in releases:
            self._at(release.at, functools.partial(self._released, release.trainings))

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
            fixed = fleet.compile_seconds
            compiling = fixed if fixed >= 0 else training.compile_seconds
            homes.add(worker)
        done = self._saved.get(number, 0)
        attempt = _Attempt(
            training,
            worker,
            start=self._now,
            ready=self._now + compiling,
            epoch=training.epoch_seconds * self._luck(number) / fleet.worker_speed,
            done=done,
            target=max(self._wanted(training), done),
            fails=self._now + self._lasts(number, self._attempts[number]),
        )
        self._attempts[number] += 1
        if self._attempts[number] > _MOST_ATTEMPTS:
            raise InputError(
                f"a training was preempted {_MOST_ATTEMPTS} times: devices do not last from one "
                "saved state to the next; lower --preemptions_per_hour or --checkpoint_minutes"
            )
        self._running[worker] = attempt
        self._await(attempt)

    def _wanted(self, training: Training) -> int:
        early = training.short if self._ask.stopping else None
        return training.epochs if early is None else early

    def _await(self, attempt: _Attempt) -> None:
        """Notes the end of an attempt or its preemption, instead of what was noted before."""
        attempt.version += 1
        fails = attempt.fails < attempt.end
        happen, time = (self._preempted, attempt.fails) if fails else (self._ended, attempt.end)
        self._at(time, functools.partial(self._happen, attempt, attempt.version, happen))

    def _happen(
        self, attempt: _Attempt, version: int, happen: Callable[[_Attempt], object]
    ) -> None:
        if attempt.version == version:
            del self._running[attempt.worker]
            happen(attempt)

    def _ended(self, attempt: _Attempt) -> None:
        training, self._end = attempt.training, self._now
        self._idle[attempt.worker] = None
        self._spend(attempt, attempt.target - attempt.done)
        if training.number in self._coarse:
            self._searched = self._now
        self._release(self._ask.ended(self._now, training))
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
                self._await(attempt)

    def _preempted(self, attempt: _Attempt) -> None:
        """The worker is gone; the training goes on elsewhere from its last saved state."""
        interval = 60 * self._fleet.checkpoint_minutes
        every = max(1, math.ceil(interval / attempt.epoch)) if attempt.epoch else 1
        saved = attempt.epochs(self._now) // every * every
        self._saved[attempt.training.number] = attempt.done + saved
        self._spend(attempt, saved)
        self._preemptions += 1
        for homes in self._homes.values():
            homes.discard(attempt.worker)
        self._waiting.appendleft(attempt.training)
        replaced = self._now + 60 * self._fleet.replacement_minutes
        self._at(replaced, functools.partial(self._idle.setdefault, attempt.worker))

    def _spend(self, attempt: _Attempt, epochs: int) -> None:
        """Counts the time of an attempt of which so many epochs count; one compilation does."""
        compiling = min(attempt.ready, self._now) - attempt.start
        training = epochs * attempt.epoch
        self._training += training
        if self._attempts[attempt.training.number] == 1:
            self._compiling += compiling
        else:
            self._lost += compiling
        if attempt.fails <= self._now:
            self._lost += self._now - attempt.start - compiling - training

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


def play(workload: Workload, fleet: Fleet, rounds: str = "sync", *, seed: int = 0) -> Played:
    """Plays a workload on a fleet; `rounds` names an asker.

    Raises:
      InputError: preemptions leave no time for a training to get anywhere.
    """
    return _Player(workload, fleet, rounds, seed=seed).play()
