"""How fast the evolution is, beside the predictor alone and other ways to search.

Everything runs on FBNetV3's joint space with the same predictors: networks with random weights on
the features of a candidate, since speed does not depend on what they learnt. All searches but
`evolution-free` keep a budget of FLOPs; the project's and the NumPy loop repair children over it.

Shapes: N candidates of K knobs, F features, C children of a generation.
"""

import functools
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jointnas_jax.config import EvolutionConfig, PredictorConfig
from jointnas_jax.nets.cost import CostTable
from jointnas_jax.predictor.predictor import Predictor
from jointnas_jax.space import JointSpace
from jointnas_jax.space.fbnetv3 import FBNETV3
from jointnas_jax.space.features import FeatureTable
from jointnas_jax.strategy.evolution import evolve

# Name -> networks of the predictor, widths of their hidden layers.
PREDICTORS = {"64x64": (1, (64, 64)), "8 of 64x64": (8, (64, 64)), "3x400": (1, (400, 400, 400))}
CONTESTANTS = ("evolution", "evolution-free", "predictor", "matmul", "numpy+torch", "pymoo")
_BUDGET = {"flops": 550_000_000}
_TRIALS = 200
# Odd numbers, for the NumPy loop's fingerprints.
_FACTORS = np.random.default_rng(0).integers(1, 2**62, 256) | 1

Weights = list[list[np.ndarray]]


class Task:
    """The space, and the sizes of a generation.

    Attributes:
      space: FBNetV3's.
      features: of its candidates.
      costs: of its candidates.
      feasible, repair: the budget, NumPy or under `jit`.
      config: of the evolution; it never saturates.
      parents: `int32[Q, K]`, within the budget.
    """

    def __init__(self, population: int, children_per_parent: int, generations: int):
        self.space = JointSpace.from_config(FBNETV3, image_channels=3, num_classes=1000)
        self.features = FeatureTable.of(self.space)
        self.config = EvolutionConfig(
            population=population,
            children_per_parent=children_per_parent,
            generations=generations,
            patience=generations,
        )
        self.costs = CostTable.of(self.space)
        self.feasible, self.repair = self.costs.within(_BUDGET), self.costs.shrink(tuple(_BUDGET))
        # One candidate in 25 is within the budget.
        sample = self.space.sample(np.random.default_rng(0), 2000 + 50 * population)
        self.parents = sample[self.feasible(sample)][:population]

    @property
    def children(self) -> int:
        """C."""
        return self.config.population * self.config.children_per_parent

    def weights(self, members: int, hidden: Sequence[int]) -> Weights:
        """Kernels `float32[in, out]` of each member."""
        rng = np.random.default_rng(1)
        sizes = [len(self.features.groups), *hidden, 1]
        kernel = lambda a, b: rng.normal(size=(a, b), scale=(2 / a) ** 0.5).astype(np.float32)
        return [[kernel(a, b) for a, b in itertools.pairwise(sizes)] for _ in range(members)]


def mlp(features: jax.Array, weights: Weights) -> jax.Array:
    """Mean of the networks, `float32[N]`, of features `float32[N, F]`."""
    outputs = []
    for kernels in weights:
        x = features
        for kernel in kernels[:-1]:
            x = jax.nn.relu(x @ kernel)
        outputs.append((x @ kernels[-1])[:, 0])
    return sum(outputs) / len(outputs)


def score_of(task: Task, weights: Weights) -> Callable[[jax.Array], jax.Array]:
    """The predictor as a function of vectors."""
    return lambda vectors: mlp(jnp.concatenate(task.features(vectors), -1), weights)


def evolution(task: Task, weights: Weights, budget: bool = True) -> Callable[[], int]:
    """The project's; returns the number of children."""
    run = jax.jit(
        lambda start, key: evolve(
            start,
            key,
            score_of(task, weights),
            feasible=task.feasible if budget else None,
            canonical=task.space.canonical,
            cardinalities=task.space.cardinalities,
            config=task.config,
            repair=task.repair,
        )
    )
    return lambda: int(jax.block_until_ready(run(task.parents, jax.random.key(0))).children)


