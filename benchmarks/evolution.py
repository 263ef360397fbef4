"""How fast the evolution is, beside the predictor alone and other ways to search.

python -m benchmarks.evolution --out=r.json

Everything runs on FBNetV3's joint space with the same predictors: networks with random weights on
the features of a candidate, since speed does not depend on what they learnt. All searches but
`evolution-free` keep a budget of FLOPs; the project's and the NumPy loop repair children over it.
PyTorch and pymoo are in the extra `bench`.

Shapes: N candidates of K knobs, F features, C children of a generation.
"""

import dataclasses
import functools
import importlib.util
import itertools
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from jointnas_jax.command_line import parse_flags, run_measurement, text_table
from jointnas_jax.config import EvolutionConfig, PredictorConfig
from jointnas_jax.errors import ConfigError, nearest
from jointnas_jax.nets.cost import CostTable
from jointnas_jax.predictor.predictor import Fitted, Predictor
from jointnas_jax.space import JointSpace
from jointnas_jax.space.fbnetv3 import FBNETV3
from jointnas_jax.space.features import FeatureTable
from jointnas_jax.strategy.evolution import Evolution, evolve

# Name -> networks of the predictor, widths of their hidden layers.
PREDICTORS = {"64x64": (1, (64, 64)), "8 of 64x64": (8, (64, 64)), "3x400": (1, (400, 400, 400))}
_BUDGET = {"flops": 550_000_000}
_TRIALS = 200
# Odd numbers, for the NumPy loop's fingerprints.
_FACTORS = np.random.default_rng(0).integers(1, 2**62, 256) | 1
# Packages that contestants need.
_NEEDS = {"numpy+torch": "torch", "pymoo": "pymoo"}

Weights = list[list[np.ndarray]]
Score = Callable[[jax.Array], jax.Array]


class Setting:
    """FBNetV3's space, the budget, and the sizes of a generation.

    Attributes:
      feasible, repair: the budget, NumPy or under `jit`.
      config: an evolution that never saturates.
      parents: `int32[Q, K]`, within the budget.
      children: C.
    """

    def __init__(self, population: int, children_per_parent: int, generations: int):
        self.space = JointSpace.from_config(FBNETV3, image_channels=3, num_classes=1000)
        self.features = FeatureTable.of(self.space)
        self.costs = CostTable.of(self.space)
        self.feasible = self.costs.within(_BUDGET)
        self.repair = self.costs.shrink(tuple(_BUDGET))
        sizes = EvolutionConfig(population=population, children_per_parent=children_per_parent)
        self.config = dataclasses.replace(sizes, generations=generations, patience=generations)
        # One candidate in 25 is within the budget.
        sample = self.space.sample(np.random.default_rng(0), 2000 + 50 * population)
        self.parents = sample[self.feasible(sample)][:population]
        self.children = population * children_per_parent

    def weights(self, members: int, hidden: Sequence[int]) -> Weights:
        """Kernels `float32[in, out]` of each member."""
        rng = np.random.default_rng(1)
        sizes = [len(self.features.groups), *hidden, 1]
        kernel = lambda a, b: rng.normal(size=(a, b), scale=(2 / a) ** 0.5).astype(np.float32)
        return [[kernel(a, b) for a, b in itertools.pairwise(sizes)] for _ in range(members)]

    def evolution(
        self, score: Score, config: EvolutionConfig, budget: bool = True
    ) -> Callable[..., Evolution]:
        """The project's evolution as a function of start `int32[N, K]` and key, for `jit`."""
        return functools.partial(
            evolve,
            score=score,
            feasible=self.feasible if budget else None,
            canonical=self.space.canonical,
            cardinalities=self.space.cardinalities,
            config=config,
            repair=self.repair,
        )


def mlp(features: Any, weights: Sequence[Sequence[Any]], relu: Callable[[Any], Any]) -> Any:
    """Mean of the networks, `float32[N]`, of features `float32[N, F]`, in JAX or PyTorch."""
    outputs = []
    for *kernels, last in weights:
        x = features
        for kernel in kernels:
            x = relu(x @ kernel)
        outputs.append((x @ last)[:, 0])
    return sum(outputs[1:], start=outputs[0]) / len(outputs)


def score_of(setting: Setting, weights: Weights) -> Score:
    """The predictor as a function of vectors."""
    return lambda v: mlp(jnp.concatenate(setting.features(v), -1), weights, jax.nn.relu)


def evolution(setting: Setting, weights: Weights, budget: bool = True) -> Callable[[], int]:
    """The project's; returns the number of children."""
    run = jax.jit(setting.evolution(score_of(setting, weights), setting.config, budget))
    return lambda: int(jax.block_until_ready(run(setting.parents, jax.random.key(0))).children)


