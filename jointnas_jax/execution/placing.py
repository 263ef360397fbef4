"""Where packs train: in how many lanes, on which devices, and by which of several workers."""

import dataclasses
import enum
from collections.abc import Sequence

import numpy as np

from jointnas_jax.config import Config
from jointnas_jax.execution.hardware import Hardware, machine_on, planner_for, shares_batches_on
from jointnas_jax.execution.lanes import LaneCounts, lanes_that_fit
from jointnas_jax.execution.packing import Pack, Shape, Work
from jointnas_jax.nets.envelope import Envelope
from jointnas_jax.space import ArchSpec, JointSpace


class Way(enum.Enum):
    """How the trainings of a pack lie on devices.

    `ALL`: side by side on all of them; `ONE`: on one, while other packs have the others;
    `TOGETHER`: one after the other, each on all devices of a worker.
    """

    ALL, ONE, TOGETHER = "all", "one", "together"


@dataclasses.dataclass(frozen=True)
class Placed:
    """A pack with its place.

    Attributes:
      shape: of the program.
      members: positions of the trainings in what was placed.
      lanes: of the program, on each device.
      way: how they lie on devices.
    """

    shape: Shape
    members: tuple[int, ...]
    lanes: int
    way: Way


class Placing:
    """Plans trainings for hardware, and divides them among its workers.

    What comes out depends on what went in before, and on nothing else: whoever places the same
    trainings on the same hardware gets the same.

    Attributes:
      hardware: planned for.
      planner: of the packs.
    """

    def __init__(
        self,
        config: Config,
        space: JointSpace,
        hardware: Hardware,
        sample: Sequence[ArchSpec] = (),
    ):
        """Has placed nothing yet.

        Args:
          config: of the study.
          space: of all candidates.
          hardware: to plan for.
          sample: architectures like them, for the planner.
        """
        self.hardware, self._train = hardware, config.train
        machine = machine_on(config, hardware)
        self.planner = planner_for(config, space, machine, hardware, sample)
        self._lanes = LaneCounts(self._most_lanes)

    def place(self, works: Sequence[Work], later: int = 0) -> list[Placed]:
        """Places trainings.

        Args:
          works: the trainings.
          later: how many trainings like these will follow.
        """
        hardware = self.hardware
        jobs = len(works)
        if shares_batches_on(self._train, hardware.platform, hardware.devices, jobs):
            return [Placed(work.arch, (i,), 1, Way.TOGETHER) for i, work in enumerate(works)]
        packs = self.planner.plan(works, later)
        exact = sum(not isinstance(pack.shape, Envelope) for pack in packs)
        # Few architectures: the trainings of one share its program, on all devices.
        few = exact < hardware.all_devices
        return [
            self._placed(works, pack, few or isinstance(pack.shape, Envelope)) for pack in packs
        ]

    def _placed(self, works: Sequence[Work], pack: Pack, on_all: bool) -> Placed:
        devices = self.hardware.all_devices if on_all else 1
        longest = max(map(len, self.kinds(pack.members, works)))
        lanes = self._lanes.of(pack.shape, -(-longest // devices))
        return Placed(pack.shape, pack.members, lanes, Way.ALL if on_all else Way.ONE)

    def limit(self, shape: Shape, lanes: int) -> None:
        """Remembers that more lanes than these did not fit."""
        self._lanes.limit(shape, lanes)

    @staticmethod
    def kinds(members: Sequence[int], works: Sequence[Work]) -> list[list[int]]:
        """Positions of trainings that can train side by side."""
        kinds: dict = {}
        for index in members:
            kinds.setdefault(works[index].kind, []).append(index)
        return [*kinds.values()]

    def in_order(self, pack: Placed, works: Sequence[Work]) -> list[list[int]]:
        """The members of each kind. Lanes wait for each other: neighbours take about as long."""
        cost = lambda i: self.planner.macs(pack.shape, works[i].arch)
        return [sorted(k, key=lambda i: (-cost(i), i)) for k in self.kinds(pack.members, works)]

    def units(self, packs: Sequence[Placed], works: Sequence[Work]) -> list[list[Placed]]:
        """Divides packs into the parts that one worker trains at a time, in good order."""
        size = self.hardware.devices
        exact = [pack for pack in packs if pack.way is Way.ONE]
        exact.sort(key=lambda pack: -self._cost(pack, works))
        units = [exact[i : i + size] for i in range(0, len(exact), size)]
        for pack in packs:
            if pack.way is Way.ONE:
                continue
            step = 1 if pack.way is Way.TOGETHER else pack.lanes * size
            for kind in self.in_order(pack, works):
                cuts = [tuple(kind[i : i + step]) for i in range(0, len(kind), step)]
                units += [[dataclasses.replace(pack, members=cut)] for cut in cuts]
        return units

    def share(self, packs: Sequence[Placed], works: Sequence[Work], worker: int) -> list[Placed]:
        """What one of the workers trains; every training is in the share of exactly one."""
        workers = self.hardware.workers
        loads = np.zeros(workers)
        whole = [pack for pack in packs if pack.way is not Way.ALL]
        owner = {}
        for pack in sorted(whole, key=lambda p: (-self._cost(p, works), p.members)):
            owner[pack.members] = int(loads.argmin())
            loads[owner[pack.members]] += self._cost(pack, works)
        shares, dealt = [], 0
        for pack in packs:
            if pack.way is Way.ALL:
                order = [i for kind in self.in_order(pack, works) for i in kind]
                members = tuple(i for n, i in enumerate(order) if (dealt + n) % workers == worker)
                dealt += len(order)
            else:
                members = pack.members if owner[pack.members] == worker else ()
            if members:
                shares.append(dataclasses.replace(pack, members=members))
        return shares

    def _cost(self, pack: Placed, works: Sequence[Work]) -> int:
        own = (works[i] for i in pack.members)
        return sum(self.planner.macs(pack.shape, work.arch) * work.steps for work in own)

    def _most_lanes(self, shape: Shape) -> int:
        """Lanes of a shape on one device, at most."""
        hardware, train = self.hardware, self._train
        if train.lanes:
            return train.lanes
        value = np.dtype(hardware.dtype).itemsize
        return lanes_that_fit(hardware, shape, train.batch_size, value, hardware.taken)
