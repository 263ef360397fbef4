"""The task of a study, from its config and dataset: space, costs, default candidate."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jointnas_jax.config import TOP, Config
from jointnas_jax.data.division import carve_validation, check_division, validation_count
from jointnas_jax.data.source import ImageDataset, Images, open_dataset
from jointnas_jax.errors import ConfigError, DataError, SpaceError
from jointnas_jax.nets import zoo
from jointnas_jax.nets.cost import CostTable, count
from jointnas_jax.nets.latency import LATENCY, latency_of, with_latency
from jointnas_jax.problem.latency_table import LatencyTable, measured_latencies
from jointnas_jax.problem.scaled_default import scaled_vectors
from jointnas_jax.rules import TIMES, cost_in_words, local_path
from jointnas_jax.space import ArchSpec, Candidate, JointSpace, Knob, read_candidate
from jointnas_jax.space.knobs import Value
from jointnas_jax.space.prior import Prior
from jointnas_jax.storage.foreign_trials import ForeignStudy, read_foreign
from jointnas_jax.strategy.constraints import standardised
from jointnas_jax.strategy.foreign import Foreign
from jointnas_jax.strategy.pool import distinct, sobol_pool
from jointnas_jax.strategy.searcher import Searcher

# Quantile of the trials' scores from which a front counts: networks that are cheap and not good
# are of no use. Chosen on a surrogate of the digits' learning curves, 12 studies each: from 0, 0.5
# and 0.8 up the default candidate's accuracy takes 2.0, 2.5 and 3.1 times fewer FLOPs (random
# search 1.5). On one of the colour set's, 6 studies: from 0.5, 0.8 and 0.9 up 2.3, 3.3 and 2.2.
_GOOD = 0.8
# Shares of the default candidate's cost at which it is trained, too, before a front is searched.
_SMALLER = (0.5, 0.25)
# Streams of NumPy's random numbers, next to the study's seed: pool, validation split, pretraining
# samples, random search.
POOL_STREAM, VALIDATION_STREAM, PRETRAIN_STREAM, RANDOM_STREAM = range(4)


@dataclasses.dataclass(frozen=True)
class Problem:
    """A study's task.

    Attributes:
      config: the checked config.
      opened: dataset, not yet decoded; None where a finished study is searched again.
      space: the search space, restricted by the mode.
      default: the default candidate, with vector and costs.
      latency: times whose sums are the latencies among the costs; None: there are none.
      earlier: studies whose trials are learnt from; None: those that the config names.
    """

    config: Config
    opened: ImageDataset | None
    space: JointSpace
    default: Candidate
    latency: LatencyTable | None = None
    earlier: tuple[ForeignStudy, ...] | None = None

    @functools.cached_property
    def costs(self) -> CostTable:
        """The costs of the space."""
        costs, latency = CostTable.of(self.space), self.latency
        return with_latency(costs, self.space, latency.times) if latency else costs

    @property
    def dataset(self) -> ImageDataset:
        """The dataset of a study that trains."""
        assert self.opened is not None
        return self.opened

    def images(self) -> tuple[Images, Images]:
        """Training and test images."""
        return self.dataset.open_splits(self.config.data)

    def divided_images(self) -> tuple[Images, np.ndarray, Images]:
        """Training split, `bool[N]` which of it are for validation, and test split.

        Raises:
          ConfigError: less than a batch is left to train on.
          DataError: images to train on, or to validate on, are of one class.
        """
        train, test = self.images()
        data, seed = self.config.data, (self.config.seed, VALIDATION_STREAM)
        if data.val_split:
            validation = self.dataset.part(data.val_split, data.train_split)
        else:
            share, images = data.val_fraction, data.val_images
            validation = carve_validation(train.labels, share, seed, images=images)
        self.missing_classes((train, validation, test))
        batch = self.config.train.batch_size
        if (left := int((~validation).sum())) < batch:
            raise ConfigError(
                f"`config.train.batch_size` must be at most the {left} training images "
                f"left of {len(train)} after validation, got {batch}"
            )
        return train, validation, test

    def validation_count(self, images: int) -> int:
        """How many of so many training images validate."""
        data = self.config.data
        if data.val_split and self.opened is not None:
            return self.opened.count(data.val_split)
        return validation_count(images, data.val_fraction, data.val_images)

    def missing_classes(self, images: tuple[Images, np.ndarray, Images]) -> list[str]:
        """A line about each part of `divided_images` that lacks classes; raises as it does."""
        train, validation, test = images
        return check_division(train.labels, validation, test.labels, self.dataset.labels)

    def random_candidates(self, wanted: int) -> np.ndarray:
        """Distinct uniform candidates within the budget, `int32[N, K]`.

        More of them start with the same ones. Where they are too rare to be met by chance, fewer
        than wanted, but at least one.
        """
        rng = np.random.default_rng((self.config.seed, RANDOM_STREAM))
        feasible = self.budget_test()
        chosen = np.zeros((0, len(self.space.knobs)), np.int32)
        for _ in range(1000):
            drawn = self.space.sample(rng, 1024)
            chosen = distinct(np.concatenate([chosen, drawn[feasible(drawn)]]))
            if len(chosen) >= wanted:
                break
        return chosen[:wanted] if len(chosen) else self.pool()[-wanted:]

    def pool(self) -> np.ndarray:
        """Draws the pool of the coarse stage: `int32[P, K]`; raises `SpaceError` if it is empty.

        Its head, the first to be trained, are the enqueued candidates, and the default candidate,
        unless the config wants it out; of a front, also what one would try by hand: the default
        candidate at lower costs.
        """
        pool = self.pool_within(self.config.budget.limits(), self.config.seed)
        assert self.default.vector is not None
        first, default = self.enqueued, self.default.vector[None]
        if self.config.search.start_with_default and self.budget_test()(default)[0]:
            first = np.concatenate([first, default, self._smaller_defaults()])
        return distinct(np.concatenate([first, pool]))[: len(pool)] if len(first) else pool

    @functools.cached_property
    def enqueued(self) -> np.ndarray:
        """The candidates of `search.enqueue`, `int32[N, K]`.

        Raises `ConfigError` if one cannot be read, is not in the space or is over the budget.
        """
        names = [name.strip() for name in self.config.search.enqueue.split(",") if name.strip()]
        return np.array([self._enqueued(name) for name in names], np.int32).reshape(
            len(names), len(self.space.knobs)
        )

    def _enqueued(self, name: str) -> np.ndarray:
        try:
            arch, recipe = read_candidate(Path(local_path(name, "search.enqueue")))
            space = self.space
            arch = dataclasses.replace(
                arch, image_channels=space.image_channels, num_classes=space.num_classes
            )
            candidate = Candidate(arch, recipe or self.default.recipe)
            vector = space.encode(candidate)
        except SpaceError as error:
            raise ConfigError(
                f"`config.search.enqueue`: `{name}` cannot be tried: {error}"
            ) from error
        if over := self.over_budget(self.candidate(vector)):
            costs = self.candidate(vector).costs or {}
            limit = self.config.budget.limits()[over[0]]
            raise ConfigError(
                f"`config.search.enqueue`: `{name}` costs {over[0]} of "
                f"{cost_in_words(over[0], costs[over[0]])}, over the budget of "
                f"{cost_in_words(over[0], limit)}"
            )
        return vector

    @functools.cached_property
    def foreign_studies(self) -> tuple[ForeignStudy, ...]:
        """The studies whose trials are learnt from; raises `ConfigError` if one is none."""
        if self.earlier is not None:
            return self.earlier
        return read_foreign(self.config.search.trials_from)

    @functools.cached_property
    def foreign(self) -> list[Foreign]:
        """Their trials in this space; raises `ConfigError` if a study shares no knob."""
        return [Foreign.of(self.space, *study) for study in self.foreign_studies]

    def expectations_in_words(self) -> list[str]:
        """A line about the prior, and one about each earlier study that is learnt from."""
        names = [k.name for k in self.space.knobs if k.name in self.config.search.prior]
        lines = [f"expects good values of {', '.join(names)} by a prior"] * bool(names)
        return lines + [f"learns from {foreign.in_words()}" for foreign in self.foreign]

    @functools.cached_property
    def prior(self) -> Prior | None:
        """What the config expects of knobs, those that the mode leaves; None: nothing."""
        if not (description := self.config.search.prior):
            return None
        whole = JointSpace.from_config(
            self.config.space, self.space.image_channels, self.space.num_classes
        )
        prior = Prior.of(whole.knobs, description, name="config.search.prior")
        return prior.restricted(whole.knobs, self.space.knobs)

    def _smaller_defaults(self) -> np.ndarray:
        """Scaled default candidates to start a front with, `int32[N, K]`."""
        if not (front := self.config.front):
            return np.zeros((0, len(self.space.knobs)), np.int32)
        assert self.default.costs is not None
        cost = self.default.costs[front]
        scaled = self._scaled_to([int(share * cost) for share in _SMALLER])
        scaled = scaled[self.front_costs(scaled) < cost] if len(scaled) else scaled
        return scaled[: self.config.search.per_round // 2]

    def scaled_default(self, costs: Sequence[int]) -> list[Candidate]:
        """The scaled default candidates whose costs are nearest to given ones.

        Args:
          costs: of the front, in no order.

        Returns:
          One for each cost, within the budget; each once, by descending cost, and without the
          default candidate itself.
        """
        return [self.candidate(vector) for vector in self._scaled_to(costs)]

    def _scaled_to(self, costs: Sequence[int]) -> np.ndarray:
        """See `scaled_default`: `int32[N, K]`."""
        assert self.default.vector is not None
        scaled = scaled_vectors(self.space, self.default.vector)
        scaled = scaled[self.budget_test()(scaled)] if len(scaled) else scaled
        if not len(scaled):  # none of its knobs can be scaled
            return scaled
        logs = np.log(self.front_costs(scaled))
        nearest = {int(np.abs(logs - np.log(cost)).argmin()) for cost in costs}
        return scaled[sorted(nearest, key=lambda i: -logs[i])]

    def pool_within(self, limits: Mapping[str, int], seed: int) -> np.ndarray:
        """Draws a pool within limits of costs by name: `int32[P, K]`; see `sobol_pool`."""
        names = self.costs.names
        budget = {names.index(name): limit for name, limit in limits.items()}
        shown = [f"{name} (ns)" if name in TIMES else name for name in names]
        size = self.config.search.pool_size
        return sobol_pool(
            self.space,
            size,
            self.costs,
            budget,
            (seed, POOL_STREAM),
            shown,
            prior=self.prior,
        )

    def front_costs(self, vectors: np.ndarray) -> np.ndarray:
        """The cost of the front, `int64[N]` of `int32[N, K]`."""
        return self.costs(vectors)[:, self.costs.names.index(self.config.front)]

    def budget_test(self) -> Callable[[Any], Any]:
        """Returns the test which of `int32[N, K]` satisfy the budget, NumPy or under `jit`."""
        return self.costs.within(self.config.budget.limits())

    @property
    def features(self) -> tuple[str, ...]:
        """The costs that the predictor sees."""
        names = ("flops", "params")
        return (*names, LATENCY) if self.config.front == LATENCY else names

    def cost_features(self) -> Callable[[Any], Any]:
        """The costs as features, `int32[N, K] -> float32[N, features]`, also under `jit`."""
        return standardised(self.costs.logs(self.features), self.space)

    def searcher(self) -> Searcher:
        """Returns both stages of the search, for this space and budget."""
        search, limits = self.config.search, self.config.budget.limits()
        front = self.config.front
        # A child that costs no more than its parent is within any limit.
        repaired = dict.fromkeys((*limits, *([front] if front else [])))
        return Searcher(
            self.space,
            self.config.candidates,
            search,
            self.config.predictor,
            costs=lambda vectors: self.costs(vectors)[:, :2],
            cost_features=self.cost_features(),
            feasible=self.budget_test(),
            repair=self.repair(tuple(repaired)),
            front=self.features.index(front) if front else None,
            limited=bool(front),
            quantile=_GOOD,
            first=len(distinct(self.enqueued)),
            prior=self.prior,
            foreign=self.foreign,
            rungs=[epochs / self.config.train.epochs for epochs in self.config.rung_epochs],
        )

    def repair(self, names: Sequence[str]) -> Callable[[Any, Any], Any] | None:
        """The repair of children over a budget of some costs; None: repair by bisection.

        Measured times rise and fall with a knob as they like, so `shrink` would return nearly all
        knobs of an architecture to the parent's values.
        """
        return self.costs.shrink(names) if names and LATENCY not in names else None

    def candidate(self, vector: np.ndarray) -> Candidate:
        """Decodes an index vector `int[K]`, and counts the candidate's costs."""
        return _counted(self.space.decode(vector), self.latency)

    def knobs(self, candidate: Candidate) -> dict[str, Value]:
        """The value of every knob of a candidate that this problem decoded."""
        assert candidate.vector is not None
        return self.space.values(candidate.vector)

    def over_budget(self, candidate: Candidate) -> list[str]:
        """Names of the costs of a candidate that are over the study's budget."""
        costs, limits = candidate.costs, self.config.budget.limits()
        assert costs is not None
        return [name for name, limit in limits.items() if costs[name] > limit]


