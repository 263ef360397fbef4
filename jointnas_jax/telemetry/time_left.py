"""How long a study still takes: its schedules' estimates, corrected by what was measured so far.

Compiling and training are corrected apart: a cache of compiled programs or a busy machine changes
one and not the other. Nothing here reads a clock or imports JAX: a recorded timeline repeats what
the run itself computed.
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

# Seconds to compile the programs that fit the predictor and propose candidates, where compiling
# takes as long as by the constants of `execution/cost_model.py`; measured on two CPU cores.
_SEARCH_PROGRAMS = 8.0
# Seconds between two batches of trainings, once these programs are there.
_BETWEEN = 0.3


class Part(NamedTuple):
    """Trainings of one batch, and the wall time that they take: estimated, or measured.

    Attributes:
      stage: as in `Trial`.
      trainings: number of them.
      compiling: seconds.
      training: seconds.
    """

    stage: str
    trainings: int
    compiling: float
    training: float


@dataclasses.dataclass
class Lanes:
    """Trainings side by side.

    Attributes:
      pack: name of the pack.
      trainings: number of them.
      epochs: epochs of each, those before a pause included.
      device: the only one; None: all.
      epoch: the last one that has ended, in this run or before.
      ended: seconds when it did; None before one did in this run.
      begun: the epochs before a pause.
    """

    pack: str
    trainings: int
    epochs: int
    device: int | None = None
    epoch: int = 0
    ended: float | None = None
    begun: int = 0

    @property
    def share(self) -> float:
        """Part of a training that an epoch is."""
        return 1 / (self.epochs - self.begun)


class _Batch:
    """The batch that trains."""

    def __init__(self, part: Part, began: float):
        self.part = part
        self.done = 0  # trainings that have ended
        self.lanes: list[Lanes] = []
        self._began = began
        self._first: float | None = None  # when the first epoch of the latest lanes ended
        # Trainings whose program is there; then trainings as shares of their epochs: all in this
        # run, and those of known length, for the first epoch after compilation has no beginning.
        self._compiled = self._trained = self._timed = 0.0
        self._seconds: dict[int | None, float] = collections.defaultdict(float)

    def epoch_ends(self, now: float, lanes: Lanes, epoch: int) -> None:
        share = lanes.trainings * lanes.share
        if lanes.ended is None:
            self._compiled += lanes.trainings
            self._first = now
        else:
            self._seconds[lanes.device] += now - lanes.ended
            self._timed += share
        self._trained += share
        lanes.epoch, lanes.ended = epoch, now

    def measured(self, now: float, ended: bool = False) -> list[tuple[Part, Part]]:
        """Estimate and measurement of what is done of it; [] before there is enough to go by."""
        part, seconds = self.part, now - self._began
        whole = part.compiling + part.training
        if whole and self._timed:
            alone = [s for device, s in self._seconds.items() if device is not None]
            # What is on all devices takes turns with what is on one.
            training = self._seconds.get(None, 0.0) + max(alone, default=0.0)
            training *= self._trained / self._timed
            part = part._replace(
                compiling=part.compiling * self._share(self._compiled),
                training=part.training * self._share(self._trained),
            )
        elif whole and ended:
            training = seconds * part.training / whole
        else:
            return []
        # Where programs were there before, all of the time is that of training.
        training = training if part.compiling else seconds
        compiling = max(0.0, seconds - training)
        return [(part, part._replace(compiling=compiling, training=training))]

    def slowness(self, now: float) -> float:
        """How many times as long as estimated it takes at least, before `measured` says more."""
        if self._timed or self.done or not self.part.compiling:
            return 0.0
        # The first epoch of a lane ends after its program is compiled.
        seconds = (self._first or now) - self._began
        return seconds / (self.part.compiling + self.part.training * self._share(self._trained))

    def seconds_left(self, now: float, compiling: float, training: float) -> float:
        """Seconds that it still takes, where compiling and training take so many times as long."""
        epochs = sum(a.trainings * (a.epoch - a.begun) * a.share for a in self.lanes)
        compiling, training = compiling * self.part.compiling, training * self.part.training
        trained = self._share(max(self._trained, self.done))
        compiled = max(0.0, now - self._began - training * trained)
        left = min(compiling * (1 - self._share(self._compiled)), compiling - compiled)
        return max(0.0, left) + training * (1 - self._share(max(self.done, epochs)))

    def _share(self, trainings: float) -> float:
        return min(1.0, trainings / self.part.trainings) if self.part.trainings else 1.0


class Timeline:
    """What happened to the parts of a study, at which seconds of any clock.

    The caller keeps threads apart.
    """

    def __init__(self, parts: Sequence[Part] = (), compile_scale: float = 1.0):
        """Begins with nothing done.

        Args:
          parts: all of them in order, as estimated.
          compile_scale: how many times as long as by the constants compiling takes.
        """
        self._pending = list(parts)
        self._search_programs = _SEARCH_PROGRAMS * compile_scale
        self._measured: list[tuple[Part, Part]] = []
        self._gaps: list[float] = []
        self._ended: float | None = None
        self._batch: _Batch | None = None

    @property
    def lanes(self) -> list[Lanes]:
        """Trainings side by side of the running batch."""
        return self._batch.lanes if self._batch else []

    def stored(self, counts: Mapping[str, int]) -> None:
        """Takes off what an earlier run stored: stage -> trainings."""
        left = collections.Counter(counts)
        for i, part in enumerate(self._pending):
            done = min(left[part.stage], part.trainings)
            left[part.stage] -= done
            share = 1 - done / part.trainings if part.trainings else 0.0
            self._pending[i] = Part(
                part.stage, part.trainings - done, part.compiling * share, part.training * share
            )

    def shorten(self, stage: str, share: float) -> None:
        """Later trainings of a stage take this share of the epochs that were scheduled."""
        self._pending = [
            part._replace(training=part.training * share) if part.stage == stage else part
            for part in self._pending
        ]

    def begin(self, now: float, part: Part) -> list[Part]:
        """A batch begins; returns the part that it replaces, after those that do not come."""
        stages = [pending.stage for pending in self._pending]
        count = stages.index(part.stage) + 1 if part.stage in stages else 0
        replaced, self._pending = self._pending[:count], self._pending[count:]
        if self._ended is not None:
            self._gaps.append(now - self._ended)
        self._batch = _Batch(part, now)
        return replaced

    def epoch(self, now: float, lanes: Lanes, epoch: int) -> None:
        """An epoch of trainings side by side has ended."""
        if self._batch:
            self._batch.epoch_ends(now, lanes, epoch)

    def trained(self) -> None:
        """One training has ended, whether or not its epochs were reported."""
        if self._batch:
            self._batch.done += 1

    def end(self, now: float) -> None:
        """The batch has ended."""
        if self._batch:
            self._measured += self._batch.measured(now, ended=True)
            self._batch, self._ended = None, now

    def seconds_left(self, now: float) -> float:
        """Estimate of the seconds until the last part has ended."""
        running = self._batch.measured(now) if self._batch else []
        compiling, training = speeds([*self._measured, *running])
        slowness = self._batch.slowness(now) if self._batch else 0.0
        if slowness > compiling:
            compiling = slowness
            # A machine that does other work trains as slowly, until that is measured.
            training = training if self._measured else max(training, slowness)
        left = sum(compiling * p.compiling + training * p.training for p in self._pending)
        if self._batch:
            left += self._batch.seconds_left(now, compiling, training)
        return left + self._left_between(now, compiling)

    def _left_between(self, now: float, compiling: float) -> float:
        """Seconds between batches: the predictor is fitted and candidates are proposed."""
        waiting = self._batch is None
        gaps = len(self._pending) - (waiting and self._ended is None)
        if gaps < 1:
            return 0.0
        later = self._gaps[1:]
        each = sum(later) / len(later) if later else _BETWEEN
        first = each + (0.0 if self._gaps else compiling * self._search_programs)
        if waiting and self._ended is not None:
            first = max(0.0, first - (now - self._ended))
        return first + each * (gaps - 1)


def speeds(measured: Sequence[tuple[Part, Part]]) -> tuple[float, float]:
    """How many times as long as estimated compiling and training took: (estimate, measured)s."""

    def ratio(pairs: Sequence[tuple[float, float]]) -> float:
        estimated = sum(pair[0] for pair in pairs)
        return sum(pair[1] for pair in pairs) / estimated if estimated else 1.0

    return (
        ratio([(estimate.compiling, taken.compiling) for estimate, taken in measured]),
        ratio([(estimate.training, taken.training) for estimate, taken in measured]),
    )
