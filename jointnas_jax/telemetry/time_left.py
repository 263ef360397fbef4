"""How long a study still takes: what was forecast, corrected by what was measured so far.

Compiling and training are corrected apart: a cache of compiled programs or a busy machine changes
one and not the other. Nothing here asks a clock or imports JAX: a recorded timeline gives what the
run itself gave.
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
    """What the trainings of one batch take, as forecast.

    Attributes:
      stage: as in `Trial`.
      trainings: number of them.
      compiling, training: seconds of wall time.
    """

    stage: str
    trainings: int
    compiling: float
    training: float


class Measured(NamedTuple):
    """What a part took, or the share of it that is done.

    Attributes:
      part: its forecast.
      seconds: wall time of all of it.
      training: of that, with training; None where nothing told how it divides.
    """

    part: Part
    seconds: float
    training: float | None


@dataclasses.dataclass
class Group:
    """Trainings side by side, as far as they are.

    Attributes:
      pack: name of the pack.
      trainings: number of them.
      epochs: of each.
      device: the only one; None: all.
      first, last: (seconds, epoch) when an epoch ended; None before one did.
    """

    pack: str
    trainings: int
    epochs: int
    device: int | None = None
    first: tuple[float, int] | None = None
    last: tuple[float, int] | None = None

    @property
    def epoch(self) -> int:
        """Epochs behind it."""
        return self.last[1] if self.last else 0

    @property
    def trained(self) -> int:
        """Epochs of this run: an interrupted training goes on from a saved one."""
        return self.epoch - self.first[1] + 1 if self.first else 0

    @property
    def seconds(self) -> float | None:
        """Wall time of these epochs, without compiling; None before two ended."""
        if self.trained < 2:
            return None
        return (self.last[0] - self.first[0]) * self.trained / (self.trained - 1)


class Timeline:
    """What happened to the parts of a study, at which seconds of any clock.

    The caller keeps threads apart.
    """

    def __init__(self, plan: Sequence[Part], compile_scale: float = 1.0):
        """Begins with nothing done.

        Args:
          plan: all parts in order.
          compile_scale: how many times as long as by the constants compiling takes.
        """
        self._pending = list(plan)
        self._search_programs = _SEARCH_PROGRAMS * compile_scale
        self._finished: list[Measured] = []
        self._gaps: list[float] = []
        self._ended: float | None = None
        self._part: Part | None = None
        self._began, self._done = 0.0, 0
        self.groups: list[Group] = []

    def stored(self, counts: Mapping[str, int]) -> None:
        """Takes off what an earlier run stored: stage -> trainings."""
        left = collections.Counter(counts)
        for i, part in enumerate(self._pending):
            known = min(left[part.stage], part.trainings)
            left[part.stage] -= known
            share = 1 - known / part.trainings if part.trainings else 0.0
            self._pending[i] = Part(
                part.stage, part.trainings - known, part.compiling * share, part.training * share
            )

    def shorten(self, stage: str, share: float) -> None:
        """Later trainings of a stage take this share of the epochs that were planned."""
        self._pending = [
            part._replace(training=part.training * share) if part.stage == stage else part
            for part in self._pending
        ]

    def begin(self, now: float, part: Part) -> list[Part]:
        """A batch of trainings begins.

        Returns:
          What was planned in its place, and before it, and is no more.
        """
        planned = []
        while any(pending.stage == part.stage for pending in self._pending):
            planned.append(self._pending.pop(0))
            if planned[-1].stage == part.stage:
                break
        if self._ended is not None:
            self._gaps.append(now - self._ended)
        self._part, self._began, self._done, self.groups = part, now, 0, []
        return planned

    def group(self, group: Group) -> None:
        """Trainings side by side begin."""
        self.groups.append(group)

    def epoch(self, now: float, group: Group, epoch: int) -> None:
        """An epoch of a group ended."""
        group.last = (now, epoch)
        group.first = group.first or group.last

    def trained(self) -> None:
        """One training has ended, whether or not epochs were told of."""
        self._done += 1

    def end(self, now: float) -> None:
        """The batch has ended."""
        if self._part is None:
            return
        if measured := self._so_far(now):
            self._finished.append(measured)
        elif self._part.trainings:
            self._finished.append(Measured(self._part, now - self._began, None))
        self._part, self._ended, self.groups = None, now, []

    def seconds_left(self, now: float) -> float:
        """Forecast of the seconds until the last part has ended."""
        finished, running = list(self._finished), self._so_far(now)
        if running:
            finished.append(running)
        compiling, training = speeds(finished)
        left = sum(compiling * p.compiling + training * p.training for p in self._pending)
        left += self._left_of_part(now, compiling, training)
        return left + self._left_between(now, compiling)

    def _share_done(self) -> float:
        """Share of the running batch that is done."""
        if not self._part.trainings:
            return 1.0
        epochs = sum(group.trainings * group.epoch / group.epochs for group in self.groups)
        return min(1.0, max(self._done, epochs) / self._part.trainings)

    def _share_trained(self) -> float:
        """Share of the epochs of the running batch that this run trained."""
        return min(1.0, _weight(self.groups) / self._part.trainings)

    def _share_compiled(self) -> float:
        """Share of the trainings of the running batch whose program is there."""
        ready = sum(g.trainings for g in self.groups if g.first)
        return min(1.0, ready / self._part.trainings) if self._part.trainings else 1.0

    def _training_seconds(self) -> float | None:
        """Wall time of training in the running batch so far; None where nothing tells it."""
        known = [group for group in self.groups if group.seconds is not None]
        if not known:
            return None
        by_device: dict[int | None, float] = collections.defaultdict(float)
        for group in known:
            by_device[group.device] += group.seconds
        # What is on all devices takes turns with what is on one.
        seconds = by_device.pop(None, 0.0) + max(by_device.values(), default=0.0)
        # Groups of one epoch say nothing; they are taken for ones like the others.
        return seconds * _weight(self.groups) / _weight(known)

    def _so_far(self, now: float) -> Measured | None:
        """What of the running batch is done; None before there is enough to go by."""
        part = self._part
        seconds = self._training_seconds() if part and part.trainings else None
        if seconds is None:
            return None
        compiled, trained = self._share_compiled(), self._share_trained()
        share = part._replace(compiling=part.compiling * compiled, training=part.training * trained)
        return Measured(share, now - self._began, seconds)

    def _left_of_part(self, now: float, compiling: float, training: float) -> float:
        """Seconds that the running batch still takes."""
        if self._part is None or not self._part.trainings:
            return 0.0
        done, wanted = self._share_done(), compiling * self._part.compiling
        trained = max(self._share_trained(), self._done / self._part.trainings)
        compiled = max(0.0, now - self._began - training * self._part.training * trained)
        left = min(wanted * (1 - self._share_compiled()), max(0.0, wanted - compiled))
        return left + training * self._part.training * (1 - done)

    def _left_between(self, now: float, compiling: float) -> float:
        """Seconds between batches: the predictor is fitted and candidates are proposed."""
        idle = self._part is None
        gaps = len(self._pending) - (idle and self._ended is None)
        if gaps < 1:
            return 0.0
        later = self._gaps[1:]
        each = sum(later) / len(later) if later else _BETWEEN
        first = each + (0.0 if self._gaps else compiling * self._search_programs)
        if idle and self._ended is not None:
            first = max(0.0, first - (now - self._ended))
        return first + each * (gaps - 1)


def _weight(groups: Sequence[Group]) -> float:
    """Trainings of groups, each counted as the share of its epochs that this run trained."""
    return sum(group.trainings * group.trained / group.epochs for group in groups)


def speeds(measured: Sequence[Measured]) -> tuple[float, float]:
    """How many times as long as forecast compiling and training took so far.

    A batch whose programs were there before says how long training takes, all in all.
    """
    compiled, trained, mixed = [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]

    def add(sums: list[float], seconds: float, forecast: float) -> None:
        sums[0] += seconds
        sums[1] += forecast

    for part, seconds, training in measured:
        if not part.compiling:
            add(trained, seconds, part.training)
        elif training is None:
            add(mixed, seconds, part.compiling + part.training)
        else:
            add(trained, training, part.training)
            add(compiled, max(0.0, seconds - training), part.compiling)
    ratio = lambda sums, default: sums[0] / sums[1] if sums[1] else default
    both = ratio(mixed, 1.0)
    return ratio(compiled, both), ratio(trained, both)
