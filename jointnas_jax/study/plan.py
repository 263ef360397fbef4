"""What a study is going to do and cost, before anything trains."""

import dataclasses

import jax
import numpy as np
from rich.console import Console

from jointnas_jax.nets.cost import COSTS
from jointnas_jax.study.problem import Problem

# Rough rates, from runs of this project on two CPU cores; on accelerators not measured.
_FLOPS_PER_SECOND = {"cpu": 1e10}  # useful multiply-adds x 2, per device
_ACCELERATOR_FLOPS_PER_SECOND = 2e12
_COMPILE_SECONDS = {"cpu": (2.0, 0.8)}  # per architecture and MBConv block, with fast_compile
_ACCELERATOR_COMPILE_SECONDS = (10.0, 1.5)
_OVERHEAD = 10  # imports, pretraining, fits, evolution
_BACKWARD = 3  # a training step costs about three forward passes


@dataclasses.dataclass(frozen=True)
class Plan:
    """A study in numbers.

    Attributes:
      architectures: size of the architecture space.
      recipes: size of the recipe space.
      pool: candidates in the pool, all within the budget.
      candidates: trained in the coarse stage.
      trainings: of all stages, references and retraining included, at most.
      compiles: architectures compiled, at most.
      train_flops: floating-point operations of all trainings, if none stops early.
      seconds: estimated wall time, rough.
    """

    architectures: int
    recipes: int
    pool: int
    candidates: int
    trainings: int
    compiles: int
    train_flops: float
    seconds: float


def make_plan(problem: Problem, pool: np.ndarray, images: int, devices: int) -> Plan:
    """Plans the study of a problem.

    Args:
      problem: the problem.
      pool: `int32[P, K]`.
      images: in the training split, validation included.
      devices: to train on.
    """
    config = problem.config
    search, study = config.search, config.study
    candidates = min(search.rounds * search.per_round, len(pool))
    finalists = search.finalists + 1
    random = candidates + search.finalists if study.random_reference else 0
    references = 2 if study.random_reference else 1
    compared = finalists + references
    retrained = search.winners + references
    finals = (compared + retrained) * study.seeds
    # One architecture for all is compiled on every device, side by side.
    shared = config.mode == "recipe"
    compiles = devices if shared else candidates + random + compared
    macs = problem.costs(pool)[:, COSTS.index("macs")].mean()
    blocks = np.mean([sum(1 for _ in problem.space.decode(v).arch.blocks()) for v in pool[:32]])
    train = config.train
    epochs = (candidates + random) * train.epochs + finals * train.epochs_at_end
    train_flops = 2 * macs * _BACKWARD * images * epochs
    platform = jax.default_backend()
    per_arch, per_block = _COMPILE_SECONDS.get(platform, _ACCELERATOR_COMPILE_SECONDS)
    rate = _FLOPS_PER_SECOND.get(platform, _ACCELERATOR_FLOPS_PER_SECOND)
    compile_seconds = compiles * (per_arch + per_block * blocks) / devices
    if platform == "cpu" and not train.fast_compile:
        compile_seconds *= 2
    seconds = compile_seconds + train_flops / rate / devices
    return Plan(
        problem.space.arch_size,
        problem.space.recipe_size,
        len(pool),
        candidates,
        candidates + random + finals,
        compiles,
        float(train_flops),
        float(seconds) + _OVERHEAD,
    )


def print_plan(problem: Problem, plan: Plan, console: Console) -> None:
    """Prints a plan for people."""
    config = problem.config
    limits = config.budget.limits()
    wanted = config.search.rounds * config.search.per_round
    budget = ", ".join(f"{c} <= {v:,}" for c, v in limits.items()) or "none"
    lines = {
        "study": f"{config.name}, mode {config.mode}, seed {config.seed}",
        "data": f"{problem.dataset.name}, {'x'.join(map(str, problem.dataset.image_shape))}, "
        f"{problem.dataset.num_classes} classes",
        "space": f"{plan.architectures:.3g} architectures x {plan.recipes:.3g} recipes",
        "budget": budget,
        "pool": f"{plan.pool:,} candidates within the budget"
        + (f", less than the {wanted} to train" if plan.pool < wanted else ""),
        "coarse stage": f"{plan.candidates} candidates in {config.search.rounds} rounds, "
        f"{config.train.epochs} epochs in the first",
        "final": f"{config.train.epochs_at_end} epochs, {config.study.seeds} seeds",
        "trainings": f"{plan.trainings} in all, references and retraining included",
        "programs": f"{plan.compiles} at most, fewer where candidates share envelopes",
        "training FLOPs": f"{plan.train_flops:.2g}",
        "estimated time": f"{plan.seconds / 60:.1f} minutes (rough)",
    }
    for name, text in lines.items():
        console.print(f"  {name:<15} {text}", highlight=False)
