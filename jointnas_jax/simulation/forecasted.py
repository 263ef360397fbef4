"""The workload of a study that has not run, from the cost model that schedules go by."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from jointnas_jax.config import Config
from jointnas_jax.execution.cost_model import MAP_COPIES, cost_model_of
from jointnas_jax.execution.job import Job
from jointnas_jax.execution.packing import Packer, Shape
from jointnas_jax.nets.cost import training_bytes
from jointnas_jax.nets.envelope import Envelope
from jointnas_jax.problem.problem import Problem, build_problem, restore_problem
from jointnas_jax.runtime.chips import CHIPS
from jointnas_jax.simulation.workload import Phase, Training, Workload
from jointnas_jax.space import JointSpace
from jointnas_jax.study.study_forecast import SAMPLE, stand_in_batches, steps_of_epochs


@dataclasses.dataclass(frozen=True)
class Images:
    """A dataset that is not there.

    Attributes:
      count: images of the training split, those for validation included.
      channels: channels of an image.
      classes: labels.
    """

    count: int
    channels: int = 3
    classes: int = 1000


def forecasted(
    config: Config,
    images: Images | None = None,
    target: str = "v5e",
    stop_epochs: int = 0,
    fit_seconds: float = 30.0,
) -> Workload:
    """Schedules a study, one candidate on a device at a time.

    The first round is known. Candidates further down the pool stand in for those that the search
    will choose.

    Args:
      config: config of the study.
      images: to train on; None: the dataset of the config is opened.
      target: chip of `CHIPS`, or `cpu`, for a device of speed 1.
      stop_epochs: that the early-stop rule will leave; 0: all.
      fit_seconds: seconds of the driver before each round and stage.

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
    held = problem.validation_count(count)
    stages = stand_in_batches(short, pool)
    batches = [batch.jobs for batch in stages]
    trainings = _Trainings(problem, pool, target, steps_of_epochs(config, count - held, count))
    phases, left, first = [], sum(map(len, batches)), 0
    rounds = sum(batch.stage == "coarse" for batch in stages)
    for i, jobs in enumerate(batches):
        left -= len(jobs)
        if stop_epochs and 0 < i < rounds:
            jobs = [dataclasses.replace(j, epochs=min(stop_epochs, j.epochs)) for j in jobs]
        name = f"round {i + 1}" if i < rounds else f"stage {i - rounds + 1} after the search"
        some = tuple(trainings.of(jobs, first, left))
        phases.append(Phase(name, fit_seconds, some, coarse=i < rounds))
        first += len(jobs)
    model = cost_model_of(target, (1.0, 1.0), fast_compile=False)
    source = f"the cost model of `{target}`" + (f" ({model.source})" if model.source else "")
    source += f", {count:,} images, batches of {config.train.batch_size}"
    return Workload(config.name, source, tuple(phases))


def _problem(config: Config, images: Images | None) -> tuple[Problem, int]:
    """The problem, and how many images its training split has."""
    if images is None:
        problem = build_problem(config)
        return problem, problem.dataset.count(config.data.train_split)
    classes = config.data.classes or images.classes
    space = JointSpace.from_config(config.space, images.channels, classes)
    default = space.decode(space.vector_from_values(config.default))
    return restore_problem(config, default.arch), images.count


class _Trainings:
    """Trainings with their times, in programs as they are packed for one device."""

    def __init__(self, problem: Problem, pool: np.ndarray, target: str, steps: Mapping[bool, int]):
        train, tiled = problem.config.train, target == "cpu"
        half = train.dtype == "bfloat16" or (train.dtype == "auto" and not tiled)
        self._batch_size = train.batch_size
        self._value_bytes = 2 if half else 4
        self._copies = MAP_COPIES["cpu" if tiled else CHIPS[target].platform]
        self._steps = steps
        self._packer = Packer(
            problem.space,
            cost_model_of(target, (1.0, 1.0), fast_compile=train.fast_compile),
            devices=1,
            batch=train.batch_size,
            tiled=tiled,
            program=train.program,
            sample=[problem.space.decode(vector).arch for vector in pool[:SAMPLE]],
        )
        self._names: dict[Shape, str] = {}

    def of(self, jobs: Sequence[Job], first: int, later: int) -> Iterator[Training]:
        """Trainings of jobs; their numbers begin with `first`, so many others will follow."""
        archs = [job.candidate.arch for job in jobs]
        epochs = [job.epochs - job.first_epoch for job in jobs]
        steps = [n * self._steps[j.on_full_split] for n, j in zip(epochs, jobs, strict=True)]
        packs = self._packer.pack(archs, steps, later)
        shapes = {i: shape for shape, members in packs.items() for i in members}
        for i in range(len(jobs)):
            shape, seconds = shapes[i], self._packer.train_seconds(shapes[i], archs[i], steps[i])
            yield Training(
                first + i,
                self._names.setdefault(shape, f"program {len(self._names)}"),
                seconds / epochs[i],
                epochs[i],
                self._packer.compile_seconds(shape),
                training_bytes(shape, self._batch_size, self._value_bytes, self._copies),
                envelope=isinstance(shape, Envelope),
            )
