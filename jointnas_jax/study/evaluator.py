"""Trains candidates: the one place that turns them into networks.

Every device has a worker thread. A worker takes all jobs of one architecture, compiles once and
trains them one after the other; XLA compiles and runs without holding Python's lock, so workers
really run side by side. Training different architectures in one program will replace what is behind
`Evaluator.run`.
"""

import collections
import concurrent.futures
import dataclasses
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from jointnas_jax.config import Config
from jointnas_jax.data.augment import Augmentation
from jointnas_jax.data.source import Split
from jointnas_jax.space import ArchSpec, Candidate
from jointnas_jax.train.program import EvalData, TrainData, TrainProgram
from jointnas_jax.train.step import PixelStats

# Compiled architectures kept for a second use, retraining a finalist, besides those in use.
_PROGRAMS_KEPT = 8


@dataclasses.dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
      candidate: what to train.
      key: of the trial.
      epochs: how long.
      final: train on the whole training split and measure test accuracy, once at the end; otherwise
        train without the validation images and measure validation accuracy after each epoch.
    """

    candidate: Candidate
    key: jax.Array
    epochs: int
    final: bool = False


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a job gave.

    Attributes:
      accuracies: after each epoch (after the last one only for a final training), fractions.
      reason: why the job failed, None if it did not.
      variables: trained Flax variables on the host, for final trainings.
      seconds: wall time, compiling included.
    """

    accuracies: tuple[float, ...]
    reason: str | None
    variables: Any
    seconds: float


class Evaluator:
    """Trains candidates on all devices; results do not depend on how many there are.

    Attributes:
      pixels: `mean` and `std` per channel of the training split, validation images included.
    """

    def __init__(self, config: Config, train: Split, validation: np.ndarray, test: Split):
        """Puts the images on every device.

        Args:
          config: of the study.
          train: the training split.
          validation: `bool[N]`, images of it kept for validation.
          test: the test split, used by final jobs only.
        """
        self._train = config.train
        self._augmentation = Augmentation(config.data.crop_padding, config.data.flip)
        devices = jax.local_devices()[: config.study.devices or None]
        stats = _pixel_stats(train.images)
        self.pixels = {"mean": stats.mean.tolist(), "std": stats.std.tolist()}
        search = TrainData(train.images, train.labels, ~validation, stats)
        held_out = EvalData.of(train.images[validation], train.labels[validation], stats)
        test_data = EvalData.of(test.images, test.labels, stats)
        self._workers: list[dict[bool, tuple[TrainData, EvalData]]] = []
        self._devices = devices
        for device in devices:
            data = jax.device_put(search, device)
            full = data.replace(members=jax.device_put(np.ones_like(validation), device))
            self._workers.append(
                {
                    False: (data, jax.device_put(held_out, device)),
                    True: (full, jax.device_put(test_data, device)),
                }
            )
        self._programs: collections.OrderedDict[ArchSpec, TrainProgram] = collections.OrderedDict()
        self._homes: dict[tuple[ArchSpec, int], int] = {}
        self._lock = threading.Lock()

    @property
    def devices(self) -> int:
        """Number of devices in use."""
        return len(self._workers)

    def run(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Trains all jobs; yields outcomes in the order of the jobs, each as soon as possible."""
        futures = [concurrent.futures.Future() for _ in jobs]
        waiting = self._groups(jobs)

        def work(worker: int) -> None:
            while group := self._take(waiting, worker):
                for index in group:
                    futures[index].set_result(self._run_one(jobs[index], worker))

        threads = [
            threading.Thread(target=work, args=(w,), daemon=True) for w in range(self.devices)
        ]
        for thread in threads:
            thread.start()
        for future in futures:
            yield future.result()

    def _groups(self, jobs: Sequence[Job]) -> list[tuple[tuple[ArchSpec, int], list[int]]]:
        """Jobs by architecture; where there are fewer architectures than devices, each is split."""
        by_arch: dict[ArchSpec, list[int]] = {}
        for index, job in enumerate(jobs):
            by_arch.setdefault(job.candidate.arch, []).append(index)
        parts = 1 if len(by_arch) >= self.devices else self.devices
        return [
            ((arch, part), indices[part::parts])
            for arch, indices in by_arch.items()
            for part in range(parts)
            if indices[part::parts]
        ]

    def _take(self, waiting: list, worker: int) -> list[int] | None:
        """Next group for a worker: one that it compiled before, or one that nobody has."""
        with self._lock:
            for position, (group, indices) in enumerate(waiting):
                if self._homes.setdefault(group, worker) == worker:
                    del waiting[position]
                    return indices
            return None

    def _run_one(self, job: Job, worker: int) -> Outcome:
        start = time.perf_counter()
        data, evaluation = self._workers[worker][job.final]
        try:
            with jax.default_device(self._devices[worker]):
                training = self._program(job.candidate.arch).train(
                    job.candidate.recipe,
                    data,
                    evaluation,
                    job.epochs,
                    job.key,
                    every_epoch=not job.final,
                )
        except Exception as error:  # one candidate must not end the study
            reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            return Outcome((), reason, None, time.perf_counter() - start)
        reason = None
        if training.failed_step is not None:
            reason = f"loss was not finite at step {training.failed_step}"
        variables = training.variables if job.final else None
        return Outcome(training.accuracies, reason, variables, time.perf_counter() - start)

    def _program(self, arch: ArchSpec) -> TrainProgram:
        with self._lock:
            if arch in self._programs:
                self._programs.move_to_end(arch)
                return self._programs[arch]
        program = TrainProgram(arch, self._train, self._augmentation)
        with self._lock:
            program = self._programs.setdefault(arch, program)  # another worker may have been first
            if len(self._programs) > _PROGRAMS_KEPT + self.devices:
                old, _ = self._programs.popitem(last=False)
                self._homes = {g: w for g, w in self._homes.items() if g[0] != old}
        return program


def _pixel_stats(images: np.ndarray) -> PixelStats:
    """Mean and deviation per channel of `uint8[N, H, W, C]`, exact, from the 256 counts."""
    values = np.arange(256)
    means, deviations = [], []
    for channel in range(images.shape[-1]):
        counts = np.bincount(images[..., channel].ravel(), minlength=256)
        means.append(np.average(values, weights=counts))
        deviations.append(np.sqrt(np.average((values - means[-1]) ** 2, weights=counts)))
    # A constant channel stays constant.
    return PixelStats(np.float32(means), np.maximum(np.float32(deviations), np.float32(1.0)))
