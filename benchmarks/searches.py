"""How good the best candidate of a search is, after so many evaluations, on tables.

A search evaluates a candidate by looking it up: the mean of its runs, or one run at random
(`noisy`). Regret is the best score within the limit minus the mean score of the best candidate that
the search has evaluated; where it has evaluated all it can, regret stays.

What is free: costs, so a candidate over the limit is no evaluation, and a repeated candidate, which
keeps its score. Optuna's samplers get the limit as a constraint and also the score of a candidate
over it, as Optuna means it; so they learn more from it than the others, which see no such scores.
Ours alone uses costs as features; `ours-nocosts` does without.
"""

import functools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.predictors import OURS, check_names, standard_error
from benchmarks.tables import NAMES, Table, load
from jointnas_jax.config import PredictorConfig, SearchConfig
from jointnas_jax.errors import DataError
from jointnas_jax.space.prior import Prior
from jointnas_jax.space.vectors import VectorSpace
from jointnas_jax.strategy.foreign import Foreign
from jointnas_jax.strategy.searcher import Searcher

AT = (20, 50, 100)
_POPULATION, _TOURNAMENT = 20, 5
# Free proposals for each evaluation before a search gives up, and repeated ones in a row: a sampler
# at its optimum may propose it for ever, and slower each time.
_PATIENCE, _STUCK = 30, 200