def predictor_alone(task: Task, weights: Weights) -> Callable[[], int]:
    """Scores of as many children, in batches of a generation: the limit of any search."""
    run = jax.jit(score_of(task, weights))
    batch = jnp.asarray(task.space.sample(np.random.default_rng(2), task.children))
    return lambda: _repeat(lambda: run(batch), task)


def matmul(task: Task, weights: Weights) -> Callable[[], int]:
    """The matrix products of the predictor alone, on features that are there already."""
    run = jax.jit(lambda features: [_products(features, kernels) for kernels in weights])
    batch = task.space.sample(np.random.default_rng(2), task.children)
    features = jnp.concatenate([jnp.asarray(part) for part in task.features(batch)], -1)
    return lambda: _repeat(lambda: run(features), task)


def _products(x: jax.Array, kernels: list[np.ndarray]) -> jax.Array:
    for kernel in kernels:
        x = x @ kernel
    return x


def _repeat(call: Callable[[], Any], task: Task) -> int:
    for _ in range(task.config.generations):
        result = call()
    jax.block_until_ready(result)
    return task.config.generations * task.children


def numpy_torch(task: Task, weights: Weights) -> Callable[[], int]:
    """The same generations as array operations of NumPy, with the predictor in PyTorch."""
    import torch

    kernels = [[torch.from_numpy(kernel) for kernel in member] for member in weights]
    cards, size = task.space.cardinalities, len(task.parents)
    litters = task.config.children_per_parent

    @torch.no_grad()
    def score(vectors: np.ndarray) -> np.ndarray:
        features = torch.from_numpy(np.concatenate(task.features(vectors), -1))
        outputs = []
        for member in kernels:
            x = features
            for kernel in member[:-1]:
                x = torch.relu(x @ kernel)
            outputs.append(x @ member[-1])
        return torch.stack(outputs).mean(0)[:, 0].numpy()

    def run() -> int:
        rng = np.random.default_rng(0)
        population, scores = task.parents, score(task.parents)
        rank = np.tile(np.linspace(0, 1, size, dtype=np.float32), litters)[:, None]
        cross, mutate = (
            a + (b - a) * rank for a, b in (task.config.crossover, task.config.mutation)
        )
        for _ in range(task.config.generations):
            shape = (task.children, len(cards))
            partners = population[rng.integers(size, size=len(rank))]
            genes = np.where(
                rng.random(shape, np.float32) < cross, partners, np.tile(population, (litters, 1))
            )
            mutated = rng.random(shape, np.float32) < mutate
            mutated[np.arange(len(genes)), rng.integers(shape[1], size=len(genes))] = True
            jump = 1 + rng.integers(np.maximum(cards - 1, 1), size=shape, dtype=np.int32)
            genes = np.where(mutated, (genes + jump) % cards, genes)
            over = np.flatnonzero(~task.feasible(genes))
            genes[over] = task.repair(genes[over], population[over % size])
            merged = np.concatenate([population, genes])
            _, first = np.unique(merged @ _FACTORS[: len(cards)], return_index=True)
            found = np.concatenate([scores, score(genes)])
            kept = first[np.argpartition(-found[first], size)[:size]]
            kept = kept[np.argsort(-found[kept])]
            population, scores = merged[kept], found[kept]
        return task.config.generations * task.children

    return run


def pymoo(task: Task, weights: Weights) -> Callable[[], int]:
    """pymoo's genetic algorithm, with the predictor under `jit`.

    As many children as parents: its search for duplicates takes longer than the predictor, and the
    square of them.
    """
    from pymoo.algorithms.soo.nonconvex.ga import GA
    from pymoo.core.problem import Problem
    from pymoo.operators.crossover.ux import UX
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.repair.rounding import RoundingRepair
    from pymoo.operators.sampling.rnd import IntegerRandomSampling
    from pymoo.optimize import minimize

    score = jax.jit(score_of(task, weights))
    evaluated = 0

    class Searched(Problem):
        def _evaluate(self, x: np.ndarray, out: dict, *args: Any, **kwargs: Any) -> None:
            nonlocal evaluated
            evaluated += len(x)
            vectors = x.astype(np.int32)
            out["F"] = -np.asarray(score(vectors))[:, None]
            out["G"] = task.costs(vectors)[:, :1] / _BUDGET["flops"] - 1.0

    cards = task.space.cardinalities
    problem = Searched(n_var=len(cards), n_obj=1, n_ieq_constr=1, xl=0, xu=cards - 1, vtype=int)

    def run() -> int:
        nonlocal evaluated
        evaluated = 0
        algorithm = GA(
            pop_size=task.config.population,
            sampling=IntegerRandomSampling(),
            crossover=UX(repair=RoundingRepair()),
            mutation=PM(repair=RoundingRepair(), vtype=float),
        )
        minimize(problem, algorithm, ("n_gen", 5), seed=0, verbose=False)
        return evaluated

    return run


