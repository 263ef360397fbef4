"""What a study tells of itself while it runs: one object that it reports to, and who listens.

Reports come from the threads of all devices and change numbers under a lock, no more. A thread of
its own shows them once a second and writes them to `progress.json`, which `status` and the report
read. Nothing here imports JAX.
"""

import collections
import contextlib
import dataclasses
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from jointnas_jax.errors import DamagedError, JointNASError, one_line
from jointnas_jax.files import read_json, write_json
from jointnas_jax.storage.workdir import PROGRESS
from jointnas_jax.telemetry.time_left import Group, Part, Timeline

_SECONDS = 1.0  # between two looks
# Epochs that the speed in images is averaged over.
_RECENT = 64


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A run at one moment; what is not known yet is None.

    Attributes:
      time: seconds since 1970.
      began: when this run did, likewise.
      command: that goes on with it, "" where it is not known.
      folder: to run it in.
      stage: that runs.
      round: of the coarse stage, from 1.
      rounds: of the coarse stage.
      done, planned, failed: trainings, those of earlier runs included.
      stages: stage of trials -> trainings done, planned.
      best: score so far, in the coarse stage.
      kendall, spearman: of the predictor, cross-validated, see `ReportCard`.
      images_per_second: trained on.
      useful: share of the executed FLOPs of the running or last batch that is not padding.
      seconds_left: forecast.
      groups: what trains: name of the pack, trainings, epochs done, epochs.
      stopped: why the run ended before its time.
    """

    time: float
    began: float
    command: str = ""
    folder: str = ""
    stage: str = ""
    round: int | None = None
    rounds: int | None = None
    done: int = 0
    planned: int = 0
    failed: int = 0
    stages: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    best: float | None = None
    kendall: float | None = None
    spearman: float | None = None
    images_per_second: float | None = None
    useful: float | None = None
    seconds_left: float | None = None
    groups: tuple[tuple[str, int, int, int], ...] = ()
    stopped: str | None = None

    @staticmethod
    def read(workdir: Path) -> "Snapshot | None":
        """Reads the last one that was written; None where there is none.

        Raises:
          DamagedError: it is not what was written.
          WorkdirError: another version wrote it.
        """
        if not (file := workdir / PROGRESS).exists():
            return None
        data = read_json(file)
        data.pop("schema")
        try:
            return Snapshot(**data)
        except TypeError as error:
            raise DamagedError(f"`{file}` is damaged: {error}") from error


class Listener:
    """Receiver of reports; every method may do nothing."""

    def start(self, look: Callable[[], Snapshot]) -> None:
        """The run begins; `look` tells where it is at any time, from any thread."""

    def begin(self, workdir: Path) -> None:
        """From now on the workdir may be written."""

    def tick(self, now: Snapshot) -> None:
        """Some time has passed."""

    def milestone(self, now: Snapshot) -> None:
        """A round, or the trainings of another stage, have ended."""

    def scalar(self, name: str, value: float, step: int) -> None:
        """A number was measured."""

    def close(self) -> None:
        """The run has ended."""


class Progress:
    """Where a run is.

    Attributes:
      console: for what is told in words.
      command: that goes on with the run, "" where it is not known.
    """

    def __init__(
        self,
        console: Console | None = None,
        listeners: Sequence[Listener] = (),
        command: str = "",
        clock: Callable[[], float] = time.time,
    ):
        """Begins with nothing known.

        Args:
          console: None: nothing is said.
          listeners: who is told.
          command: see `Snapshot`.
          clock: seconds since 1970.
        """
        self.console, self.command = console or Console(quiet=True), command
        self._listeners, self._clock = listeners, clock
        self._lock = threading.RLock()
        self._now = Snapshot(clock(), clock(), command)
        self._timeline: Timeline | None = None
        self._counts: dict[str, list[int]] = {}
        self._asked = ""
        self._images: collections.deque[tuple[float, int]] = collections.deque(maxlen=_RECENT)
        self._file: Path | None = None
        self._epochs: int | None = None
        self._changed, self._closing = False, threading.Event()

    def say(self, text: str) -> None:
        """Prints a line."""
        self.console.print(f"  {text}", highlight=False, soft_wrap=True)

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Shows what happens inside."""
        for listener in self._listeners:
            listener.start(self.look)
        ticker = threading.Thread(target=self._tick, daemon=True)
        ticker.start()
        try:
            yield
        except BaseException as error:
            self._set(stopped=one_line(error))
            raise
        finally:
            self._closing.set()
            ticker.join()
            self._write()
            for listener in self._listeners:
                listener.close()

    def look(self) -> Snapshot:
        """Tells where the run is."""
        with self._lock:
            now, line = self._clock(), self._timeline
            left = line.seconds_left(now) if line else None
            groups = line.groups if line else ()
            training = [g for g in groups if g.epoch < g.epochs]
            return dataclasses.replace(
                self._now,
                time=now,
                stages={stage: tuple(counts) for stage, counts in self._counts.items()},
                done=sum(done for done, _ in self._counts.values()),
                planned=sum(planned for _, planned in self._counts.values()),
                images_per_second=self._speed(),
                seconds_left=None if left is None else round(left, 1),
                groups=tuple((g.pack, g.trainings, g.epoch, g.epochs) for g in training),
            )

    # -- what the study tells --------------------------------------------------------------------

    def stage(self, name: str) -> None:
        """A stage begins."""
        self._set(stage=name, round=None)

    def begin(
        self,
        workdir: Path,
        plan: Sequence[Part],
        compile_scale: float = 1.0,
        stored: Iterable[Any] = (),
    ) -> None:
        """From now on the workdir holds the run.

        Args:
          workdir: of the run.
          plan: all batches of trainings in order.
          compile_scale: see `Timeline`.
          stored: `Trial`s of an earlier run.
        """
        if stored := list(stored):
            self.say(f"goes on with {len(stored)} stored trials")
        counts = collections.Counter(trial.stage for trial in stored)
        with self._lock:
            self._timeline = Timeline(plan, compile_scale)
            self._timeline.stored(counts)
            self._counts = {part.stage: [counts[part.stage], 0] for part in plan}
            for part in plan:
                self._counts[part.stage][1] += part.trainings
            for trial in stored:
                self._judge(trial)
            self._file = workdir / PROGRESS
            rounds = sum(part.stage == "coarse" for part in plan)
            self._set(folder=os.getcwd(), rounds=rounds or None)
        self._tell(lambda listener: listener.begin(workdir))

    def batch(self, stage: str, number: int | None = None) -> None:
        """The study asks for trainings of a stage, in this round of the coarse one."""
        with self._lock:
            self._asked = stage
            if number is not None:
                self._set(round=number)

    def batch_begins(
        self, trainings: int, compiling: float, training: float, useful: float
    ) -> None:
        """So many of them train, those that were not stored; see `Part` and `Snapshot`."""
        with self._lock:
            stage = self._asked
            self._images.clear()
            self._set(useful=useful)
            self._counts.setdefault(stage, [0, 0])[1] += trainings
            if self._timeline:
                part = Part(stage, trainings, compiling, training)
                for planned in self._timeline.begin(self._clock(), part):
                    self._counts[planned.stage][1] -= planned.trainings

    def group(self, group: Group, images: int) -> Callable[[int], None]:
        """Trainings side by side begin, an epoch of which takes so many images.

        Returns:
          What is to be called with the number of each epoch, from 1, when it has ended.
        """
        with self._lock:
            if self._timeline:
                self._timeline.group(group)

        def epoch(number: int) -> None:
            with self._lock:
                now = self._clock()
                self._images.append((now, images))
                if self._timeline:
                    self._timeline.epoch(now, group, number)
                self._changed = True

        return epoch

    def batch_ends(self) -> None:
        """The batch has ended."""
        with self._lock:
            if self._timeline:
                self._timeline.end(self._clock())
            self._changed = True

    def trained(self, stage: str) -> None:
        """One training has ended."""
        with self._lock:
            self._counts.setdefault(stage, [0, 0])[0] += 1
            if self._timeline:
                self._timeline.trained()
            self._changed = True

    def trial(self, trial: Any) -> None:
        """A `Trial` was stored."""
        with self._lock:
            self.trained(trial.stage)
            self._judge(trial)
            now = self.look()
        curve, name = trial.accuracies, f"{trial.stage}/trial_{trial.number:04}"
        for epoch, accuracy in enumerate(curve, trial.epochs - len(curve) + 1):
            self.scalar(name, accuracy, epoch)
        self.scalar("study/best", now.best, now.done)
        self.scalar("study/images_per_second", now.images_per_second, now.done)

    def shortened(self, epochs: int, of: int) -> None:
        """Later candidates of the coarse stage train fewer epochs, by the early-stop rule."""
        with self._lock:
            self._epochs = epochs
            if self._timeline:
                self._timeline.shorten("coarse", epochs / of)

    def round_ends(self, number: int, best: float | None, card: Any | None) -> None:
        """A round of the coarse stage has ended, with a `ReportCard` if there is one."""
        with self._lock:
            self._set(best=best if best is None else float(best))
            if card:
                self._set(kendall=_number(card.kendall), spearman=_number(card.spearman))
            now = self.look()
        self.scalar("study/kendall", now.kendall, number)
        self.scalar("study/spearman", now.spearman, number)
        self.milestone()

    def milestone(self) -> None:
        """Something has ended that people wait for: a round, or the trainings of another stage."""
        now = self.look()
        self._tell(lambda listener: listener.milestone(now))

    def scalar(self, name: str, value: float | None, step: int) -> None:
        """A number was measured, or could not be."""
        if value is not None and math.isfinite(value):
            self._tell(lambda listener: listener.scalar(name, float(value), step))

    # -- inside ----------------------------------------------------------------------------------

    def _set(self, **changes: Any) -> None:
        with self._lock:
            self._now = dataclasses.replace(self._now, **changes)
            self._changed = True

    def _judge(self, trial: Any) -> None:
        """Takes note of a trial's score, or that it has none."""
        score, best = trial.score, self._now.best
        if score is None:
            self._set(failed=self._now.failed + 1)
        elif trial.stage == "coarse":
            # As the round will count it, see `early_stop`.
            score = trial.accuracies[self._epochs - 1] if self._epochs else score
            self._set(best=score if best is None else max(best, score))

    def _speed(self) -> float | None:
        """Images per second over the latest epochs; None before there are two."""
        if len(self._images) < 2 or self._images[-1][0] <= self._images[0][0]:
            return None
        trained = sum(images for _, images in self._images) - self._images[0][1]
        return round(trained / (self._images[-1][0] - self._images[0][0]), 1)

    def _tell(self, tell: Callable[[Listener], None]) -> None:
        for listener in self._listeners:
            tell(listener)

    def _tick(self) -> None:
        while not self._closing.wait(_SECONDS):
            now = self.look()
            with contextlib.suppress(Exception):  # what is shown must not end what it shows
                self._tell(lambda listener, now=now: listener.tick(now))
            if self._changed:
                self._write()

    def _write(self) -> None:
        if self._file:
            self._changed = False
            # A full disk ends the study where it loses something.
            with contextlib.suppress(JointNASError):
                write_json(self._file, dataclasses.asdict(self.look()), digest=True)


def _number(value: float) -> float | None:
    """JSON knows no nan."""
    return float(value) if math.isfinite(value) else None