def build_problem(config: Config, latency: LatencyTable | None = None) -> Problem:
    """Opens the dataset and builds space, costs and default candidate.

    Args:
      config: config of the study.
      latency: that the study began with; None: what is known of this device now, if the budget
        limits the latency.

    Raises:
      InputError: the dataset, space, default candidate or architecture file cannot be used, or the
        latencies of the space are not known.
    """
    dataset, space, default = open_space(config)
    if config.budget.latency or config.front == LATENCY:
        latency = latency or measured_latencies(space)
    problem = Problem(config, dataset, space, _counted(default, latency), latency)
    over = problem.over_budget(problem.default)
    if config.mode == "recipe" and over:
        name, costs, limits = over[0], problem.default.costs or {}, config.budget.limits()
        raise ConfigError(
            f"the fixed architecture costs {name} of {cost_in_words(name, costs[name])}, over the "
            f"budget of {cost_in_words(name, limits[name])}; raise or drop it with "
            f'--config.budget.{name}=""'
        )
    return problem


def open_space(config: Config) -> tuple[ImageDataset, JointSpace, Candidate]:
    """Opens the dataset; returns it, the space that is searched and the default candidate.

    Raises:
      InputError: as `build_problem`.
    """
    dataset = open_dataset(dataclasses.asdict(config.data))
    dataset.check_disjoint(config.data.train_split, config.data.test_split)
    if config.data.val_split:
        dataset.part(config.data.val_split, config.data.train_split)
    arch = None
    if config.arch_file:
        arch = _fixed_arch(config.arch_file, dataset, fits=bool(config.train.init))
    space, default = _restrict(config, dataset.image_shape[2], dataset.num_classes, arch)
    if not space.knobs:
        raise SpaceError(
            f"mode `{config.mode}` leaves no knob to search; give a knob of `space` "
            "more than one value"
        )
    if config.search.metric == "top5" and dataset.num_classes <= TOP:
        raise ConfigError(
            f"`config.search.metric` = `top5` needs more than {TOP} classes, `{dataset.name}` has "
            f"{dataset.num_classes}; any answer would be right"
        )
    _check_sizes(space, dataset)
    return dataset, space, default


