"""Trains on the devices of several processes, each of which runs the same study.

All plan the same, as one process with all devices would, and each trains its share. Outcomes go to
all, and weights to process 0, which stores both.
"""

import dataclasses
import hashlib
import json
import queue
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from flax.serialization import msgpack_restore, msgpack_serialize

from jointnas_jax.config import Config
from jointnas_jax.data.source import Images
from jointnas_jax.errors import StudyError
from jointnas_jax.space import ArchSpec, JointSpace
from jointnas_jax.study.evaluator import Evaluator
from jointnas_jax.study.jobs import Call, Job, Keeping, Outcome
from jointnas_jax.study.peers import Connected
from jointnas_jax.study.planning import Planning, scales_here
from jointnas_jax.study.progress import Progress

# Seconds between two looks at what the others have trained.
_LOOK = 0.2


class Pod:
    """The executor of one of several processes; see `Executor`. All make the same calls."""

    def __init__(
        self,
        config: Config,
        space: JointSpace,
        images: tuple[Images, np.ndarray, Images],
        sample: Sequence[ArchSpec],
        keeping: Keeping,
        peers: Connected,
    ):
        """Puts the images on the devices of this process; arguments as of `Evaluator`.

        Raises:
          ConfigError: the processes differ in their devices or images, or cannot train as they are
            told to.
        """
        self._peers, self._keeping, self._calls = peers, keeping, 0
        self.scales = tuple(peers.share("scales", peers.first and scales_here(config, keeping)))
        # What trains here is a part: this class tells of the whole.
        own = dataclasses.replace(keeping, progress=Progress(), scales=self.scales)
        self._evaluator = Evaluator(config, space, *images, (), own)
        described = self._evaluator.describe()
        self.pixels = described["pixels"]
        kind = {name: described["machine"][name] for name in ("device", "devices")}
        peers.agree("machine", kind)
        peers.agree("data", {"images": [len(images[0]), len(images[2])], "pixels": self.pixels})
        hardware = dataclasses.replace(described["hardware"], workers=peers.processes)
        # Memory may differ a little.
        memory = {name: getattr(hardware, name) for name in ("memory", "taken")}
        hardware = dataclasses.replace(hardware, **peers.share("memory", memory))
        self.machine = described["machine"] | {"devices": hardware.all_devices}
        self._planning = Planning(config, space, hardware, described["steps"], sample)
        self.packings = self._planning.packings

    def completed(
        self, jobs: Sequence[Job], later: int = 0, known: Collection[int] = ()
    ) -> Iterator[tuple[int, Outcome]]:
        """See `Executor`; known are those of process 0.

        It alone gets weights of others, where they are kept.
        """
        self._calls += 1
        name = f"call{self._calls}"
        missing = set(range(len(jobs))) - self._agreed(name, jobs, known)
        packs = self._planning.place(jobs, later)
        works = self._planning.works(jobs)
        share = self._planning.placing.share(packs, works, self._peers.process)
        own = set().union(*(pack.members for pack in share))
        call = self._evaluator.begin(share, jobs, set(range(len(jobs))) - missing)
        progress = self._keeping.progress
        progress.batch_begins(len(missing), 0.0, 0.0, self.packings[-1].efficiency)
        try:
            while missing:
                if not missing & own:  # else it is said in `call`, once what trains is saved
                    self._keeping.interrupt.check()
                yield from self._own(name, call, missing)
                yield from self._others(name, missing)
        finally:
            call.stop.set()
            progress.batch_ends()

    def _agreed(self, name: str, jobs: Sequence[Job], known: Collection[int]) -> set[int]:
        """What process 0 knows of the jobs, which are those of all; raises `StudyError`."""
        mine = {"jobs": _digest(jobs), "known": sorted(known)}
        first = self._peers.share(name, mine)
        if first["jobs"] != mine["jobs"]:
            raise StudyError(
                f"process {self._peers.process} wants to train other candidates than process 0: "
                "their devices or versions round differently"
            )
        return set(first["known"])

    def _own(self, name: str, call: Call, missing: set[int]) -> Iterator[tuple[int, Outcome]]:
        """What this process has trained, if it comes soon; the others are given it."""
        try:
            done = call.done.get(timeout=_LOOK)
        except queue.Empty:
            return
        if isinstance(done, BaseException):
            raise done
        position, outcome = done
        told = {f: getattr(outcome, f) for f in ("accuracies", "reason", "seconds", "pack")}
        # Those of most trainings nobody wants.
        told["weights"] = outcome.variables is not None and call.jobs[position].kept
        if told["weights"] and not self._peers.first:
            self._peers.put(f"{name}/weights/{position}", msgpack_serialize(outcome.variables))
        self._peers.put(f"{name}/done/{position}", json.dumps(told).encode())
        missing.discard(position)
        yield done

    def _others(self, name: str, missing: set[int]) -> Iterator[tuple[int, Outcome]]:
        """What other processes have trained since the last look."""
        there = {int(position) for position in self._peers.names(f"{name}/done")}
        for position in sorted(there & missing):
            told: dict[str, Any] = json.loads(self._peers.get(f"{name}/done/{position}"))
            accuracies, variables = tuple(told.pop("accuracies")), None
            if told.pop("weights") and self._peers.first:
                variables = msgpack_restore(self._peers.get(f"{name}/weights/{position}"))
                self._peers.forget(f"{name}/weights/{position}")
            missing.discard(position)
            yield position, Outcome(accuracies, variables=variables, **told)

    def close(self) -> None:
        """Nothing of it runs elsewhere: every process ends its own."""


def _digest(jobs: Sequence[Job]) -> str:
    what = [
        (job.candidate, np.asarray(jax.random.key_data(job.key)).tolist(), job.epochs, job.final)
        for job in jobs
    ]
    return hashlib.sha256(repr(what).encode()).hexdigest()
