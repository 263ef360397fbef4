"""How good the best candidate of a search is, after so many evaluations, on tables.

A search evaluates a candidate by looking it up: the mean of its runs, or one run at random
(`noisy`). Regret is the best score within the limit minus the mean score of the best candidate that
the search has evaluated. Costs are free, so candidates over the limit cost no evaluation.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jointnas_jax.bench.predictors import OURS, check_names
from jointnas_jax.bench.tables import Table
from jointnas_jax.config import PredictorConfig, SearchConfig
from jointnas_jax.study.searcher import Searcher

AT = (20, 50, 100)
# Without noise the Gaussian process chooses, and the networks, which would take most of the time,
# nothing: they are not trained. The candidates are the same (a test).
CHOOSER = PredictorConfig(
    members=1, pretrain_samples=2, pretrain_epochs=0, frozen_epochs=0, full_epochs=0
)
_OPTUNA_POPULATION = 20
# Free proposals over the limit, for each evaluation, before a search gives up.
_PATIENCE = 200


class Task:
    """A table as an objective, with a limit on its first cost.

    Attributes:
      table: of candidates.
      allowed: `bool[N]`, rows within the limit.
      noisy: whether an evaluation is one run instead of the mean of all.
    """

    def __init__(self, table: Table, limit: float | None, noisy: bool):
        self.table, self.limit, self.noisy = table, limit, noisy
        self.allowed = np.ones(len(table.vectors), bool)
        if limit is not None:
            self.allowed = table.costs[:, 0] <= limit
        self._best = table.scores[self.allowed].max()

    def evaluate(self, vectors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Scores `float64[m]` of canonical vectors `int32[m, K]`."""
        rows = self.table.rows(vectors)
        if not self.noisy:
            return self.table.scores[rows]
        runs = self.table.runs
        return runs[rows, rng.integers(runs.shape[1], size=len(rows))]

    def regret(self, vectors: np.ndarray, best: np.ndarray) -> list[float]:
        """At each of `AT`: of the candidate to take after so many evaluations, by its mean score.

        Args:
          vectors: `int32[E, K]`, evaluated in this order.
          best: `int[E]`, see `Found`.
        """
        true = self.table.scores[self.table.rows(vectors)]
        return [float(self._best - true[best[n - 1]]) for n in AT]


Search = Callable[[Task, int], list[float]]


def ours(task: Task, predictor: PredictorConfig | None = None, **settings: Any) -> Search:
    """The project's search, with settings of predictor and `SearchConfig`."""
    if predictor is None and not task.noisy and "propose" not in settings:
        predictor = CHOOSER
    table = task.table
    allowed = task.allowed
    searcher = Searcher(
        table.space,
        max(AT),
        SearchConfig(pool_size=1024, per_round=1, **settings),
        predictor,
        costs=lambda vectors: table.costs[table.rows(vectors)].astype(np.int64),
        cost_features=table.cost_features(),
        budget={0: int(task.limit)} if task.limit is not None else None,
        feasible=lambda v: v.__array_namespace__().asarray(allowed)[table.rows(v)],
        noisy=task.noisy,
    )

    def run(task: Task, seed: int) -> list[float]:
        rng = np.random.default_rng(seed)
        found = searcher.run(lambda vectors: task.evaluate(vectors, rng), seed)
        return task.regret(found.vectors, found.best)

    return run


def _measured_best(scores: Sequence[float]) -> np.ndarray:
    """The position of the best score so far, `int[E]`."""
    return np.array([np.argmax(scores[: n + 1]) for n in range(len(scores))])


def random_search(task: Task, seed: int) -> list[float]:
    """Candidates within the limit, uniformly and without repetition."""
    rng = np.random.default_rng(seed)
    vectors = task.table.vectors[rng.permutation(np.flatnonzero(task.allowed))[: max(AT)]]
    return task.regret(vectors, _measured_best(task.evaluate(vectors, rng)))


