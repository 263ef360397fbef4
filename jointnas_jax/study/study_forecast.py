"""What a study is going to do and cost, before anything trains."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from jointnas_jax.config import Config
from jointnas_jax.data.digits import cache_dir
from jointnas_jax.data.source import ImageDataset, validation_count
from jointnas_jax.execution.cost_model import measured_speed_factors
from jointnas_jax.execution.forecast import Batch, Forecast, forecast
from jointnas_jax.execution.hardware import machine_here, make_planner, training_devices
from jointnas_jax.models.model import load
from jointnas_jax.problem.problem import Problem
from jointnas_jax.rules import cost_in_words
from jointnas_jax.space import ArchSpec, Candidate, JointSpace
from jointnas_jax.telemetry.time_left import Part

# Architectures of the pool that a planner looks at.
SAMPLE = 96


def plan_training(config: Config, dataset: ImageDataset, candidate: Candidate) -> Forecast:
    """Forecasts the final training of one candidate; raises as `find_teacher` does."""
    images = dataset.count(config.data.train_split)
    batch = Batch([candidate.arch], config.train.epochs_of_winners, images, final=True)
    space = JointSpace.fixed(candidate)
    return predict(config, dataset, space, [batch], teacher=find_teacher(config))


def find_teacher(config: Config) -> ArchSpec | None:
    """The network that final trainings learn from; raises `ModelError` if it cannot be loaded."""
    return load(Path(config.train.teacher)).arch if config.train.teacher else None


def predict(
    config: Config,
    dataset: ImageDataset,
    space: JointSpace,
    batches: Sequence[Batch],
    sample: Sequence[ArchSpec] = (),
    teacher: ArchSpec | None = None,
) -> Forecast:
    """Forecasts trainings on this machine, which is measured for a second the first time.

    Args:
      config: of them.
      dataset: of the images.
      space: of all candidates that may train.
      batches: of trainings.
      sample: architectures like those that train, for the planner.
      teacher: that final trainings learn from.
    """
    devices = training_devices(config)
    machine = machine_here(config, measured_speed_factors(devices[0], cache_dir()))
    planner = make_planner(config, space, machine, sample)
    decoded = dataset.decoded_bytes(config.data.train_split, config.data.test_split)
    resident = decoded if decoded <= config.data.memory_gb * 1e9 else 0
    return forecast(config, machine, planner, devices, batches, resident, teacher)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A study in numbers.

    Attributes:
      architectures: size of the architecture space.
      recipes: size of the recipe space.
      images: that candidates train on.
      validation: images kept for validation.
      pool: candidates in the pool, all within the budget.
      candidates: trained in the coarse stage.
      trainings: of all stages, references and retraining included, at most.
      forecast: of all trainings.
      parts: the same by batch, in order.
    """

    architectures: int
    recipes: int
    images: int
    validation: int
    pool: int
    candidates: int
    trainings: int
    forecast: Forecast
    parts: tuple[Part, ...] = ()


def make_plan(
    problem: Problem, pool: np.ndarray, images: int, teacher: ArchSpec | None = None
) -> Plan:
    """Plans the study of a problem.

    Args:
      problem: the problem.
      pool: `int32[P, K]`.
      images: in the training split, validation included.
      teacher: that final trainings learn from.
    """
    config, space = problem.config, problem.space
    held = validation_count(images, config.data.val_fraction, config.data.val_images)
    batches = study_batches(problem, pool, images - held, images)
    sample = [space.decode(vector).arch for vector in pool[:SAMPLE]]
    seen = predict(config, problem.dataset, space, batches, sample, teacher)
    return Plan(
        space.arch_size,
        space.recipe_size,
        images - held,
        held,
        len(pool),
        min(config.search.rounds * config.search.per_round, len(pool)),
        sum(len(batch.archs) for batch in batches),
        seen,
        tuple(
            Part(batch.stage, len(batch.archs), *seconds)
            for batch, seconds in zip(batches, seen.parts, strict=True)
        ),
    )


def study_batches(problem: Problem, pool: np.ndarray, kept: int, images: int) -> list[Batch]:
    """All trainings of a study, in the batches that the evaluator gets.

    The first round is the head of the pool `int32[P, K]`. What the search will choose is not known:
    candidates further down the pool stand in for it.

    Args:
      problem: the problem.
      pool: `int32[P, K]`.
      kept: images to train on, without those for validation.
      images: to train on in the end.
    """
    config, space = problem.config, problem.space
    search, study, train = config.search, config.study, config.train
    candidates = min(search.rounds * search.per_round, len(pool))
    random = candidates + search.finalists if study.random_reference else 0
    default = [problem.default.arch]

    def archs(start: int, wanted: int) -> list[ArchSpec]:
        return [space.decode(pool[i % len(pool)]).arch for i in range(start, start + wanted)]

    starts = range(0, candidates, search.per_round)
    each_round = [archs(i, min(search.per_round, candidates - i)) for i in starts]
    batches = [Batch(some, train.epochs, kept, stage="coarse") for some in each_round]
    if random:
        batches.append(Batch(archs(candidates, random), train.epochs, kept, stage="random"))
    references = default + archs(candidates, 1 if random else 0)
    for wanted, final in ((search.finalists + 1, False), (search.winners, True)):
        contenders = [*archs(candidates + 1, wanted), *references]
        each = [arch for arch in contenders for _ in range(study.seeds)]
        seen, stage = (images, "retrain") if final else (kept, "validate")
        batches.append(Batch(each, train.epochs_of_winners, seen, final, stage))
    return batches


def print_plan(problem: Problem, plan: Plan, console: Console) -> None:
    """Prints a plan for people."""
    config = problem.config
    limits = config.budget.limits()
    wanted = config.search.rounds * config.search.per_round
    asked, batch = config.search.pool_size, config.train.batch_size
    short = plan.pool < asked
    budget = ", ".join(f"{c} <= {cost_in_words(c, v)}" for c, v in limits.items()) or "none"
    lines = {
        "study": f"{config.name}, mode {config.mode}, seed {config.seed}",
        "data": str(problem.dataset),
        "images": f"{plan.images:,} to train on, {plan.validation:,} for validation"
        + (f"; too few for a batch of {batch}" if plan.images < batch else ""),
        "space": f"{plan.architectures:.3g} architectures x {plan.recipes:.3g} recipes",
        "budget": budget,
        "pool": f"{plan.pool:,} candidates within the budget"
        + (f" of {asked:,} asked for: there are no more, or they are too rare" if short else "")
        + (f"; less than the {wanted} to train" if plan.pool < wanted else ""),
        "coarse stage": f"{plan.candidates} candidates in {config.search.rounds} rounds, "
        f"{config.train.epochs} epochs in the first",
        "finalists": f"{config.train.epochs_of_winners} epochs, {config.study.seeds} seeds",
        "trainings": f"{plan.trainings} in all, references and retraining included",
    }
    print_lines(lines | plan.forecast.lines(), console)


def print_lines(lines: Mapping[str, str], console: Console) -> None:
    """Prints named facts below each other."""
    for name, text in lines.items():
        console.print(f"  {name:<15} {text}", highlight=False)
