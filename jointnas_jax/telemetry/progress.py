"""Where a run is: one object that it reports to, and listeners that show it.

Reports come from the threads of all devices and change numbers under a lock, no more. A separate
thread shows them once a second and writes them to `progress.json`, which `status` and the report
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
from jointnas_jax.telemetry.time_left import Lanes, Part, Timeline

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
      round: round of the coarse stage, from 1.
      rounds: rounds of the coarse stage.
      done, planned, failed: trainings, those of earlier runs included.
      stages: stage of trials -> trainings done, planned.
      best: accuracy of the candidate with the best score so far, in the coarse stage.
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
      console: for lines of text.
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
          console: None: nothing is printed.
          listeners: that show the run.
          command: see `Snapshot`.
          clock: seconds since 1970.
        """
        self.console = console or Console(quiet=True)
        self.command = command
        self._listeners = [*listeners]
        self._clock = clock
        self._lock = threading.RLock()
        self._now = Snapshot(clock(), clock(), command)
        self._timeline = Timeline()
        self._counts: dict[str, list[int]] = {}  # stage -> trainings done, planned
        self._stage = ""  # of trials
        self._images: collections.deque[tuple[float, int]] = collections.deque(maxlen=_RECENT)
        self._file: Path | None = None
        self._epochs: int | None = None
        self._best: tuple[float, float] | None = None
        self._changed = False
        self._closing = threading.Event()

    def say(self, text: str) -> None:
        """Prints a line."""
        self.console.print(f"  {text}", highlight=False, soft_wrap=True)

    def listen(self, listener: Listener) -> None:
        """Adds a listener, before the run is shown."""
        self._listeners.append(listener)

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
        """Returns where the run is."""
        with self._lock:
            now, counts = self._clock(), self._counts
            training = [lanes for lanes in self._timeline.lanes if lanes.epoch < lanes.epochs]
            return dataclasses.replace(
                self._now,
                time=now,
                stages={stage: (done, planned) for stage, (done, planned) in counts.items()},
                done=sum(done for done, _ in counts.values()),
                planned=sum(planned for _, planned in counts.values()),
                images_per_second=self._speed(),
                seconds_left=round(self._timeline.seconds_left(now), 1) if self._file else None,
                groups=tuple((a.pack, a.trainings, a.epoch, a.epochs) for a in training),
            )

    # -- reports of the study --------------------------------------------------------------------

    def stage(self, name: str) -> None:
        """A stage begins."""
        self._set(stage=name, round=None)

    def begin(
        self,
        workdir: Path,
        parts: Sequence[Part],
        compile_scale: float = 1.0,
        stored: Iterable[Any] = (),
    ) -> None:
        """From now on the workdir holds the run.

        Args:
          workdir: workdir of the run.
          parts: all batches of trainings in order.
          compile_scale: see `Timeline`.
          stored: `Trial`s of an earlier run.
        """
        if stored := list(stored):
            self.say(f"goes on with {len(stored)} stored trials")
        counts = collections.Counter(trial.stage for trial in stored)
        with self._lock:
            self._timeline = Timeline(parts, compile_scale)
            self._timeline.stored(counts)
            self._counts = {part.stage: [counts[part.stage], 0] for part in parts}
            for part in parts:
                self._counts[part.stage][1] += part.trainings
            for trial in stored:
                self._judge(trial)
            self._file = workdir / PROGRESS
            rounds = sum(part.stage == "coarse" for part in parts)
            self._set(folder=os.getcwd(), rounds=rounds or None)
        for listener in self._listeners:
            listener.begin(workdir)

    def batch(self, stage: str, number: int | None = None) -> None:
        """The next batch is of a stage, and of this round of the coarse one."""
        with self._lock:
            self._stage = stage
            if number is not None:
                self._set(round=number)

    def batch_begins(
        self, trainings: int, compiling: float, training: float, useful: float
    ) -> None:
        """A batch begins, of which so many train; see `Part` and `Snapshot`."""
        with self._lock:
            self._images.clear()
            self._set(useful=useful)
            self._counts.setdefault(self._stage, [0, 0])[1] += trainings
            part = Part(self._stage, trainings, compiling, training)
            for replaced in self._timeline.begin(self._clock(), part):
                self._counts[replaced.stage][1] -= replaced.trainings

    def lanes_begin(self, lanes: Lanes, images: int) -> Callable[[int], None]:
        """Trainings side by side begin, an epoch of which takes so many images.

        Returns:
          A function to call with the number of each epoch, from 1, when it has ended.
        """
        with self._lock:
            self._timeline.lanes.append(lanes)

        def epoch(number: int) -> None:
            with self._lock:
                now = self._clock()
                self._images.append((now, images))
                self._timeline.epoch(now, lanes, number)
                self._changed = True

        return epoch

    def batch_ends(self) -> None:
        """The batch has ended."""
        with self._lock:
            self._timeline.end(self._clock())
            self._changed = True

    def trained(self, stage: str) -> None:
        """One training has ended."""
        with self._lock:
            self._counts.setdefault(stage, [0, 0])[0] += 1
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
            self._timeline.shorten("coarse", epochs / of)

    def round_ends(self, number: int, best: tuple[float, float] | None, card: Any | None) -> None:
        """A round of the coarse stage has ended.

        Args:
          number: from 1.
          best: score and accuracy of the best candidate so far; None: there is none.
          card: a `ReportCard`, if there is one.
        """
        with self._lock:
            self._best = best
            self._set(best=best and best[1])
        for name in ("kendall", "spearman") if card else ():
            value = float(getattr(card, name))
            self._set(**{name: value if math.isfinite(value) else None})  # JSON knows no nan
            self.scalar(f"study/{name}", value, number)
        self.milestone()

    def milestone(self) -> None:
        """Something has ended that people wait for: a round, or the trainings of another stage."""
        now = self.look()
        for listener in self._listeners:
            listener.milestone(now)

    def scalar(self, name: str, value: float | None, step: int) -> None:
        """A number was measured, or could not be."""
        if value is not None and math.isfinite(value):
            for listener in self._listeners:
                listener.scalar(name, float(value), step)

    # -- inside ----------------------------------------------------------------------------------

    def _set(self, **changes: Any) -> None:
        with self._lock:
            self._now = dataclasses.replace(self._now, **changes)
            self._changed = True

    def _judge(self, trial: Any) -> None:
        """Takes note of a trial's score, or that it has none."""
        if trial.score is None:
            self._set(failed=self._now.failed + 1)
        elif trial.stage == "coarse":
            # As the round will count it, see `early_stop`.
            last = self._epochs - 1 if self._epochs else -1
            score, accuracy = trial.score_curve[last], trial.accuracies[last]
            if self._best is None or score > self._best[0]:
                self._best = score, accuracy
                self._set(best=accuracy)

    def _speed(self) -> float | None:
        """Images per second over the latest epochs; None before there are two."""
        if len(self._images) < 2 or self._images[-1][0] <= self._images[0][0]:
            return None
        trained = sum(images for _, images in self._images) - self._images[0][1]
        return round(trained / (self._images[-1][0] - self._images[0][0]), 1)

    def _tick(self) -> None:
        while not self._closing.wait(_SECONDS):
            now = self.look()
            with contextlib.suppress(Exception):  # what is shown must not end what it shows
                for listener in self._listeners:
                    listener.tick(now)
            if self._changed:
                self._write()

    def _write(self) -> None:
        if self._file:
            self._changed = False
            # A full disk ends the study where it loses something.
            with contextlib.suppress(JointNASError):
                write_json(self._file, dataclasses.asdict(self.look()), digest=True)
