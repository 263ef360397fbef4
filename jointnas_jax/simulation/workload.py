"""What a study does, in trainings and in what the driver does between them."""

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple


class Training(NamedTuple):
    """One training.

    Attributes:
      number: in the workload.
      program: that it trains in; a device compiles each once.
      epoch_seconds: on a device of speed 1.
      epochs: of it.
      compile_seconds: of the program.
      memory: bytes that it needs on a device.
      short: epochs that are enough once the early-stop rule has decided; None: all of them.
      envelope: whether other architectures share its program.
    """

    number: int
    program: str
    epoch_seconds: float
    epochs: int
    compile_seconds: float = 0.0
    memory: int = 0
    short: int | None = None
    envelope: bool = False

    @property
    def seconds(self) -> float:
        """Of training, without compiling."""
        return self.epoch_seconds * self.epochs


class Phase(NamedTuple):
    """Trainings that are there at once; all must end before the next phase.

    Attributes:
      name: of the stage, or the round.
      before: seconds of the driver before it: fits, evolution.
      trainings: of the phase.
      coarse: whether it is a round of the coarse stage.
    """

    name: str
    before: float
    trainings: tuple[Training, ...]
    coarse: bool = False


@dataclasses.dataclass(frozen=True)
class Workload:
    """A study.

    Attributes:
      name: of it.
      source: where its times are from, in words.
      phases: in order.
      one_host: trainings of an envelope wait for each other, one on each device, as in the program
        of one host; else a device takes the next one when it is free, as on a fleet.
    """

    name: str
    source: str
    phases: tuple[Phase, ...]
    one_host: bool = False

    @property
    def trainings(self) -> list[Training]:
        """Of all phases."""
        return [training for phase in self.phases for training in phase.trainings]

    @property
    def device_seconds(self) -> float:
        """Training and compiling, on one device of speed 1."""
        compiling = {t.program: t.compile_seconds for t in self.trainings}
        return math.fsum([*(t.seconds for t in self.trainings), *compiling.values()])

    def fitting(self, memory: float) -> "Workload":
        """What is left of it on workers of so many bytes: other candidates fail, at no cost."""
        fits = lambda phase: tuple(t for t in phase.trainings if t.memory <= memory)
        phases = tuple(phase._replace(trainings=fits(phase)) for phase in self.phases)
        return dataclasses.replace(self, phases=phases)

    def laid_out(self, workers: int) -> tuple[Phase, ...]:
        """The phases as so many workers go through them; as `LocalExecutor` does."""
        return tuple(part for phase in self.phases for part in self._parts(phase, workers))

    def _parts(self, phase: Phase, workers: int) -> Iterator[Phase]:
        """A phase in parts that wait for each other."""
        by_program: dict[str, list[Training]] = {}
        for training in sorted(phase.trainings, key=lambda t: -t.seconds):
            by_program.setdefault(training.program, []).append(training)
        exact = [own for own in by_program.values() if not own[0].envelope]
        groups: list[list[Training]] = []
        if self.one_host:
            groups = [own for own in by_program.values() if own[0].envelope]
            if len(exact) < workers:
                groups, exact = groups + exact, []
        else:
            exact = [*by_program.values()]
        parts = [own[i : i + workers] for own in groups for i in range(0, len(own), workers)]
        parts += [[*itertools.chain(*exact)]] if exact or not parts else []
        for i, part in enumerate(parts):
            yield phase._replace(before=0.0 if i else phase.before, trainings=tuple(part))