def restore_problem(
    config: Config,
    arch: ArchSpec,
    latency: LatencyTable | None = None,
    measured: bool = False,
    earlier: tuple[ForeignStudy, ...] = (),
) -> Problem:
    """Builds the problem of a finished study again, without its dataset.

    Args:
      config: config of the study.
      arch: architecture of one of its candidates, with the images' channels and the classes; in
        mode `recipe` the fixed one.
      latency: that the study began with; None: its budget did not limit it.
      measured: whether latencies are wanted all the same.
      earlier: studies whose trials it learnt from.

    Raises:
      ConfigError: the latencies of the space are not known.
    """
    space, default = _restrict(config, arch.image_channels, arch.num_classes, arch)
    if measured:
        latency = latency or measured_latencies(space)
    return Problem(config, None, space, _counted(default, latency), latency, earlier)


def _counted(candidate: Candidate, latency: LatencyTable | None) -> Candidate:
    """A candidate with its costs; a latency in nanoseconds."""
    costs = dataclasses.asdict(count(candidate.arch))
    if latency:
        costs[LATENCY] = latency_of(candidate.arch, latency.times)
    return dataclasses.replace(candidate, costs=costs)


def _restrict(
    config: Config, image_channels: int, num_classes: int, arch: ArchSpec | None
) -> tuple[JointSpace, Candidate]:
    """The space that the mode leaves, and the default candidate; `arch` None is the default's."""
    space = JointSpace.from_config(config.space, image_channels, num_classes)
    default = space.decode(space.vector_from_values(config.default))
    if config.mode == "recipe":
        default = dataclasses.replace(default, arch=arch or default.arch)
        space = space.with_fixed_arch(default.arch)
    if config.mode == "arch":
        space = space.with_fixed_recipe(default.recipe)
    return space, dataclasses.replace(default, vector=space.encode(default))