def predictor_alone(setting: Setting, weights: Weights) -> Callable[[], int]:
    """Scores of as many children, in batches of a generation: the limit of any search."""
    batch = jnp.asarray(setting.space.sample(np.random.default_rng(2), setting.children))
    return _repeated(jax.jit(score_of(setting, weights)), batch, setting)


def matmul(setting: Setting, weights: Weights) -> Callable[[], int]:
    """The matrix products of the predictor alone, on features that are there already."""
    batch = setting.space.sample(np.random.default_rng(2), setting.children)
    features = jnp.concatenate([jnp.asarray(part) for part in setting.features(batch)], -1)
    run = jax.jit(lambda features: mlp(features, weights, relu=lambda x: x))
    return _repeated(run, features, setting)


def _repeated(run: Score, batch: jax.Array, setting: Setting) -> Callable[[], int]:
    def call() -> int:
        for _ in range(setting.config.generations):
            result = run(batch)
        jax.block_until_ready(result)
        return setting.config.generations * setting.children

    return call


def numpy_torch(setting: Setting, weights: Weights) -> Callable[[], int]:
    """The same generations as array operations of NumPy, with the predictor in PyTorch."""
    import torch

    kernels = [[torch.from_numpy(kernel) for kernel in member] for member in weights]
    cards, size = setting.space.cardinalities, len(setting.parents)
    litters = setting.config.children_per_parent

    @torch.no_grad()
    def score(vectors: np.ndarray) -> np.ndarray:
        features = torch.from_numpy(np.concatenate(setting.features(vectors), -1))
        return mlp(features, kernels, torch.relu).numpy()

    def run() -> int:
        rng = np.random.default_rng(0)
        population = setting.parents
        scores = score(population)
        rank = np.tile(np.linspace(0, 1, size, dtype=np.float32), litters)[:, None]
        cross, mutate = (
            a + (b - a) * rank for a, b in (setting.config.crossover, setting.config.mutation)
        )
        for _ in range(setting.config.generations):
            shape = (setting.children, len(cards))
            partners = population[rng.integers(size, size=len(rank))]
            genes = np.where(
                rng.random(shape, np.float32) < cross, partners, np.tile(population, (litters, 1))
            )
            mutated = rng.random(shape, np.float32) < mutate
            mutated[np.arange(len(genes)), rng.integers(shape[1], size=len(genes))] = True
            jump = 1 + rng.integers(np.maximum(cards - 1, 1), size=shape, dtype=np.int32)
            genes = np.where(mutated, (genes + jump) % cards, genes)
            over = np.flatnonzero(~setting.feasible(genes))
            genes[over] = setting.repair(genes[over], population[over % size])
            merged = np.concatenate([population, genes])
            _, first = np.unique(merged @ _FACTORS[: len(cards)], return_index=True)
            marks = np.concatenate([scores, score(genes)])
            best = first[np.argpartition(-marks[first], size)[:size]]
            best = best[np.argsort(-marks[best])]
            population, scores = merged[best], marks[best]
        return setting.config.generations * setting.children

    return run


def pymoo(setting: Setting, weights: Weights) -> Callable[[], int]:
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

    score = jax.jit(score_of(setting, weights))
    evaluated = 0

    class Searched(Problem):
        def _evaluate(self, x: np.ndarray, out: dict, *args: Any, **kwargs: Any) -> None:
            nonlocal evaluated
            evaluated += len(x)
            vectors = x.astype(np.int32)
            out["F"] = -np.asarray(score(vectors))[:, None]
            out["G"] = setting.costs(vectors)[:, :1] / _BUDGET["flops"] - 1.0

    cards = setting.space.cardinalities
    problem = Searched(n_var=len(cards), n_obj=1, n_ieq_constr=1, xl=0, xu=cards - 1, vtype=int)

    def run() -> int:
        nonlocal evaluated
        evaluated = 0
        algorithm = GA(
            pop_size=setting.config.population,
            sampling=IntegerRandomSampling(),
            crossover=UX(repair=RoundingRepair()),
            mutation=PM(repair=RoundingRepair(), vtype=float),
        )
        minimize(problem, algorithm, ("n_gen", 5), seed=0, verbose=False)
        return evaluated

    return run


MAKERS: Mapping[str, Callable[[Setting, Weights], Callable[[], int]]] = {
    "evolution": evolution,
    "evolution-free": functools.partial(evolution, budget=False),
    "predictor": predictor_alone,
    "matmul": matmul,
    "numpy+torch": numpy_torch,
    "pymoo": pymoo,
}