class Objective:
    """A table as an objective, with a limit on its first cost.

    Attributes:
      allowed: `bool[N]`, rows within the limit.
    """

    def __init__(self, table: Table, limit: float | None, noisy: bool):
        """`noisy`: an evaluation is one run instead of the mean of all."""
        self.table = table
        self.limit = limit
        self.noisy = noisy
        self.allowed = np.ones(len(table.vectors), bool)
        if limit is not None:
            self.allowed = table.costs[:, 0] <= limit
            if not self.allowed.any():
                raise DataError(
                    f"no candidate of `{table.name}` has {table.cost_names[0]} of at most "
                    f"{limit:,.0f}; the smallest has {table.costs[:, 0].min():,.0f}"
                )

    def evaluate(self, vectors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Scores `float64[m]` of canonical vectors `int32[m, K]`."""
        rows = self.table.rows(vectors)
        return self.table.one_run(rows, rng) if self.noisy else self.table.scores[rows]

    def regrets(self, outcome: "Outcome") -> np.ndarray:
        """Regret of the candidate to take after 1 to `max(AT)` evaluations, `float64[max(AT)]`."""
        true = self.table.scores[self.table.rows(outcome.vectors)]
        lacking = self.table.scores[self.allowed].max() - true[np.asarray(outcome.best)]
        return np.pad(lacking, (0, max(0, max(AT) - len(lacking))), mode="edge")[: max(AT)]

    def regret(self, outcome: "Outcome") -> list[float]:
        """At each of `AT`: regret of the candidate to take after so many evaluations."""
        return [float(self.regrets(outcome)[n - 1]) for n in AT]


class Outcome(NamedTuple):
    """What a search evaluated."""

    vectors: np.ndarray  # int32[E, K] in order, at least one
    best: np.ndarray  # int[E], after each evaluation the position of the candidate to take


class Book:
    """What a peer has evaluated: a candidate that comes again is free and keeps its score."""

    def __init__(self, objective: Objective, seed: int):
        self.objective = objective
        self.vectors: list[np.ndarray] = []
        self.scores: list[float] = []
        self._rng = np.random.default_rng((seed, 1))
        self._seen: dict[int, float] = {}
        self._left = _PATIENCE * max(AT)
        self._repeats = 0

    @property
    def full(self) -> bool:
        """Whether the evaluations, the candidates or the patience are used up."""
        most = min(max(AT), int(self.objective.allowed.sum()))
        return len(self.vectors) >= most or self._left <= 0 or self._repeats >= _STUCK

    def look_up(self, vector: np.ndarray) -> float:
        """The score of a canonical `int32[K]`; an evaluation where it is new and allowed."""
        row = int(self.objective.table.rows(vector[None])[0])
        new = row not in self._seen
        self._repeats = 0 if new else self._repeats + 1
        if new:
            self._seen[row] = float(self.objective.evaluate(vector[None], self._rng)[0])
        if new and self.objective.allowed[row]:
            self.vectors.append(vector)
            self.scores.append(self._seen[row])
        else:
            self.skip()
        return self._seen[row]

    def skip(self) -> None:
        """Counts a proposal that was dropped."""
        self._left -= 1

    def outcome(self) -> Outcome:
        """The candidate to take is the one that scored best; raises `DataError` without any."""
        if not self.scores:
            raise DataError(
                f"a search of `{self.objective.table.name}` evaluated nothing: none of its "
                f"{_PATIENCE * max(AT)} proposals is within the limit {self.objective.limit:,.0f}"
            )
        best = [int(np.argmax(self.scores[: n + 1])) for n in range(len(self.scores))]
        return Outcome(np.array(self.vectors), np.array(best))


Search = Callable[[Objective, int], Outcome]


def ours(
    objective: Objective,
    predictor: PredictorConfig | None = None,
    *,
    costs: bool = True,
    measured: bool = False,
    front: int | None = None,
    prior: str = "",
    earlier: str = "",
    **settings: Any,
) -> Search:
    """The project's search, with `settings` of `SearchConfig`.

    Without `costs` the predictor does not see them. `measured` takes the candidate that scored
    best, also where evaluations are noisy. `front`: see `Searcher`. `prior`: `good` or `bad`, see
    `guess`. `earlier`: trials of an earlier study, see `earlier_study`.
    """
    table, allowed = objective.table, objective.allowed
    searcher = Searcher(
        table.space,
        max(AT),
        SearchConfig(**{"pool_size": 1024, "per_round": 1} | settings),
        predictor,
        costs=(lambda v: table.costs[table.rows(v)].astype(np.int64)) if costs else None,
        cost_features=table.cost_features() if costs else None,
        feasible=(
            None
            if objective.limit is None
            else lambda v: v.__array_namespace__().asarray(allowed)[table.rows(v)]
        ),
        noisy=objective.noisy and not measured,
        front=front,
        prior=guess(table, prior) if prior else None,
        foreign=[earlier_study(table, earlier)] if earlier else (),
    )

    def run(objective: Objective, seed: int) -> Outcome:
        rng = np.random.default_rng(seed)
        result = searcher.run(lambda vectors: objective.evaluate(vectors, rng), seed)
        return Outcome(result.state.vectors, np.array(result.best))

    return run


def guess(table: Table, kind: str) -> Prior:
    """What somebody expects who knows a candidate among the best 1 %, or the worst 1 %.

    Numbers are expected around its values, with a fifth of their range as deviation; its choices
    weigh three times as much as others.
    """
    rank = len(table.vectors) // 200
    order = np.argsort(-table.scores)
    vector = table.vectors[order[rank if kind == "good" else -1 - rank]].tolist()
    description: dict[str, Any] = {}
    for knob, index in zip(table.space.knobs, vector, strict=True):
        weights = [1.0] * len(knob.values)
        weights[index] = 3.0
        around = {"centre": knob.values[index], "width": 0.2}
        description[knob.name] = around if knob.ordinal else weights
    return Prior.of(table.space.knobs, description, name="prior")


def earlier_study(table: Table, kind: str) -> Foreign:
    """100 random trials of the next table of the same family, or with scores `by chance`.

    A family of one table has trials of its own.
    """
    family = [name for name in NAMES if name.split("_")[0] == table.name.split("_")[0]]
    name = family[(family.index(table.name) + 1) % len(family)]
    other = table if name == table.name else load(name, Path())
    rng = np.random.default_rng(0)
    rows = rng.choice(len(other.vectors), 100, replace=False)
    scores = rng.normal(size=len(rows)) if kind == "by chance" else other.scores[rows]
    knobs = [other.space.values(vector) for vector in other.vectors[rows]]
    return Foreign.of(table.space, name, knobs, scores[:, None].tolist())


def random_search(objective: Objective, seed: int) -> Outcome:
    """Candidates within the limit, uniformly and without repetition."""
    book, rng = Book(objective, seed), np.random.default_rng(seed)
    for row in rng.permutation(np.flatnonzero(objective.allowed)):
        if book.full:
            break
        book.look_up(objective.table.vectors[row])
    return book.outcome()


def regularised_evolution(objective: Objective, seed: int) -> Outcome:
    """Aging evolution (Real et al., arXiv 1802.01548): population 20, tournaments of 5.

    A mutation gives a knob another value. Children over the limit are drawn again and not seen.
    """
    book, rng = Book(objective, seed), np.random.default_rng(seed)
    space = objective.table.space
    rows = rng.permutation(np.flatnonzero(objective.allowed))[: min(_POPULATION, max(AT))]
    alive = [(book.look_up(v), v) for v in objective.table.vectors[rows]]
    while not book.full:
        drawn = rng.choice(len(alive), min(_TOURNAMENT, len(alive)), replace=False)
        child = max((alive[i] for i in drawn), key=lambda member: member[0])[1].copy()
        knob = rng.integers(len(child))
        child[knob] += 1 + rng.integers(space.cardinalities[knob] - 1)
        child[knob] %= space.cardinalities[knob]
        child = space.canonical(child[None])[0]
        if objective.allowed[objective.table.rows(child[None])[0]]:
            alive = [*alive[1:], (book.look_up(child), child)]
        else:
            book.skip()
    return book.outcome()


def optuna_search(sampler: str, objective: Objective, seed: int) -> Outcome:
    """One of Optuna's samplers, with the limit as a constraint."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    makers = {
        "TPE": lambda: optuna.samplers.TPESampler(seed=seed, multivariate=True),
        "GP": lambda: optuna.samplers.GPSampler(
            seed=seed, deterministic_objective=not objective.noisy
        ),
        "NSGA-II": lambda: optuna.samplers.NSGAIISampler(seed=seed, population_size=_POPULATION),
    }
    study = optuna.create_study(direction="maximize", sampler=makers[sampler]())
    book, space = Book(objective, seed), objective.table.space
    while not book.full:
        trial = study.ask()
        vector = suggested(trial, space)
        if objective.limit is not None:
            cost = objective.table.costs[objective.table.rows(vector[None])[0], 0]
            trial.set_constraint("excess", cost / objective.limit - 1)
        study.tell(trial, book.look_up(vector))
    return book.outcome()