def _fixed_arch(name: str, dataset: ImageDataset, *, fits: bool) -> ArchSpec:
    """The architecture of a file or of the zoo, with as many classes as the dataset has.

    With `fits` a file's may be for other channels and classes, as where weights are fine-tuned.
    """
    try:
        arch = zoo.find(name)
    except SpaceError as error:
        raise SpaceError(f"`config.arch_file`: {error}") from error
    if name in zoo.NAMES:
        arch = dataclasses.replace(arch, num_classes=dataset.num_classes)
    needed = (dataset.image_shape[2], dataset.num_classes)
    if fits:
        return dataclasses.replace(arch, image_channels=needed[0], num_classes=needed[1])
    if (arch.image_channels, arch.num_classes) != needed:
        raise SpaceError(
            f"`config.arch_file` = `{name}` has (image_channels, num_classes) = "
            f"{(arch.image_channels, arch.num_classes)}, `{dataset.name}` needs "
            f"{needed}"
        )
    return arch


def _check_sizes(space: JointSpace, dataset: ImageDataset) -> None:
    """The smallest image must survive the largest total stride."""

    def values(slot: str) -> tuple:
        source = space.arch_slots[slot]
        return source.values if isinstance(source, Knob) else (source,)

    stride = math.prod(max(values(s)) for s in space.arch_slots if s.endswith("_stride"))
    if (resolution := min(values("resolution"))) < stride:
        raise SpaceError(
            f"`resolution` must be at least the total stride {stride} of the largest "
            f"strides, got {resolution}; use fewer stages with stride 2"
        )
    if (side := min(dataset.image_shape[:2])) < stride:
        raise DataError(
            f"images of `{dataset.name}` are {side} pixels wide, less than the total "
            f"stride {stride} of the space; use fewer stages with stride 2 or load "
            "them larger with --config.data.image_size="
        )
