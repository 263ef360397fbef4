"""The workload of a study that has not run, from the cost model that the planner goes by."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jointnas_jax.config import Config
from jointnas_jax.data.source import validation_count
from jointnas_jax.execution.cost_model import ACCELERATOR, CPU
from jointnas_jax.execution.forecast import Batch
from jointnas_jax.execution.packing import Planner, Shape, Work
from jointnas_jax.nets.cost import training_bytes
from jointnas_jax.nets.envelope import Envelope
from jointnas_jax.problem.problem import Problem, build_problem, restore_problem
from jointnas_jax.simulation.workload import Phase, Training, Workload
from jointnas_jax.space import JointSpace
from jointnas_jax.study.study_forecast import SAMPLE, study_batches

MACHINES = {"accelerator": ACCELERATOR, "cpu": CPU}


class Images(NamedTuple):
    """A dataset that is not there.

    Attributes:
      count: images of the training split, those for validation included.
      channels: of an image.
      classes: labels.
    """

    count: int
    channels: int = 3
    classes: int = 1000


def forecasted(
    config: Config,
    images: Images | None = None,
    machine: str = "accelerator",
    stop_epochs: int = 0,
    fit_seconds: float = 30.0,
) -> Workload:
    """Plans a study, one candidate on a device at a time.

    The first round is known. Candidates further down the pool stand in for those that the search
    will choose.

    Args:
      config: of the study.
      images: to train on; None: the dataset of the config is opened.
      machine: name of the constants, for a device of speed 1.
      stop_epochs: that the early-stop rule will leave; 0: all.
      fit_seconds: of the driver before each round and stage.

    Raises:
      InputError: dataset or space cannot be used.
    """
    problem, count = _problem(config, images)
    search = config.search
    wanted = search.rounds * search.per_round + search.finalists + 2
    # The head of a pool does not depend on its size, but drawing 25,000 takes half a minute.
    size = min(search.pool_size, max(2 * wanted, SAMPLE))
    small = dataclasses.replace(search, pool_size=size)
    short = dataclasses.replace(problem, config=dataclasses.replace(config, search=small))
    pool = short.pool()
    held = validation_count(count, config.data.val_fraction, config.data.val_images)
    batches = study_batches(short, pool, count - held, count)
    model = _CostModel(problem, pool, machine)
    phases, left, first = [], sum(len(b.archs) for b in batches), 0
    rounds = -(-min(search.rounds * search.per_round, len(pool)) // search.per_round)
    for i, batch in enumerate(batches):
        left -= len(batch.archs)
        if stop_epochs and 0 < i < rounds:
            batch = dataclasses.replace(batch, epochs=min(stop_epochs, batch.epochs))
        trainings = tuple(model.trainings(batch, first, left))
        name = f"round {i + 1}" if i < rounds else f"stage {i - rounds + 1} after the search"
        phases.append(Phase(name, fit_seconds, trainings, coarse=i < rounds))
        first += len(trainings)
    source = f"the cost model of `{machine}`, {count:,} images, batches of "
    return Workload(config.name, source + f"{config.train.batch_size}", tuple(phases))


def _problem(config: Config, images: Images | None) -> tuple[Problem, int]:
    """The problem, and how many images its training split has."""
    if images is None:
        problem = build_problem(config)
        return problem, problem.dataset.count(config.data.train_split)
    classes = config.data.classes or images.classes
    space = JointSpace.from_config(config.space, images.channels, classes)
    default = space.decode(space.vector_from_values(config.default))
    return restore_problem(config, default.arch), images.count


class _CostModel:
    """Times of trainings, programs as the planner divides them for one device."""

    def __init__(self, problem: Problem, pool: np.ndarray, machine: str):
        sample = [problem.space.decode(vector).arch for vector in pool[:SAMPLE]]
        train, tiled = problem.config.train, machine == "cpu"
        half = train.dtype == "bfloat16" or (train.dtype == "auto" and not tiled)
        self._train, self._value_bytes = train, 2 if half else 4
        own = MACHINES[machine]
        own = own.compiling_fast() if train.fast_compile and tiled else own
        self._planner = Planner(
            *(problem.space, own, 1, train.batch_size, tiled, train.program), sample=sample
        )
        self._names: dict[Shape, str] = {}

    def trainings(self, batch: Batch, first: int, later: int) -> Iterator[Training]:
        """Those of a batch; their numbers begin with `first`, so many others will follow."""
        steps = max(1, batch.images // self._train.batch_size)
        works = [Work(arch, steps * batch.epochs) for arch in batch.archs]
        shapes = self._shapes(works, later)
        for i, (work, shape) in enumerate(zip(works, shapes, strict=True)):
            compiling, training = self._planner.seconds(shape, work)
            yield Training(
                first + i,
                self._names.setdefault(shape, f"program {len(self._names)}"),
                training / batch.epochs,
                batch.epochs,
                compiling,
                training_bytes(shape, self._train.batch_size, self._value_bytes),
                envelope=isinstance(shape, Envelope),
            )

    def _shapes(self, works: Sequence[Work], later: int) -> list[Shape]:
        """The shape of the program of each training."""
        packs = self._planner.plan(works, later)
        shapes = {i: pack.shape for pack in packs for i in pack.members}
        return [shapes[i] for i in range(len(works))]
