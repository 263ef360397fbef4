"""What a study is going to do and cost, before anything trains."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from rich.console import Console

from jointnas_jax.config import Config
from jointnas_jax.data.source import ImageDataset
from jointnas_jax.nets.conv import resolve_dtype
from jointnas_jax.nets.cost import COSTS, training_bytes
from jointnas_jax.space import ArchSpec
from jointnas_jax.study.problem import Problem

# Rough rates, from runs of this project on two CPU cores; on accelerators not measured.
_FLOPS_PER_SECOND = {"cpu": 1e10}  # useful multiply-adds x 2, per device
_ACCELERATOR_FLOPS_PER_SECOND = 2e12
_COMPILE_SECONDS = {"cpu": (2.0, 0.8)}  # per architecture and MBConv block, with fast_compile
_ACCELERATOR_COMPILE_SECONDS = (10.0, 1.5)
_OVERHEAD = 10  # imports, pretraining, fits, evolution
BACKWARD = 3  # a training step costs about three forward passes
_SAMPLE = 32  # architectures of the pool that are looked at


def device_count(config: Config) -> int:
    """Number of devices that train."""
    return min(config.study.devices or math.inf, jax.local_device_count())


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What trainings take, roughly.

    Attributes:
      programs: compiled, at most.
      train_flops: floating-point operations of all trainings, if none stops early.
      memory: bytes that a device needs for a candidate, and for the images if they stay there.
      seconds: wall time.
      devices: that train.
    """

    programs: int
    train_flops: float
    memory: int
    seconds: float
    devices: int

    def lines(self) -> dict[str, str]:
        """The estimate for people, by name."""
        hours = self.seconds / 3600
        time = f"{60 * hours:.1f} minutes" if hours < 2 else f"{hours:,.1f} hours"
        return {
            "programs": f"{self.programs} at most, fewer where candidates share envelopes",
            "training FLOPs": f"{self.train_flops:.2g}",
            "memory": f"{self.memory / 1e9:.2g} GB per device and candidate in training (rough)",
            "estimated time": f"{time} on {self.devices} devices, "
            f"{hours * self.devices:,.2g} device-hours (rough)",
        }


def estimate(
    config: Config,
    dataset: ImageDataset,
    archs: Sequence[ArchSpec],
    macs: float,
    images: float,
    programs: int,
    devices: int,
) -> Estimate:
    """Estimates trainings.

    Args:
      config: of them.
      dataset: of the images.
      archs: architectures like those that train.
      macs: of one of them, for one image.
      images: that all trainings see together.
      programs: that are compiled.
      devices: to train on.
    """
    train, data, platform = config.train, config.data, jax.default_backend()
    blocks = np.mean([sum(1 for _ in arch.blocks()) for arch in archs])
    per_arch, per_block = _COMPILE_SECONDS.get(platform, _ACCELERATOR_COMPILE_SECONDS)
    compile_seconds = programs * (per_arch + per_block * blocks) / devices
    if platform == "cpu" and not train.fast_compile:
        compile_seconds *= 2
    train_flops = 2 * macs * BACKWARD * images
    rate = _FLOPS_PER_SECOND.get(platform, _ACCELERATOR_FLOPS_PER_SECOND)
    shared = devices if train.data_parallel == "always" else 1
    value = np.dtype(resolve_dtype(train.dtype)).itemsize
    memory = max(training_bytes(arch, -(-train.batch_size // shared), value) for arch in archs)
    decoded = dataset.decoded_bytes(data.train_split, data.test_split)
    memory += decoded if decoded <= data.memory_gb * 1e9 else 0
    seconds = compile_seconds + train_flops / rate / devices + _OVERHEAD
    return Estimate(programs, float(train_flops), memory, float(seconds), devices)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A study in numbers.

    Attributes:
      architectures: size of the architecture space.
      recipes: size of the recipe space.
      pool: candidates in the pool, all within the budget.
      candidates: trained in the coarse stage.
      trainings: of all stages, references and retraining included, at most.
      estimate: of all trainings.
    """

    architectures: int
    recipes: int
    pool: int
    candidates: int
    trainings: int
    estimate: Estimate


def make_plan(problem: Problem, pool: np.ndarray, images: int, devices: int) -> Plan:
    """Plans the study of a problem.

    Args:
      problem: the problem.
      pool: `int32[P, K]`.
      images: in the training split, validation included.
      devices: to train on.
    """
    config = problem.config
    search, study, train = config.search, config.study, config.train
    candidates = min(search.rounds * search.per_round, len(pool))
    finalists = search.finalists + 1
    random = candidates + search.finalists if study.random_reference else 0
    references = 2 if study.random_reference else 1
    compared = finalists + references
    retrained = search.winners + references
    finals = (compared + retrained) * study.seeds
    # One architecture for all is compiled on every device, side by side.
    shared = config.mode == "recipe"
    programs = devices if shared else candidates + random + compared
    epochs = (candidates + random) * train.epochs + finals * train.epochs_at_end
    macs = problem.costs(pool)[:, COSTS.index("macs")].mean()
    archs = [problem.space.decode(v).arch for v in pool[:_SAMPLE]]
    return Plan(
        problem.space.arch_size,
        problem.space.recipe_size,
        len(pool),
        candidates,
        candidates + random + finals,
        estimate(config, problem.dataset, archs, macs, images * epochs, programs, devices),
    )


def print_plan(problem: Problem, plan: Plan, console: Console) -> None:
    """Prints a plan for people."""
    config = problem.config
    limits = config.budget.limits()
    wanted = config.search.rounds * config.search.per_round
    budget = ", ".join(f"{c} <= {v:,}" for c, v in limits.items()) or "none"
    lines = {
        "study": f"{config.name}, mode {config.mode}, seed {config.seed}",
        "data": str(problem.dataset),
        "space": f"{plan.architectures:.3g} architectures x {plan.recipes:.3g} recipes",
        "budget": budget,
        "pool": f"{plan.pool:,} candidates within the budget"
        + (f", less than the {wanted} to train" if plan.pool < wanted else ""),
        "coarse stage": f"{plan.candidates} candidates in {config.search.rounds} rounds, "
        f"{config.train.epochs} epochs in the first",
        "final": f"{config.train.epochs_at_end} epochs, {config.study.seeds} seeds",
        "trainings": f"{plan.trainings} in all, references and retraining included",
    }
    print_lines(lines | plan.estimate.lines(), console)


def print_lines(lines: Mapping[str, str], console: Console) -> None:
    """Prints named facts below each other."""
    for name, text in lines.items():
        console.print(f"  {name:<15} {text}", highlight=False)
