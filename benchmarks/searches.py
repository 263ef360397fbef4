"""How good the best candidate of a search is, after so many evaluations, on tables.

A search evaluates a candidate by looking it up: the mean of its runs, or one run at random
(`noisy`). Regret is the best score within the limit minus the mean score of the best candidate that
the search has evaluated; where it has evaluated all it can, regret stays.

What is free: costs, so a candidate over the limit is no evaluation, and a repeated candidate, which
is told the score it had. Optuna's samplers are told the limit as a constraint and also the score of
a candidate over it, as Optuna means it; so they learn more from it than the others, which see no
such scores. Ours alone uses costs as features; `ours-nocosts` does without.
"""

import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks.predictors import OURS, check_names
from benchmarks.tables import Table
from jointnas_jax.config import PredictorConfig, SearchConfig
from jointnas_jax.errors import DataError
from jointnas_jax.strategy.searcher import Searcher

AT = (20, 50, 100)
_POPULATION, _TOURNAMENT = 20, 5
# Free proposals for each evaluation before a search gives up, and repeated ones in a row: a sampler
# that has found its optimum may propose it for ever, and slower each time.
_PATIENCE, _STUCK = 30, 200


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
            if not self.allowed.any():
                raise DataError(
                    f"no candidate of `{table.name}` has {table.cost_names[0]} of at most "
                    f"{limit:,.0f}; the smallest has {table.costs[:, 0].min():,.0f}"
                )
        self._best = table.scores[self.allowed].max()

    def evaluate(self, vectors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Scores `float64[m]` of canonical vectors `int32[m, K]`."""
        rows = self.table.rows(vectors)
        if not self.noisy:
            return self.table.scores[rows]
        return self.table.one_run(rows, rng)

    def regret(self, vectors: np.ndarray, best: np.ndarray) -> list[float]:
        """At each of `AT`: of the candidate to take after so many evaluations, by its mean score.

        Args:
          vectors: `int32[E, K]`, evaluated in this order, at least one.
          best: `int[E]`, see `Found`.
        """
        true = self.table.scores[self.table.rows(vectors)]
        return [float(self._best - true[best[min(n, len(best)) - 1]]) for n in AT]


class Book:
    """What a peer has evaluated: a candidate that comes again is free and keeps its score.

    Attributes:
      task: the objective.
      vectors: evaluated, in order.
      scores: of them.
    """

    def __init__(self, task: Task, seed: int):
        self.task, self._rng = task, np.random.default_rng((seed, 1))
        self.vectors: list[np.ndarray] = []
        self.scores: list[float] = []
        self._known: dict[int, float] = {}
        self._left, self._repeats = _PATIENCE * max(AT), 0

    @property
    def full(self) -> bool:
        """Whether the evaluations, the candidates or the patience are used up."""
        wanted = min(max(AT), int(self.task.allowed.sum()))
        return len(self.vectors) >= wanted or self._left <= 0 or self._repeats >= _STUCK

    def look_up(self, vector: np.ndarray) -> float:
        """The score of a canonical `int32[K]`; an evaluation where it is new and allowed."""
        row = int(self.task.table.rows(vector[None])[0])
        new = row not in self._known
        self._repeats = 0 if new else self._repeats + 1
        if new:
            self._known[row] = float(self.task.evaluate(vector[None], self._rng)[0])
        if new and self.task.allowed[row]:
            self.vectors.append(vector)
            self.scores.append(self._known[row])
        else:
            self._left -= 1
        return self._known[row]

    def skip(self) -> None:
        """Counts a proposal that was dropped."""
        self._left -= 1

    def regret(self) -> list[float]:
        """See `Task.regret`; the candidate to take is the one that scored best.

        Raises:
          DataError: there is none.
        """
        if not self.scores:
            raise DataError(
                f"a search of `{self.task.table.name}` evaluated nothing: none of its "
                f"{_PATIENCE * max(AT)} proposals is within the limit {self.task.limit:,.0f}"
            )
        best = [int(np.argmax(self.scores[: n + 1])) for n in range(len(self.scores))]
        return self.task.regret(np.array(self.vectors), np.array(best))


Search = Callable[[Task, int], list[float]]


def ours(
    task: Task,
    predictor: PredictorConfig | None = None,
    costs: bool = True,
    measured: bool = False,
    **settings: Any,
) -> Search:
    """The project's search.

    Args:
      task: the objective.
      predictor: its settings.
      costs: whether the predictor knows them.
      measured: take the candidate that scored best, also where evaluations are noisy.
      **settings: of `SearchConfig`.
    """
    table, allowed = task.table, task.allowed
    searcher = Searcher(
        table.space,
        max(AT),
        SearchConfig(**{"pool_size": 1024, "per_round": 1} | settings),
        predictor,
        costs=(lambda v: table.costs[table.rows(v)].astype(np.int64)) if costs else None,
        cost_features=table.cost_features() if costs else None,
        feasible=(
            None
            if task.limit is None
            else lambda v: v.__array_namespace__().asarray(allowed)[table.rows(v)]
        ),
        noisy=task.noisy and not measured,
    )

    def run(task: Task, seed: int) -> list[float]:
        rng = np.random.default_rng(seed)
        found = searcher.run(lambda vectors: task.evaluate(vectors, rng), seed)
        return task.regret(found.state.vectors, np.array(found.best))

    return run


def random_search(task: Task, seed: int) -> list[float]:
    """Candidates within the limit, uniformly and without repetition."""
    book, rng = Book(task, seed), np.random.default_rng(seed)
    for row in rng.permutation(np.flatnonzero(task.allowed)):
        if book.full:
            break
        book.look_up(task.table.vectors[row])
    return book.regret()


def regularised_evolution(task: Task, seed: int) -> list[float]:
    """Aging evolution (Real et al., arXiv 1802.01548): population 20, tournaments of 5.

    A mutation gives a knob another value. Children over the limit are drawn again and not seen.
    """
    book, rng = Book(task, seed), np.random.default_rng(seed)
    space = task.table.space
    rows = rng.permutation(np.flatnonzero(task.allowed))[: min(_POPULATION, max(AT))]
    alive = [(book.look_up(v), v) for v in task.table.vectors[rows]]
    while not book.full:
        drawn = rng.choice(len(alive), min(_TOURNAMENT, len(alive)), replace=False)
        child = max((alive[i] for i in drawn), key=lambda member: member[0])[1].copy()
        knob = rng.integers(len(child))
        child[knob] += 1 + rng.integers(space.cardinalities[knob] - 1)
        child[knob] %= space.cardinalities[knob]
        child = space.canonical(child[None])[0]
        if task.allowed[task.table.rows(child[None])[0]]:
            alive = [*alive[1:], (book.look_up(child), child)]
        else:
            book.skip()
    return book.regret()


def optuna_search(sampler: str, task: Task, seed: int) -> list[float]:
    """One of Optuna's samplers, told of the limit as a constraint."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    makers = {
        "TPE": lambda: optuna.samplers.TPESampler(seed=seed, multivariate=True),
        "GP": lambda: optuna.samplers.GPSampler(seed=seed, deterministic_objective=not task.noisy),
        "NSGA-II": lambda: optuna.samplers.NSGAIISampler(seed=seed, population_size=_POPULATION),
    }
    study = optuna.create_study(direction="maximize", sampler=makers[sampler]())
    book, space = Book(task, seed), task.table.space
    while not book.full:
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
        if task.limit is not None:
            cost = task.table.costs[task.table.rows(vector[None])[0], 0]
            trial.set_constraint("excess", cost / task.limit - 1)
        study.tell(trial, book.look_up(vector))
    return book.regret()


MAKERS: dict[str, Callable[[Task], Search]] = {
    "ours": ours,
    "ours-default": lambda task: ours(task, pool_size=4096, per_round=8),
    "ours-nocosts": lambda task: ours(task, costs=False),
    "ours-measured": lambda task: ours(task, measured=True),
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
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Mean regret of searches, each as soon as it is there.

    Args:
      table: of measured candidates.
      limit: of its first cost, None for none.
      seeds: repetitions.
      noisy: an evaluation is one run instead of the mean of all.
      names: of the searches; none: all.

    Yields:
      For each search its name, and `regret: [at each of AT]` with its standard `error`.
    """
    check_names(names, MAKERS)
    task = Task(table, limit, noisy)
    for name in names or MAKERS:
        search = MAKERS[name](task)
        regrets = np.array([search(task, seed) for seed in range(seeds)])
        error = regrets.std(0) / np.sqrt(max(seeds - 1, 1))
        yield name, {"regret": regrets.mean(0).tolist(), "error": error.tolist()}