def regularised_evolution(task: Task, seed: int) -> list[float]:
    """Aging evolution (Real et al., arXiv 1802.01548): population 20, tournaments of 5."""
    rng = np.random.default_rng(seed)
    space = task.table.space
    rows = rng.permutation(np.flatnonzero(task.allowed))[:20]
    vectors = [*task.table.vectors[rows]]
    scores = [*task.evaluate(np.array(vectors), rng)]
    while len(vectors) < max(AT):
        alive = np.arange(len(vectors) - 20, len(vectors))
        parent = max(rng.choice(alive, 5, replace=False), key=lambda i: scores[i])
        while True:
            child = vectors[parent].copy()
            knob = rng.integers(len(child))
            child[knob] = rng.integers(space.cardinalities[knob])
            child = space.canonical(child[None])[0]
            if task.allowed[task.table.rows(child[None])[0]]:
                break
        vectors.append(child)
        scores.append(task.evaluate(child[None], rng)[0])
    return task.regret(np.array(vectors), _measured_best(scores))


def optuna_search(sampler: str, task: Task, seed: int) -> list[float]:
    """One of Optuna's samplers, told of the limit as a constraint."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    excess = lambda trial: (trial.user_attrs["excess"],)
    constrained = {} if task.limit is None else {"constraints_func": excess}
    makers = {
        "TPE": lambda: optuna.samplers.TPESampler(seed=seed, multivariate=True, **constrained),
        "GP": lambda: optuna.samplers.GPSampler(seed=seed, **constrained),
        "NSGA-II": lambda: optuna.samplers.NSGAIISampler(
            seed=seed, population_size=_OPTUNA_POPULATION, **constrained
        ),
    }
    study = optuna.create_study(direction="maximize", sampler=makers[sampler]())
    rng, space = np.random.default_rng(seed), task.table.space
    vectors, scores, free = [], [], 0
    while len(vectors) < max(AT) and free < _PATIENCE * max(AT):
        trial = study.ask()
        vector = np.array(
            [
                trial.suggest_int(knob.name, 0, len(knob.values) - 1)
                if knob.ordinal
                else trial.suggest_categorical(knob.name, list(range(len(knob.values))))
                for knob in space.knobs
            ],
            np.int32,
        )
        vector = space.canonical(vector[None])[0]
        row = task.table.rows(vector[None])[0]
        if task.limit is not None:
            trial.set_user_attr("excess", float(task.table.costs[row, 0] / task.limit - 1))
        if task.allowed[row]:
            vectors.append(vector)
            scores.append(task.evaluate(vector[None], rng)[0])
            study.tell(trial, scores[-1])
        else:
            free += 1
            study.tell(trial, float(task.table.scores.min()))
    return task.regret(np.array(vectors), _measured_best(scores))


MAKERS: dict[str, Callable[[Task], Search]] = {
    "ours": ours,
    "ours-pool": lambda task: ours(task, propose="pool"),
    "paper": lambda task: ours(task, OURS["paper"], propose="pool"),
    "random": lambda task: random_search,
    "evolution": lambda task: regularised_evolution,
    "optuna-tpe": lambda task: functools.partial(optuna_search, "TPE"),
    "optuna-gp": lambda task: functools.partial(optuna_search, "GP"),
    "optuna-nsga2": lambda task: functools.partial(optuna_search, "NSGA-II"),
}


def compare(
    table: Table, limit: float | None, seeds: int, noisy: bool, names: Sequence[str] = ()
) -> dict[str, Any]:
    """Mean regret of searches.

    Args:
      table: of measured candidates.
      limit: of its first cost, None for none.
      seeds: repetitions.
      noisy: an evaluation is one run instead of the mean of all.
      names: of the searches; none: all.

    Returns:
      For each search by name `regret: [at each of AT]` and its standard `error`.
    """
    check_names(names, MAKERS)
    task, results = Task(table, limit, noisy), {}
    for name in names or MAKERS:
        search = MAKERS[name](task)
        regrets = np.array([search(task, seed) for seed in range(seeds)])
        error = regrets.std(0) / np.sqrt(max(seeds - 1, 1))
        results[name] = {"regret": regrets.mean(0).tolist(), "error": error.tolist()}
    return results
