"""What a study does, in trainings and in what the driver does between them."""

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple


class Training(NamedTuple):
    """One training."""

    number: int  # in the workload
    program: str  # a device compiles each once
    epoch_seconds: float  # on a device of speed 1
    epochs: int
    compile_seconds: float = 0.0  # of the program
    memory: int = 0  # bytes on a device
    short: int | None = None  # epochs once the early-stop rule has decided; None: all of them
    envelope: bool = False  # whether other architectures share its program

    @property
    def seconds(self) -> float:
        """Time of training, without compiling."""
        return self.epoch_seconds * self.epochs


class Phase(NamedTuple):
    """Trainings that may start at once; all must end before the next phase."""

    name: str  # of the stage or the round
    before: float  # seconds of the driver before it: fits, evolution
    trainings: tuple[Training, ...]
    coarse: bool = False  # whether it is a round of the coarse stage


@dataclasses.dataclass(frozen=True)
class Workload:
    """A study."""

    name: str
    source: str  # where its times are from, in words
    phases: tuple[Phase, ...]  # in order
    # Trainings of an envelope wait for each other, one on each device, as in the program of one
    # host; else a device takes the next one when it is free, as on a fleet.
    one_host: bool = False

    @property
    def trainings(self) -> list[Training]:
        """Trainings of all phases."""
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
        waiting: list[list[Training]] = []
        exact = [*by_program.values()]
        if self.one_host:
            waiting = [same for same in exact if same[0].envelope]
            exact = [same for same in exact if not same[0].envelope]
            if len(exact) < workers:
                waiting, exact = waiting + exact, []
        parts = [same[i : i + workers] for same in waiting for i in range(0, len(same), workers)]
        parts += [[*itertools.chain(*exact)]] if exact or not parts else []
        for i, part in enumerate(parts):
            yield phase._replace(before=0.0 if i else phase.before, trainings=tuple(part))
