"""Trains candidates: the one place that turns them into networks.

Candidates that share an envelope train side by side in one program on all devices. Those that run
exactly have a program each: every device has a worker thread that compiles and trains one after the
other; XLA compiles and runs without holding Python's lock, so workers really run side by side. One
large network trains on all devices together.
"""

import collections
import concurrent.futures
import contextlib
import math
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np

from jointnas_jax.config import Config
from jointnas_jax.data.augment import Augmentation
from jointnas_jax.data.digits import cache_dir
from jointnas_jax.data.source import Images, SplitOnDisk
from jointnas_jax.errors import ConfigError, InterruptedStudyError, ModelError
from jointnas_jax.nets.conv import resolve_dtype, resolve_lowering
from jointnas_jax.nets.cost import training_bytes
from jointnas_jax.nets.envelope import Envelope
from jointnas_jax.nets.network import Network
from jointnas_jax.space import ArchSpec, JointSpace
from jointnas_jax.study.groups import Groups, Place, state_folder
from jointnas_jax.study.jobs import Call, Job, Keeping, Outcome, Packing
from jointnas_jax.study.model import load_model
from jointnas_jax.train.checkpoints import Checkpoints
from jointnas_jax.train.feed import feeds
from jointnas_jax.train.machine import machine_of, measured_scales
from jointnas_jax.train.packing import Pack, Planner, Shape, Work
from jointnas_jax.train.parallel import on_device
from jointnas_jax.train.program import TrainProgram
from jointnas_jax.train.step import PixelStats, Teacher

# Programs of single architectures kept for a second use, retraining a finalist, besides those in
# use. Envelopes are kept for good.
_PROGRAMS_KEPT = 8
# Share of a device's memory that lanes may fill.
_MEMORY_SHARE = 0.8


