"""Trains on the devices of several processes, one on each host, which all run the same program.

Candidates are shared out by process, each of which trains on its devices, and results are gathered
at the end of a batch. One network alone trains on the devices of all processes together.
"""

import contextlib
import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from flax.serialization import msgpack_restore, msgpack_serialize

from jointnas_jax.config import Config
from jointnas_jax.data.augment import Augmentation
from jointnas_jax.data.source import Images, SplitOnDisk
from jointnas_jax.errors import ConfigError, InterruptedStudyError, JointNASError, StudyError
from jointnas_jax.execution.hardware import all_devices
from jointnas_jax.execution.job import Job, RunContext, TrainResult, pack_name, reason_of
from jointnas_jax.execution.lane_batches import Place, state_folder
from jointnas_jax.execution.local import Evaluator
from jointnas_jax.execution.planning import Planning, speed_factors_here
from jointnas_jax.models.teacher import load_teacher
from jointnas_jax.runtime.distributed import (
    PeerError,
    SyncPoint,
    gather,
    is_first,
    share,
    share_bytes,
)
from jointnas_jax.space import ArchSpec, JointSpace
from jointnas_jax.storage.provenance import machine_here
from jointnas_jax.storage.workdir import differences, plain_config
from jointnas_jax.telemetry.progress import Progress
from jointnas_jax.telemetry.time_left import Group
from jointnas_jax.train.checkpoints import Checkpoints
from jointnas_jax.train.feed import feeds
from jointnas_jax.train.parallel import replicate
from jointnas_jax.train.program import TrainProgram

# Seconds of a step of the processes' common clock, see `SyncPoint`.
_STEP = 0.5


class MultihostExecutor:
    """The executor of each of several processes; see `Executor`. All make the same calls."""

    def __init__(
        self,
        config: Config,
        space: JointSpace,
        images: tuple[Images, np.ndarray, Images],
        sample: Sequence[ArchSpec],
        context: RunContext,
    ):
        """Puts the images on the devices of this process; arguments as of `Evaluator`.

        Raises:
          ConfigError: the processes differ in their config, devices, images or JAX, or cannot train
            as they are asked to.
        """
        self._context = context
        self.speed_factors = tuple(share(is_first() and speed_factors_here(config, context)))
        # What trains here is a part of the batch: this class reports the whole.
        here = dataclasses.replace(context, progress=Progress(), speed_factors=self.speed_factors)
        self._local = Evaluator(config, space, *images, (), here)
        described = self._local.describe()
        self.pixels = described["pixels"]
        check_alike(config, described["machine"], [len(images[0]), len(images[2]), self.pixels])
        # Memory may differ a little.
        memory = share([described["hardware"].memory, described["hardware"].taken])
        hardware = dataclasses.replace(
            described["hardware"], workers=jax.process_count(), memory=memory[0], taken=memory[1]
        )
        self.machine = described["machine"] | {"devices": hardware.all_devices}
        self._planning = Planning(config, space, hardware, described["steps"], sample)
        self.packings = self._planning.packings
        context.interrupt.synced = SyncPoint(_STEP)

    def completed(
        self, jobs: Sequence[Job], later: int = 0, known: Collection[int] = ()
    ) -> Iterator[tuple[int, TrainResult]]:
        """See `Executor`; known positions are those of process 0, which alone gets all weights."""
        known = self._agreed(jobs, known)
        packs = self._planning.place(jobs, later)
        works = self._planning.works(jobs)
        mine = self._planning.placing.share(packs, works, jax.process_index())
        progress, interrupt = self._context.progress, self._context.interrupt
        progress.batch_begins(len(jobs) - len(known), 0.0, 0.0, self.packings[-1].efficiency)
        done: dict[int, TrainResult] = {}
        ended: JointNASError | None = None
        try:
            with contextlib.closing(self._local.train(mine, jobs, known)) as trained:
                for position, result in trained:
                    done[position] = result
                    yield position, result
        except JointNASError as error:  # not before the others have what was trained
            ended = error
        finally:
            progress.batch_ends()
            if interrupt.worker:  # messages wait for the devices
                interrupt.worker.join()
        others, interrupted = self._gathered(jobs, done, isinstance(ended, InterruptedStudyError))
        yield from others
        if ended is not None:
            raise ended
        if interrupted:
            raise InterruptedStudyError

    def _agreed(self, jobs: Sequence[Job], known: Collection[int]) -> frozenset[int]:
        """The known positions of process 0; raises `StudyError` where its jobs are others."""
        digest = _digest(jobs)
        first = share([sorted(known), digest])
        if first[1] != digest:
            raise StudyError(
                f"process {jax.process_index()} wants to train other candidates than process 0: "
                "their devices or versions round differently"
            )
        return frozenset(first[0])

    def _gathered(
        self, jobs: Sequence[Job], done: dict[int, TrainResult], interrupted: bool
    ) -> tuple[list[tuple[int, TrainResult]], bool]:
        """What the other processes have trained, and whether one of them was interrupted."""
        weights = {
            position: msgpack_serialize(result.variables)
            for position, result in done.items()
            if jobs[position].kept and result.variables is not None
        }
        results = {
            position: dataclasses.asdict(dataclasses.replace(result, variables=None))
            for position, result in done.items()
        }
        lengths = {position: len(data) for position, data in weights.items()}
        messages = gather([results, lengths, interrupted])
        others = []
        for process, (results, lengths, _) in enumerate(messages):
            for key, fields in results.items():
                position = int(key)
                if key in lengths and process:  # process 0 has its own
                    mine = weights.get(position, b"")
                    data = share_bytes(mine, length=lengths[key], source=process)
                    fields["variables"] = msgpack_restore(data) if is_first() else None
                if process != jax.process_index():
                    fields["accuracies"] = tuple(fields["accuracies"])
                    others.append((position, TrainResult(**fields)))
        return others, any(flag for *_, flag in messages)

    def close(self) -> None:
        """Nothing of it runs elsewhere: every process ends its own."""