def compare(setting: Setting, repeats: int, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Children per second, warm, by predictor and contestant: medians, in turns."""
    report = {}
    for predictor, (members, hidden) in PREDICTORS.items():
        weights = setting.weights(members, hidden)
        runs = {name: MAKERS[name](setting, weights) for name in names}
        rates: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(repeats + 1):
            for name, run in runs.items():
                begin = time.perf_counter()
                count = run()
                if turn:  # the first one compiles
                    rates[name].append(count / (time.perf_counter() - begin))
        report[predictor] = {name: statistics.median(rate) for name, rate in rates.items()}
    return report


def fine_stage(setting: Setting, repeats: int) -> dict[str, Any]:
    """Times a fine stage of the default predictor under a budget of FLOPs, to saturation."""
    logs = setting.costs.logs(("flops", "params"))
    cost_features = lambda vectors: logs(vectors) - 18.0
    predictor = Predictor(
        setting.features, PredictorConfig(), capacity=_TRIALS, costs=cost_features
    )
    rng = np.random.default_rng(0)
    sample = setting.space.sample(rng, 20_000)
    costs = setting.costs(sample)[:, :2]
    pretrain = lambda: predictor.pretrain(sample, costs, jax.random.key(0))
    pretrained, pretrain_seconds = _median_time(pretrain, 1)
    trials = sample[:_TRIALS]
    # Larger is better, with diminishing returns, and the recipe matters.
    noise = 0.1 * rng.normal(size=_TRIALS)
    scores = np.log(costs[:_TRIALS, 0]) + 0.02 * trials[:, -7:].sum(1) + noise
    fit = lambda: predictor.fit(pretrained, trials, scores, key=jax.random.key(1))
    fitted, fit_seconds = _median_time(fit, repeats)
    config = EvolutionConfig(population=setting.config.population)
    start = sample[setting.feasible(sample)][: config.population]

    @jax.jit
    def search(start: np.ndarray, key: jax.Array, state: Fitted) -> Evolution:
        return setting.evolution(predictor.score_fn(state), config)(start, key)

    result, seconds = _median_time(lambda: search(start, jax.random.key(2), fitted), repeats)
    return {
        "seconds": seconds,
        "generations": int(result.generations),
        "children": int(result.children),
        "duplicates": int(result.duplicates),
        "pretrain_seconds": pretrain_seconds,
        "fit_seconds": fit_seconds,
    }


def costs_per_second(setting: Setting, repeats: int) -> float:
    """Exact FLOPs and params of a million candidates on the device, per second."""
    run = jax.jit(setting.costs.limbs(("flops", "params")))
    batch = jnp.asarray(setting.space.sample(np.random.default_rng(3), 1_000_000))
    return len(batch) / _median_time(lambda: run(batch), repeats)[1]


def _median_time(call: Callable[[], Any], repeats: int) -> tuple[Any, float]:
    """The result, and the median of the seconds, without those of the first, which compiles."""
    seconds = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        result = jax.block_until_ready(call())
        seconds.append(time.perf_counter() - begin)
    return result, statistics.median(seconds[1:])


def main(argv: list[str]) -> dict[str, Any]:
    """Runs the comparison; returns the report."""
    values = flags.FLAGS
    parse_flags(argv, values)
    for name in values.contestants:
        if name not in MAKERS:
            raise ConfigError(f"there is no contestant `{name}`{nearest(name, MAKERS)}")
    missing = {name for name, p in _NEEDS.items() if importlib.util.find_spec(p) is None}
    names = [name for name in values.contestants if name not in missing]
    for name in missing.intersection(values.contestants):
        print(f"{_NEEDS[name]} is not installed (pip install -e '.[bench]'): left out.")
    setting = Setting(values.population, values.children_per_parent, values.generations)
    rates = compare(setting, values.repeats, names)
    print(f"children per second; generations of {setting.children:,}; {os.cpu_count()} cores")
    layout = {"": "{predictor}"} | {name: f"{{{name}:,.0f}}" for name in names}
    print(text_table([{**row, "predictor": who} for who, row in rates.items()], layout))
    fine = fine_stage(setting, values.repeats)
    print(
        f"fine stage of {values.population:,}, to saturation: {fine['seconds']:.2f} s, "
        f"{fine['generations']} generations, {fine['children']:,} children, "
        f"{fine['duplicates']:,} of them duplicates\n"
        f"pretraining on 20,000 architectures {fine['pretrain_seconds']:.2f} s, "
        f"fit to 200 trials {fine['fit_seconds']:.2f} s"
    )
    costs = costs_per_second(setting, values.repeats)
    print(f"exact FLOPs and params: {costs:,.0f} candidates per second")
    return {"children_per_second": rates, "fine_stage": fine, "costs_per_second": costs}


if __name__ == "__main__":
    flags.DEFINE_integer("population", 1000, "Survivors of a generation.", 2)
    flags.DEFINE_integer("children_per_parent", 16, "Children of each.", 1)
    flags.DEFINE_integer("generations", 20, "Generations of a measurement.", 1)
    flags.DEFINE_integer("repeats", 5, "Repetitions; medians count.", 1)
    flags.DEFINE_list("contestants", list(MAKERS), "Who takes part.")
    sys.exit(run_measurement(__doc__, main))
