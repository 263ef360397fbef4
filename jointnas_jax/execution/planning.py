"""Plans the jobs of a study for its devices, wherever they are."""

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

import jax
import numpy as np

from jointnas_jax.config import Config
from jointnas_jax.execution.cost_model import measured_speed_factors
from jointnas_jax.execution.hardware import Hardware, training_devices
from jointnas_jax.execution.job import Job, Packing, RunContext
from jointnas_jax.execution.packing import Work
from jointnas_jax.execution.placing import Placed, Placing
from jointnas_jax.runtime.cache import cache_dir
from jointnas_jax.space import ArchSpec, JointSpace


@dataclasses.dataclass(frozen=True)
class Unit:
    """What one worker trains at a time; can be sent to another process.

    Attributes:
      positions: of its jobs in the call.
      jobs: their candidates, epochs, kinds and data of their keys.
      packs: of the jobs, whose members are places in `jobs`.
      known: places of jobs that do not train.
    """

    positions: tuple[int, ...]
    jobs: tuple[Job, ...]
    packs: tuple[Placed, ...]
    known: frozenset[int]

    @property
    def wanted(self) -> list[int]:
        """Positions of the jobs that train."""
        return [p for place, p in enumerate(self.positions) if place not in self.known]

    def jobs_here(self) -> list[Job]:
        """The jobs, with keys of this process."""
        return [dataclasses.replace(j, key=jax.random.wrap_key_data(j.key)) for j in self.jobs]


class Planning:
    """Plans calls one after the other.

    Attributes:
      placing: of the packs.
      packings: of all calls so far.
    """

    def __init__(
        self,
        config: Config,
        space: JointSpace,
        hardware: Hardware,
        steps: dict[bool, int],
        sample: Sequence[ArchSpec] = (),
    ):
        """Has planned nothing yet.

        Args:
          config: of the study.
          space: of all candidates.
          hardware: to plan for.
          steps: of an epoch, of a search training (False) and of a final one (True).
          sample: architectures like those of the space, for the planner.
        """
        self.placing = Placing(config, space, hardware, sample)
        self.packings: list[Packing] = []
        self._steps = steps

    def works(self, jobs: Sequence[Job]) -> list[Work]:
        """Jobs as the planner sees them."""
        return [
            Work(
                job.candidate.arch,
                job.epochs * self._steps[job.on_full_split],
                (job.epochs, job.on_full_split),
            )
            for job in jobs
        ]

    def place(self, jobs: Sequence[Job], later: int = 0) -> list[Placed]:
        """Plans jobs; `later` as in `Executor.completed`."""
        works = self.works(jobs)
        packs = self.placing.place(works, later)
        efficiency = self.placing.planner.efficiency(works, packs)
        self.packings.append(Packing.of(packs, efficiency))
        return packs

    def units(self, jobs: Sequence[Job], later: int, known: Collection[int]) -> list[Unit]:
        """Plans jobs for workers that take one unit after the other."""
        packs = self.place(jobs, later)
        return [_unit(unit, jobs, known) for unit in self.placing.units(packs, self.works(jobs))]


def devices_here(config: Config) -> int:
    """How many devices of this process train."""
    return len(training_devices(config))


def speed_factors_here(config: Config, keeping: RunContext) -> tuple[float, float]:
    """Speed factors of the planner: those that the study began with, or measured here."""
    return keeping.speed_factors or measured_speed_factors(training_devices(config)[0], cache_dir())


def _unit(packs: Sequence[Placed], jobs: Sequence[Job], known: Collection[int]) -> Unit:
    positions = tuple(i for pack in packs for i in pack.members)
    place = {position: n for n, position in enumerate(positions)}
    plain: Any = lambda job: dataclasses.replace(
        job, key=np.asarray(jax.random.key_data(job.key)), progress=None
    )
    return Unit(
        positions,
        tuple(plain(jobs[i]) for i in positions),
        tuple(
            dataclasses.replace(pack, members=tuple(place[i] for i in pack.members))
            for pack in packs
        ),
        frozenset(place[i] for i in positions if i in known),
    )