def check_alike(config: Config, machine: dict[str, Any], images: Any) -> None:
    """Checks that all processes run the same on the same; raises `ConfigError`.

    Args:
      config: of the run.
      machine: see `machine_here`.
      images: what tells them from others, such as JSON can hold.
    """
    # What else a machine has differs between processes of one host, too.
    machine = {name: machine[name] for name in ("device", "devices", "jax", "jaxlib")}
    here = {"config": plain_config(config), "machine": machine, "images": images}
    first, *others = gather(json.loads(json.dumps(here)))
    for process, other in enumerate(others, 1):
        places = ("in process 0", f"in process {process}")
        for name, value in first.items():
            if differ := differences(value, other[name], name, places):
                raise ConfigError(
                    f"all processes must have the same {name}, but {differ}; start the same "
                    "command on every host"
                )


def _digest(jobs: Sequence[Job]) -> str:
    what = [
        (
            job.candidate,
            np.asarray(jax.random.key_data(job.key)).tolist(),
            job.epochs,
            job.on_full_split,
        )
        for job in jobs
    ]
    return hashlib.sha256(repr(what).encode()).hexdigest()


class GlobalTraining:
    """Trains one network on the devices of all processes: each has a part of every batch.

    Attributes:
      pixels: `mean` and `std` per channel of the training split.
    """

    def __init__(
        self,
        config: Config,
        space: JointSpace,
        images: tuple[Images, Images],
        context: RunContext,
    ):
        """Puts the images on the devices of this process.

        Args:
          config: of the training.
          space: of the candidate.
          images: training and test split.
          context: of the run; the state is kept by process 0.

        Raises:
          ConfigError: the processes differ, or their devices cannot share a batch.
          ModelError: the teacher cannot be loaded, or does not know these images and classes.
        """
        self._config, self._context = config, context
        self._devices = all_devices(config)
        batch, count = config.train.batch_size, len(self._devices)
        if config.train.data_parallel == "never" or batch % count:
            raise ConfigError(
                f"`config.train.batch_size` must be a multiple of the {count} devices of all "
                "processes, and `config.train.data_parallel` not be `never`, to train one network "
                f"on a pod, got {batch} and `{config.train.data_parallel}`"
            )
        train, test = images
        self._streamed = isinstance(train, SplitOnDisk)
        self._steps = len(train) // batch
        nothing = np.zeros(len(train), bool)
        self._data, self._evaluation = feeds(train, nothing, test, self._devices)[True]
        stats = jax.device_get(self._data.stats)
        self.pixels = {"mean": stats.mean.tolist(), "std": stats.std.tolist()}
        self._teacher = replicate(load_teacher(config, space), self._devices)
        machine = machine_here(count)
        check_alike(config, machine, [len(train), len(test), self.pixels])

    def run(self, jobs: Sequence[Job]) -> list[TrainResult]:
        """Trains jobs on the full split, one after the other.

        Raises:
          PeerError: the training cannot go on here, which the other processes may not know.
          InterruptedStudyError: a signal ended one of the processes.
        """
        try:
            return [self._train(job) for job in jobs]
        except InterruptedStudyError:
            raise
        except Exception as error:
            code = getattr(error, "exit_code", StudyError.exit_code)
            raise PeerError(f"the training failed: {reason_of(error)}", code) from error

    def _train(self, job: Job) -> TrainResult:
        arch, study, progress = job.candidate.arch, self._config.study, self._context.progress
        data = self._config.data
        program = TrainProgram(
            arch,
            self._config.train,
            Augmentation(
                data.crop_padding, data.flip, data.min_area, data.transforms, data.strength
            ),
            self._devices,
            streamed=self._streamed,
            together=True,
            teacher=self._teacher,
        )
        place = Place(arch, lanes=1, device=None, together=True, devices=len(self._devices))
        folder = state_folder(self._context.folder, place, [job]) if is_first() else None
        seconds = 60 * study.checkpoint_minutes
        checkpoints = Checkpoints(folder, seconds, progress.say) if folder else None
        progress.batch_begins(1, 0.0, 0.0, 1.0)
        (training,) = program.train(
            [job.candidate],
            [job.key],
            self._data,
            self._evaluation,
            job.epochs,
            every_epoch=False,
            checkpoints=checkpoints,
            stop=SyncPoint(0),
            progress=self._progress(job),
        )
        progress.batch_ends()
        return TrainResult(training.accuracies, training.reason, training.variables)

    def _progress(self, job: Job) -> Callable[[int, float], None]:
        """What is called after each epoch, see `config.study.trial_minutes`."""
        images = self._steps * self._config.train.batch_size
        group = Group(pack_name(job.candidate.arch), 1, job.epochs, None)
        tell, minutes = (
            self._context.progress.group(group, images),
            self._config.study.trial_minutes,
        )
        start = 0.0

        def progress(epoch: int, loss: float) -> None:
            nonlocal start
            tell(epoch)
            if job.progress:
                job.progress(epoch, loss)
            start = start or time.monotonic()
            # The clocks of the processes differ.
            if minutes and share(time.monotonic() - start > 60 * minutes) and epoch < job.epochs:
                raise TimeoutError(
                    f"took longer than `config.study.trial_minutes` = {minutes:g}, after epoch "
                    f"{epoch} of {job.epochs}"
                )

        return progress