def suggested(trial: Any, space: VectorSpace) -> np.ndarray:
    """The canonical vector `int32[K]` that an Optuna trial suggests."""
    vector = [
        trial.suggest_int(knob.name, 0, len(knob.values) - 1)
        if knob.ordinal
        else trial.suggest_categorical(knob.name, list(range(len(knob.values))))
        for knob in space.knobs
    ]
    return space.canonical(np.array([vector], np.int32))[0]


# Name -> arguments of `ours`.
OURS_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "ours": {},
    "ours-default": {"pool_size": 4096, "per_round": 8},
    "ours-nocosts": {"costs": False},
    "ours-measured": {"measured": True},
    "ours-trend": {"predictor": OURS["ours-trend"]},
    "ours-pool": {"propose": "pool"},
    "ours-prior": {"prior": "good"},
    "ours-wrong-prior": {"prior": "bad"},
    "ours-earlier": {"earlier": "next"},
    "ours-wrong-earlier": {"earlier": "by chance"},
    "paper": {"predictor": OURS["paper"], "propose": "pool"},
}
PEERS: Mapping[str, Search] = {
    "random": random_search,
    "evolution": regularised_evolution,
    "optuna-tpe": functools.partial(optuna_search, "TPE"),
    "optuna-gp": functools.partial(optuna_search, "GP"),
    "optuna-nsga2": functools.partial(optuna_search, "NSGA-II"),
}


def compare(
    objective: Objective, seeds: int, names: Sequence[str] = ()
) -> Iterator[tuple[str, dict[str, list[Any]]]]:
    """Yields searches by name (none: all), each with its mean `regret` at `AT` and the `error`.

    Also the `evaluations` after which its mean regret is what the first search has at `AT`, None
    where it never is.
    """
    first: np.ndarray | None = None
    check_names(names, [*OURS_SETTINGS, *PEERS])
    for name in names or [*OURS_SETTINGS, *PEERS]:
        search = PEERS.get(name) or ours(objective, **OURS_SETTINGS[name])
        curves = np.array([objective.regrets(search(objective, seed)) for seed in range(seeds)])
        at = np.array(AT) - 1
        mean, error = curves.mean(0), standard_error(curves[:, at])
        first = mean if first is None else first
        yield (
            name,
            {
                "regret": mean[at].tolist(),
                "error": error.tolist(),
                "evaluations": [evaluations_until(mean, first[n]) for n in at],
            },
        )


def evaluations_until(regrets: np.ndarray, wanted: float) -> int | None:
    """After how many evaluations regrets `float[E]` are as wanted; None: never."""
    reached = np.flatnonzero(regrets <= wanted)
    return int(reached[0]) + 1 if len(reached) else None