class Evaluator:
    """Trains candidates on all devices.

    Attributes:
      pixels: `mean` and `std` per channel of the training split, validation images included.
      packings: of all calls so far.
      scales: that the planner goes by, see `measured_scales`.
    """

    def __init__(
        self,
        config: Config,
        space: JointSpace,
        train: Images,
        validation: np.ndarray,
        test: Images,
        sample: Sequence[ArchSpec] = (),
        keeping: Keeping | None = None,
    ):
        """Puts the images on every device, except for those that stay on disk.

        Args:
          config: of the study.
          space: of all candidates.
          train: the training split.
          validation: `bool[N]`, images of it kept for validation.
          test: the test split, used by final jobs only.
          sample: architectures like them, for the planner.
          keeping: None: nothing is kept.

        Raises:
          ConfigError: devices cannot share a batch as they are told to.
          ModelError: the teacher cannot be loaded, or does not know these images and classes.
        """
        self._train, self._study = config.train, config.study
        self._teacher = _teacher(config, space)
        self._keeping = keeping or Keeping()
        data = config.data
        self._augmentation = Augmentation(
            data.crop_padding, data.flip, data.min_area, data.transforms, data.strength
        )
        self._devices = tuple(jax.local_devices()[: config.study.devices or None])
        if config.train.data_parallel == "always" and config.train.batch_size % self.devices:
            raise ConfigError(
                "`config.train.batch_size` must be a multiple of the "
                f"{self.devices} devices that share a batch, got {config.train.batch_size}"
            )
        self.packings: list[Packing] = []
        self._streamed = isinstance(train, SplitOnDisk)
        self._data = feeds(train, validation, test, self._devices)
        stats = jax.device_get(self._data[False][0].stats)
        self.pixels = {"mean": stats.mean.tolist(), "std": stats.std.tolist()}
        images = {False: int((~validation).sum()), True: len(validation)}
        self._steps = {final: n // config.train.batch_size for final, n in images.items()}
        on_cpu = self._devices[0].platform == "cpu"
        dtype = resolve_dtype(config.train.dtype)
        tiled = resolve_lowering(config.train.lowering, dtype) == "matmul" and on_cpu
        self.scales = self._keeping.scales or measured_scales(self._devices[0], cache_dir())
        machine = machine_of(self._devices[0], self.scales)
        machine = machine.compiling_fast() if config.train.fast_compile and on_cpu else machine
        self._planner = Planner(
            *(space, machine),
            len(self._devices),
            config.train.batch_size,
            tiled,
            config.train.program,
            sample,
        )
        self._programs: collections.OrderedDict[tuple, TrainProgram] = collections.OrderedDict()
        self._fitting: dict[Shape, int] = {}  # lanes, where more did not fit into the memory
        self._lock = threading.Lock()

    @property
    def devices(self) -> int:
        """Number of devices in use."""
        return len(self._devices)

    def run(self, jobs: Sequence[Job], later: int = 0) -> list[Outcome]:
        """Trains all jobs; `later` as in `completed`."""
        return [outcome for _, outcome in sorted(self.completed(jobs, later), key=lambda d: d[0])]

    def completed(
        self, jobs: Sequence[Job], later: int = 0, known: Collection[int] = ()
    ) -> Iterator[tuple[int, Outcome]]:
        """Trains all jobs; yields their positions and outcomes, each as soon as it is there.

        Args:
          jobs: to train.
          later: how many jobs like these will follow; it can pay to compile for them as well.
          known: positions of jobs that are planned, but do not train.

        Whoever stops asking closes the generator: what trains then ends after its epoch.
        """
        works = [Work(j.candidate.arch, j.epochs * self._steps[j.final]) for j in jobs]
        together = self._together(jobs)
        if together:
            packs = [Pack(job.candidate.arch, (i,)) for i, job in enumerate(jobs)]
        else:
            packs = self._planner.plan(works, later)
        shared = [p for p in packs if isinstance(p.shape, Envelope)]
        exact = [p for p in packs if not isinstance(p.shape, Envelope)]
        self.packings.append(
            Packing(len(jobs), len(shared), len(exact), self._planner.efficiency(works, packs))
        )
        call = Call(jobs, frozenset(known), queue.SimpleQueue(), threading.Event())

        def work() -> None:
            try:
                for pack in shared:
                    self._run_pack(pack, call, None)
                # Few architectures: the trainings of one share its program, on all devices.
                if together or len(exact) < self.devices:
                    for pack in exact:
                        self._run_pack(pack, call, None, together)
                else:
                    self._run_exact(exact, call)
            except BaseException as error:  # whoever waits must hear of it
                call.done.put(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        self._keeping.interrupt.worker = thread
        try:
            for _ in range(len(jobs) - len(call.known)):
                done = call.done.get()
                if isinstance(done, BaseException):
                    raise done
                yield done
        finally:
            call.stop.set()

    def _together(self, jobs: Sequence[Job]) -> bool:
        """Whether all devices share the batches of one candidate after the other."""
        choice, several = self._train.data_parallel, self.devices > 1
        if choice != "auto":
            return several and choice == "always"
        fits = self._train.batch_size % self.devices == 0
        return several and fits and len(jobs) == 1 and self._devices[0].platform != "cpu"

    def _run_exact(self, packs: Sequence[Pack], call: Call) -> None:
        """One worker for each device takes one architecture after the other."""
        waiting = list(packs)

        def take(worker: int) -> Pack | None:
            """An architecture that this device compiled before, or one that no other did."""
            with self._lock:
                for position, pack in enumerate(waiting):
                    homes = {name[1] for name in self._programs if name[0] == pack.shape}
                    if not homes - {None} or worker in homes:
                        return waiting.pop(position)
                return None

        def work(worker: int) -> None:
            try:
                while pack := take(worker):
                    self._run_pack(pack, call, worker)
            except InterruptedStudyError:  # the other workers save their states as well
                raise
            except BaseException as error:  # they shall not go on for hours
                call.done.put(error)
                call.stop.set()

        with concurrent.futures.ThreadPoolExecutor(self.devices) as pool:
            list(pool.map(work, range(self.devices)))

    def _run_pack(self, pack: Pack, call: Call, device: int | None, together: bool = False) -> None:
        """Trains a pack on one device, or on all; jobs of one kind side by side, or `together`."""
        kinds: dict[tuple[int, bool], list[int]] = {}
        for index in pack.members:
            kinds.setdefault((call.jobs[index].epochs, call.jobs[index].final), []).append(index)
        lanes = self._lanes_per_device(pack.shape, max(map(len, kinds.values())), device)
        lanes = 1 if together else min(lanes, self._fitting.get(pack.shape, lanes))
        place = Place(pack.shape, lanes, device, together, self.devices if device is None else 1)
        groups = Groups(call, self._train_at, self._keeping)
        for indices in kinds.values():
            # Lanes wait for each other, so those that train at once should take about as long.
            cost = lambda i: self._planner.macs(pack.shape, call.jobs[i].candidate.arch)
            fitting = groups.train(place, sorted(indices, key=lambda i: (-cost(i), i)))
            if fitting != place:  # what comes later need not find out again
                place = fitting
                self._fitting[pack.shape] = place.lanes

    def _train_at(self, place: Place, jobs: Sequence[Job], stop: threading.Event) -> list[Outcome]:
        return self._train_lanes(place.shape, jobs, place.lanes, place.device, place.together, stop)

    def _train_lanes(
        self,
        shape: Shape,
        jobs: Sequence[Job],
        lanes: int,
        device: int | None,
        together: bool,
        stop: threading.Event,
    ) -> list[Outcome]:
        """Trains jobs of one kind at once."""
        final, epochs = jobs[0].final, jobs[0].epochs
        data, evaluation = self._data[final]
        devices = self._devices
        if device is not None:
            devices = devices[device : device + 1]
            if not self._streamed:
                data, evaluation = on_device((data, evaluation), devices[0])
        teacher = self._teacher if final else None
        program = self._program(shape, device, lanes, devices, together, teacher)
        place = Place(shape, lanes, device, together, len(devices))
        with jax.default_device(devices[0]), self._checkpoints(place, jobs) as checkpoints:
            trainings = program.train(
                [job.candidate for job in jobs],
                [job.key for job in jobs],
                data,
                evaluation,
                epochs,
                every_epoch=not final,
                checkpoints=checkpoints,
                stop=self._keeping.interrupt.asked,
                progress=self._progress(jobs, stop),
            )
        return [
            Outcome(
                training.accuracies,
                None
                if training.failed_step is None
                else f"loss was not finite at step {training.failed_step}",
                training.variables,
            )
            for training in trainings
        ]

    @contextlib.contextmanager
    def _checkpoints(self, place: Place, jobs: Sequence[Job]) -> Iterator[Checkpoints | None]:
        """States of these trainings side by side."""
        folder = state_folder(self._keeping.folder, place, jobs)
        if folder is None:
            yield None
            return
        seconds = 60 * self._study.checkpoint_minutes
        with contextlib.closing(Checkpoints(folder, seconds, self._keeping.say)) as checkpoints:
            yield checkpoints

    def _progress(self, jobs: Sequence[Job], stop: threading.Event) -> Callable[[int, float], None]:
        """What is called after each epoch of jobs that train side by side.

        The time of a trial counts from its first epoch in this run, which follows compilation.
        """
        start, minutes = None, self._study.trial_minutes

        def progress(epoch: int, loss: float) -> None:
            nonlocal start
            if stop.is_set():
                raise InterruptedStudyError
            if jobs[0].progress:
                jobs[0].progress(epoch, loss)
            start = time.monotonic() if start is None else start
            if 0 < minutes < (time.monotonic() - start) / 60 and epoch < jobs[0].epochs:
                raise TimeoutError(
                    f"took longer than `config.study.trial_minutes` = {minutes:g}, after epoch "
                    f"{epoch} of {jobs[0].epochs}"
                )

        return progress

    def _lanes_per_device(self, shape: Shape, jobs: int, device: int | None) -> int:
        """As many lanes as are needed and fit; on CPU one, since more fall out of its caches."""
        wanted = -(-jobs // (self.devices if device is None else 1))
        if self._train.lanes:
            return min(self._train.lanes, wanted)
        memory = (self._devices[0].memory_stats() or {}).get("bytes_limit", 0)
        if self._devices[0].platform == "cpu" or not memory:
            return 1
        value = np.dtype(resolve_dtype(self._train.dtype)).itemsize
        fit = _MEMORY_SHARE * memory / training_bytes(shape, self._train.batch_size, value)
        # A power of two, so that a smaller last pack or round seldom needs a program of its own.
        return 2 ** int(math.log2(max(1, min(wanted, fit))))

    def _program(
        self,
        shape: Shape,
        device: int | None,
        lanes: int,
        devices: Sequence[jax.Device],
        together: bool,
        teacher: Teacher | None,
    ) -> TrainProgram:
        name = (shape, device, lanes, together, teacher is not None)
        with self._lock:
            if name in self._programs:
                self._programs.move_to_end(name)
                return self._programs[name]
        kind = (lanes, self._streamed, together, teacher)
        program = TrainProgram(shape, self._train, self._augmentation, devices, *kind)
        with self._lock:
            self._programs[name] = program
            exact = [n for n in self._programs if not isinstance(n[0], Envelope)]
            for old in exact[: -_PROGRAMS_KEPT - self.devices]:
                del self._programs[old]
        return program


def _teacher(config: Config, space: JointSpace) -> Teacher | None:
    """Reads the network whose answers final trainings learn; None where there is none.

    Raises:
      ModelError: it cannot be loaded, or does not know these images and classes.
    """
    if not config.train.teacher:
        return None
    model = load_model(Path(config.train.teacher))
    known = (model.arch.image_channels, model.arch.num_classes)
    if known != (needed := (space.image_channels, space.num_classes)):
        raise ModelError(
            f"the teacher `{config.train.teacher}` has (image_channels, num_classes) = {known}, "
            f"the dataset {needed}"
        )
    stats = PixelStats(np.float32(model.mean), np.float32(model.std))
    dtype = resolve_dtype(config.train.dtype)
    module = Network(model.arch, resolve_lowering(config.train.lowering, dtype), dtype=dtype)
    return Teacher(model.variables, stats, module, config.train.teacher_share)
