"""What a study is going to do and cost, before anything trains."""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from rich.console import Console

from jointnas_jax.config import Config
from jointnas_jax.data.source import ImageDataset
from jointnas_jax.execution.cost_model import CostModel, cost_model_of
from jointnas_jax.execution.hardware import Hardware
from jointnas_jax.execution.job import Job
from jointnas_jax.execution.schedule import Estimate, Scheduler
from jointnas_jax.models.model import load
from jointnas_jax.problem.problem import Problem
from jointnas_jax.rules import cost_in_words
from jointnas_jax.space import ArchSpec, Candidate, JointSpace
from jointnas_jax.telemetry.console import print_lines
from jointnas_jax.telemetry.time_left import Part
from jointnas_jax.train.paused import Paused

# Architectures of the pool that a packer looks at.
SAMPLE = 96
# A training program is two to XLA: an epoch, and the accuracy after it.
_XLA_PROGRAMS = 2
_OVERHEAD = 10  # seconds of imports, pretraining, fits, evolution


def forecast(
    config: Config,
    space: JointSpace,
    hardware: Hardware,
    batches: Sequence[Sequence[Job]],
    *,
    steps: Mapping[bool, int],
    sample: Sequence[ArchSpec] = (),
    teacher: ArchSpec | None = None,
    cost_model: CostModel | None = None,
) -> list[Estimate]:
    """Estimates batches of jobs, one after the other; other arguments as of `Scheduler`."""
    scheduler = Scheduler(
        config, space, hardware, steps, sample=sample, teacher=teacher, cost_model=cost_model
    )
    left, estimates = sum(map(len, batches)), []
    for jobs in batches:
        left -= len(jobs)
        estimates.append(scheduler.schedule(dict(enumerate(jobs)), later=left).estimate)
    return estimates


def estimate_lines(
    estimates: Sequence[Estimate], devices: int, machine: str = ""
) -> dict[str, str]:
    """Estimates of batches, one after the other, for people: name -> text.

    Args:
      estimates: the estimates.
      devices: that train.
      machine: what they are, see `machine_of`.
    """
    total = sum(estimates, Estimate())
    programs = total.envelopes + total.exact
    hours = (total.compiling + total.training + _OVERHEAD) / 3600
    time = f"{60 * hours:.1f} minutes" if hours < 2 else f"{hours:,.1f} hours"
    return {
        **({"devices": machine} if machine else {}),
        "programs": f"{programs} to train in ({total.envelopes} envelopes, {total.exact} exact), "
        f"{_XLA_PROGRAMS * programs} for XLA",
        "training FLOPs": f"{total.useful:.2g} useful, {total.executed:.2g} executed",
        "memory": f"{total.memory / 1e9:.2g} GB per device in training (rough)",
        "estimated time": f"{time} on {devices} devices, {devices * hours:,.2g} device-hours "
        "(rough)",
        "assumes": f"an idle machine of {os.cpu_count()} cores, where {_XLA_PROGRAMS * programs} "
        f"programs compile in {total.compiling:,.0f} s; other work makes it longer",
    }


def machine_of(hardware: Hardware) -> str:
    """What trains by a forecast, and what its numbers are of, for people."""
    model = cost_model_of(hardware.kind, hardware.speed_factors, fast_compile=False)
    name = hardware.chip or hardware.platform
    source = f"by {model.source}; estimates, never timed" if model.source else "timed for a second"
    return f"{hardware.all_devices} x {name}, {source}"


def training_lines(
    config: Config, dataset: ImageDataset, candidate: Candidate, target: str = ""
) -> dict[str, str]:
    """Estimate of one training on the full split, for people; raises as `find_teacher` does.

    It is for a chip of `CHIPS`, or for this machine.
    """
    images = dataset.count(config.data.train_split)
    job = Job(candidate, jax.random.key(0), config.train.epochs_of_winners, on_full_split=True)
    hardware = _hardware(config, dataset, target)
    estimates = forecast(
        config,
        JointSpace.fixed(candidate),
        hardware,
        [[job]],
        steps=steps_of_epochs(config, images, images),
        teacher=find_teacher(config),
    )
    return estimate_lines(estimates, hardware.devices, machine_of(hardware))


def find_teacher(config: Config) -> ArchSpec | None:
    """The network that jobs on the full split learn from; raises `ModelError` if there is none."""
    return load(Path(config.train.teacher)).arch if config.train.teacher else None