MAKERS = {
    "evolution": evolution,
    "evolution-free": functools.partial(evolution, budget=False),
    "predictor": predictor_alone,
    "matmul": matmul,
    "numpy+torch": numpy_torch,
    "pymoo": pymoo,
}


def compare(task: Task, repeats: int, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Measures children per second, warm; the contestants take turns, and medians count.

    Returns:
      Predictor -> contestant -> children per second, and `share`, of the predictor alone.
    """
    report = {}
    for predictor, (members, hidden) in PREDICTORS.items():
        weights = task.weights(members, hidden)
        runs = {name: MAKERS[name](task, weights) for name in names}
        rates = {name: [] for name in names}
        for turn in range(repeats + 1):
            for name, run in runs.items():
                begin = time.perf_counter()
                count = run()
                if turn:  # the first one compiles
                    rates[name].append(count / (time.perf_counter() - begin))
        report[predictor] = {name: statistics.median(rate) for name, rate in rates.items()}
    return report


def fine_stage(task: Task, population: int, repeats: int) -> dict[str, Any]:
    """Times a fine stage of the default predictor under a budget of FLOPs, to saturation.

    Returns:
      `seconds` (median, warm), `generations`, `children`, `duplicates`, `pretrain_seconds` of
      20,000 architectures, `fit_seconds` of 200 trials.
    """
    space, costs = task.space, task.costs
    config = PredictorConfig()
    logs = costs.logs(("flops", "params"))
    predictor = Predictor(task.features, config, _TRIALS, lambda v: logs(v) - 18.0)
    rng = np.random.default_rng(0)
    sample = space.sample(rng, 20_000)
    pretrain = lambda: predictor.pretrain(sample, costs(sample)[:, :2], jax.random.key(0))
    pretrained, pretrain_seconds = _median_time(pretrain, 1)
    trials = sample[:_TRIALS]
    # Larger is better, with diminishing returns, and the recipe matters.
    scores = (
        np.log(costs(trials)[:, 0]) + 0.02 * trials[:, -7:].sum(1) + 0.1 * rng.normal(size=_TRIALS)
    )
    fit = lambda: predictor.fit(pretrained, trials, scores, jax.random.key(1))
    fitted, fit_seconds = _median_time(fit, repeats)
    search = jax.jit(
        lambda start, key, state: evolve(
            start,
            key,
            predictor.score_fn(state),
            feasible=task.feasible,
            canonical=space.canonical,
            cardinalities=space.cardinalities,
            config=EvolutionConfig(population=population),
            repair=task.repair,
        )
    )
    start = sample[task.feasible(sample)][:population]
    found, seconds = _median_time(lambda: search(start, jax.random.key(2), fitted), repeats)
    return {
        "seconds": seconds,
        "generations": int(found.generations),
        "children": int(found.children),
        "duplicates": int(found.duplicates),
        "pretrain_seconds": pretrain_seconds,
        "fit_seconds": fit_seconds,
    }


def costs_per_second(task: Task, repeats: int) -> float:
    """Exact FLOPs and params of a million candidates on the device, per second."""
    run = jax.jit(task.costs.limbs(("flops", "params")))
    batch = jnp.asarray(task.space.sample(np.random.default_rng(3), 1_000_000))
    return len(batch) / _median_time(lambda: run(batch), repeats)[1]


def _median_time(call: Callable[[], Any], repeats: int) -> tuple[Any, float]:
    """The result, and the median of the seconds, without those of the first, which compiles."""
    seconds = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        result = jax.block_until_ready(call())
        seconds.append(time.perf_counter() - begin)
    return result, statistics.median(seconds[1:])