def steps_of_epochs(config: Config, kept: int, images: int) -> dict[bool, int]:
    """Steps of an epoch on `kept` images (False), and on all of them (True)."""
    # Less than a batch does not train; that there is no more, the forecast says beside this.
    batch = config.train.batch_size
    return {False: max(1, kept // batch), True: max(1, images // batch)}


def _hardware(config: Config, dataset: ImageDataset, target: str) -> Hardware:
    """A chip of `CHIPS`; or this machine, which is measured for a second the first time."""
    decoded = dataset.decoded_bytes(config.data.train_split, config.data.test_split)
    taken = decoded if decoded <= config.data.memory_gb * 1e9 else 0
    if target:
        return Hardware.absent(config, target, taken)
    return Hardware.here(config, taken=taken)


@dataclasses.dataclass(frozen=True)
class StudyForecast:
    """A study in numbers.

    Attributes:
      images: that candidates train on.
      validation: images kept for validation.
      pool: candidates in the pool, all within the budget.
      parts: its batches of trainings, in order, references and retraining included.
      estimates: estimates of the batches, if no training stops early.
      devices: that train.
      machine: what they are, for people.
    """

    images: int
    validation: int
    pool: int
    parts: tuple[Part, ...]
    estimates: tuple[Estimate, ...]
    devices: int
    machine: str = ""

    @property
    def trainings(self) -> int:
        """Number of them, in all."""
        return sum(part.trainings for part in self.parts)


def forecast_study(
    problem: Problem,
    pool: np.ndarray,
    images: int,
    teacher: ArchSpec | None = None,
    target: str = "",
) -> StudyForecast:
    """Forecasts the study of a problem.

    Args:
      problem: the problem.
      pool: `int32[P, K]`.
      images: in the training split, validation included.
      teacher: that jobs on the full split learn from.
      target: chip of `CHIPS` to forecast for; "": this machine.
    """
    config, space = problem.config, problem.space
    hardware = _hardware(config, problem.dataset, target)
    held = problem.validation_count(images)
    batches = stand_in_batches(problem, pool)
    estimates = forecast(
        config,
        space,
        hardware,
        [batch.jobs for batch in batches],
        steps=steps_of_epochs(config, images - held, images),
        sample=[space.decode(vector).arch for vector in pool[:SAMPLE]],
        teacher=teacher,
    )
    parts = tuple(
        Part(batch.stage, len(batch.jobs), seen.compiling, seen.training)
        for batch, seen in zip(batches, estimates, strict=True)
    )
    return StudyForecast(
        images - held,
        held,
        len(pool),
        parts,
        tuple(estimates),
        hardware.devices,
        machine_of(hardware),
    )


class StageJobs(NamedTuple):
    """Jobs that an executor gets at once, and their stage."""

    stage: str
    jobs: list[Job]


def stand_in_batches(problem: Problem, pool: np.ndarray) -> list[StageJobs]:
    """All trainings of a study, in the batches that an executor gets.

    The first round is the head of the pool `int32[P, K]`. What the search will choose is not known:
    candidates further down the pool stand in for it.
    """
    config, space = problem.config, problem.space
    search, study, train = config.search, config.study, config.train
    candidates = min(search.rounds * search.per_round, len(pool))
    by_rungs = len(config.rung_epochs) > 1
    # Of a front half of the finalists are of the coarse stage, and all of random search's.
    half = search.finalists // 2 if config.front else search.finalists
    random = candidates + half if study.random_reference else 0
    key = jax.random.key(0)

    def some(start: int, wanted: int) -> list[Candidate]:
        return [space.decode(pool[i % len(pool)]) for i in range(start, start + wanted)]

    if by_rungs:
        batches = [StageJobs("coarse", jobs) for jobs in _rung_batches(problem, pool, key)]
    else:
        starts = range(0, candidates, search.per_round)
        rounds = [some(i, min(search.per_round, candidates - i)) for i in starts]
        batches = [StageJobs("coarse", [Job(c, key, train.epochs) for c in r]) for r in rounds]
    if random:
        jobs = [Job(candidate, key, train.epochs) for candidate in some(candidates, random)]
        batches.append(StageJobs("random", jobs))
    # With the number of trainings that each needs: the search knows one of what it trained, if it
    # trained it as long.
    known = int(train.epochs == train.epochs_of_winners and search.stopping == "none")
    default_known = known * int((pool[0] == problem.default.vector).all())
    new, best = some(candidates + 1, half), some(candidates, 1)
    if config.front:
        best = some(candidates, search.finalists - half)
    of_random = best * bool(random)
    if config.front and random:
        of_random = some(candidates + search.finalists, search.finalists)
    contenders = [(candidate, study.seeds) for candidate in new]
    contenders += [(candidate, study.seeds - known) for candidate in [*best, *of_random]]
    contenders.append((problem.default, study.seeds - default_known))
    retrained = [*some(candidates + 1, search.winners), problem.default]
    retrained += of_random[: search.winners]
    if config.front:
        vectors = np.array([candidate.vector for candidate in retrained[: search.winners]])
        retrained += problem.scaled_default(problem.front_costs(vectors).tolist())
    for stage, wanted in (
        ("validate", contenders),
        ("retrain", [(candidate, study.seeds) for candidate in retrained]),
    ):
        batches.append(
            StageJobs(
                stage,
                [
                    Job(candidate, key, train.epochs_of_winners, stage == "retrain")
                    for candidate, seeds in wanted
                    for _ in range(seeds)
                ],
            )
        )
    return [batch for batch in batches if batch.jobs]


def _coarse_stage(config: Config, seen: StudyForecast) -> str:
    """What the coarse stage trains, for people."""
    search, rungs = config.search, config.rung_epochs
    judged = f"judged by `{search.score}`"
    wanted = search.rounds * search.per_round
    if len(rungs) > 1:
        rounds = sum(part.stage == "coarse" for part in seen.parts)
        some = " or ".join(map(str, rungs))
        return (
            f"{wanted * rungs[-1]} epochs in about {rounds} rounds: candidates train for {some} "
            f"epochs, {judged}"
        )
    return (
        f"{min(wanted, seen.pool)} candidates in {search.rounds} rounds, {config.train.epochs} "
        f"epochs in the first, {judged}"
    )


def _rung_batches(problem: Problem, pool: np.ndarray, key: jax.Array) -> Iterator[list[Job]]:
    """Rounds of a coarse stage with rungs: half of each goes on from the rounds before.

    That is about what searches of recorded learning curves do.
    """
    config, rungs = problem.config, problem.config.rung_epochs
    width, left = config.search.per_round, config.search.rounds * config.search.per_round
    left, new = left * rungs[-1], 0
    paused: list[Job] = []
    while left > 0:
        jobs = [
            dataclasses.replace(
                job, resumed=Paused(job.epochs), epochs=rungs[rungs.index(job.epochs) + 1]
            )
            for job in paused[: width // 2]
        ]
        paused = paused[width // 2 :]
        for _ in range(width - len(jobs)):
            candidate = problem.space.decode(pool[new % len(pool)])
            jobs.append(Job(candidate, key, rungs[0], full_epochs=rungs[-1]))
            new += 1
        most = max(1, left // min(np.diff([0, *rungs])))
        jobs = jobs[: int(most)]
        left -= sum(job.epochs - job.first_epoch for job in jobs)
        paused += [job for job in jobs if job.epochs < rungs[-1]]
        yield jobs


def print_forecast(problem: Problem, seen: StudyForecast, console: Console) -> None:
    """Prints a forecast for people."""
    config, space = problem.config, problem.space
    limits = config.budget.limits()
    wanted = config.search.rounds * config.search.per_round
    asked, batch = config.search.pool_size, config.train.batch_size
    short = seen.pool < asked
    budget = ", ".join(f"{c} <= {cost_in_words(c, v)}" for c, v in limits.items()) or "none"
    lines = {
        "study": f"{config.name}, mode {config.mode}, seed {config.seed}",
        "data": str(problem.dataset),
        "images": f"{seen.images:,} to train on, {seen.validation:,} for validation"
        + (f"; too few for a batch of {batch}" if seen.images < batch else ""),
        "space": f"{space.arch_size:.3g} architectures x {space.recipe_size:.3g} recipes",
        "budget": budget,
        "pool": f"{seen.pool:,} candidates within the budget"
        + (f" of {asked:,} asked for: there are no more, or they are too rare" if short else "")
        + (f"; less than the {wanted} to train" if seen.pool < wanted else ""),
        "coarse stage": _coarse_stage(config, seen),
        "finalists": f"{config.train.epochs_of_winners} epochs, {config.study.seeds} seeds",
        "trainings": f"{seen.trainings} in all, references and retraining included",
    }
    print_lines(lines | estimate_lines(seen.estimates, seen.devices, seen.machine), console)
