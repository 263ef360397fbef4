"""Searches of recorded learning curves against each other, by the epochs that they take.

python -m benchmarks.curves race --searches=20

A search trains candidates of a table, as far as it likes and no others; what it measures is what
was recorded. When its epochs are used up it names six finalists, which train to the end first where
they have not. They are judged by the test images: the area under their front, as a share of that of
the whole table, and the regret of the best of them by its own score. All is in trainings to the
end. Costs are known to all.

- `random`: candidates at random, all to the end.
- `halving`: successive halving of random candidates; at each rung half of them stop.
- `asha`: the same without waiting: the best half of those at a rung so far goes on.
- `hyperband`: Optuna's TPE in rungs, with its Hyperband pruner; of one objective, the score. What
  it suggests is the nearest candidate of the table.
- `neps`, `neps-mo`: Hyperband of NePS, of the score alone and of score and FLOPs; candidates as in
  `hyperband`. They need the extra `peers`, and are left out without it.
- `none`, `paper`, `curve`: this project's search, by `config.search.stopping`.
"""

import dataclasses
import functools
import itertools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.searches import suggested
from jointnas_jax.predictor.front import beyond
from jointnas_jax.space import JointSpace
from jointnas_jax.strategy.early_stop import early_stop
from jointnas_jax.strategy.front import Reference, hypervolume, spread

# Trainings to the end that a search may take.
BUDGETS = (5, 10, 20)
# Candidates that a table needs, and that a search of ours learns from.
_LEAST, _MOST = 100, 3 * max(BUDGETS)
_FINALISTS = 6
# A front counts from the scores of so many of the table up, and so does the area.
_QUANTILE = 0.5
_RUNGS = (0.5, 1.0)
# Rungs of the halving searches, which need more of them.
_HALVES = (0.25, 0.5, 1.0)
_FIRST = 5
# Proposals of a peer for each candidate of the table, at most: repeated ones are free.
_PATIENCE = 50
# No name of a knob.
_FIDELITY = "epochs of the training"


@dataclasses.dataclass(frozen=True)
class Curves:
    """Candidates of a table, each with one training.

    Attributes:
      name: name of the table.
      space: their space.
      vectors: `int32[N, K]`.
      costs: `float64[N, 2]`, FLOPs and params.
      averaged: `float64[N, E]`, scores of averaged weights by epoch, more is better.
      trained: `float64[N, E]`, scores of the weights that count for the recipe.
      test: `float64[N]`, scores of the test images at the end.
    """

    name: str
    space: JointSpace
    vectors: np.ndarray
    costs: np.ndarray
    averaged: np.ndarray
    trained: np.ndarray
    test: np.ndarray

    @classmethod
    def of(cls, name: str, table: Mapping[str, Any], column: int) -> "Curves":
        """Reads a table whose `column` has the score, less is better."""
        rows = [
            row
            for row in table["trainings"]
            if (row["training"], row["fold"], row["reason"]) == (0, 0, None)
        ]
        curve = lambda row, kind: [-m[column] for m in row["curves"][kind]]
        kinds = ["averaged" if row["ema"] else "raw" for row in rows]
        return cls(
            name,
            # Channels and classes make no difference to vectors and features.
            JointSpace.from_config(restored(table["space"]), image_channels=1, num_classes=2),
            np.array([row["vector"] for row in rows], np.int32),
            np.array([[row["costs"]["flops"], row["costs"]["params"]] for row in rows], float),
            np.array([curve(row, "averaged") for row in rows]),
            np.array([curve(row, kind) for row, kind in zip(rows, kinds, strict=True)]),
            np.array([curve(r, f"test_{k}")[-1] for r, k in zip(rows, kinds, strict=True)]),
        )

    @property
    def epochs(self) -> int:
        """Epochs of a training to the end."""
        return self.trained.shape[1]

    @property
    def logs(self) -> np.ndarray:
        """Logarithms of the FLOPs, `float64[N]`."""
        return np.log(self.costs[:, 0])

    def nearest(self, vector: np.ndarray) -> int:
        """The row of the candidate nearest to a vector `int32[K]` of the space."""
        sizes = np.maximum(self.space.cardinalities - 1, 1)
        return int(np.abs((self.vectors - vector) / sizes).sum(1).argmin())

    def score(self, row: int, epochs: int) -> float:
        """What a training shows: averaged weights before the end, those that count there."""
        curves = self.trained if epochs == self.epochs else self.averaged
        return float(curves[row, epochs - 1])

    def judge(self, finalists: Sequence[int]) -> tuple[float, float]:
        """Area under the front of finalists, a share of the table's; regret of the best of them."""
        rows = np.array(finalists)
        corner = Reference(beyond(self.logs), float(np.quantile(self.test, _QUANTILE)))
        whole = hypervolume(self.logs, self.test, corner)
        best = rows[self.trained[rows, -1].argmax()]
        area = hypervolume(self.logs[rows], self.test[rows], corner) / whole
        return area, float(self.test.max() - self.test[best])


class Book:
    """What a search has trained, and the epochs it may still take."""

    def __init__(self, curves: Curves, trainings: float):
        self.curves = curves
        self.reached: dict[int, int] = {}  # row -> epochs
        self._left = round(trainings * curves.epochs)

    def can(self, row: int, epochs: int, finalists: Sequence[int] = ()) -> bool:
        """Whether there is time to train a row up to an epoch, and then finalists to the end."""
        after = self.reached | {row: epochs}
        rest = sum(self.curves.epochs - after.get(f, 0) for f in finalists)
        return epochs - self.reached.get(row, 0) + rest <= self._left

    def train(self, row: int, epochs: int) -> float:
        """Trains a row up to an epoch, and returns its score there."""
        self._left -= max(0, epochs - self.reached.get(row, 0))
        self.reached[row] = max(epochs, self.reached.get(row, 0))
        return self.curves.score(row, epochs)

    def best(self, marks: Mapping[int, float] | None = None) -> list[int]:
        """Finalists: a front by marks of all rows, or by scores of those that reached the end.

        None counts below the median.
        """
        if not marks:
            ended = [row for row, reached in self.reached.items() if reached == self.curves.epochs]
            marks = {row: self.curves.score(row, self.curves.epochs) for row in ended}
        if not marks:
            return []
        rows, scores = [*marks], np.array([*marks.values()])
        logs = self.curves.logs
        corner = Reference(beyond(logs), float(np.median(scores)) - 1e-9)
        return [rows[i] for i in spread(logs[rows], scores, _FINALISTS, corner)]


# Trains until there is no time left; returns by what finalists are chosen, see `Book.best`.
Search = Callable[[Book, np.random.Generator], Mapping[int, float] | None]


def random_search(book: Book, rng: np.random.Generator) -> None:
    """Candidates at random, to the end."""
    for row in rng.permutation(len(book.curves.vectors)).tolist():
        if not book.can(row, book.curves.epochs):
            return
        book.train(row, book.curves.epochs)


def _rungs(curves: Curves, shares: Sequence[float]) -> list[int]:
    return [max(1, round(share * curves.epochs)) for share in shares]


def halving(book: Book, rng: np.random.Generator) -> None:
    """Brackets of successive halving, as many as there is time for."""
    rungs, order = _rungs(book.curves, _HALVES), rng.permutation(len(book.curves.vectors)).tolist()
    width = 2 ** (len(rungs) - 1)
    while order:
        rows, order = order[:width], order[width:]
        for rung in rungs:
            for row in rows:
                if not book.can(row, rung):
                    return
                book.train(row, rung)
            rows.sort(key=functools.partial(_best_first, book.curves, rung))
            rows = rows[: max(1, len(rows) // 2)]


def asha(book: Book, rng: np.random.Generator) -> None:
    """Asynchronous halving (Li et al., arXiv 1810.05934), one training at a time."""
    rungs, order = _rungs(book.curves, _HALVES), rng.permutation(len(book.curves.vectors)).tolist()
    while order:
        row, rung = _promoted(book, rungs) or (order[-1], rungs[0])
        if row == order[-1]:
            order.pop()
        if not book.can(row, rung):
            return
        book.train(row, rung)


def _best_first(curves: Curves, rung: int, row: int) -> float:
    """Sorts rows by their scores at a rung, the best first."""
    return -curves.score(row, rung)


def _promoted(book: Book, rungs: Sequence[int]) -> tuple[int, int] | None:
    """A row of the best half at a rung that has not gone on, from the highest rung down."""
    for rung, following in reversed([*itertools.pairwise(rungs)]):
        there = [row for row, reached in book.reached.items() if reached >= rung]
        there.sort(key=functools.partial(_best_first, book.curves, rung))
        waiting = [row for row in there[: len(there) // 2] if book.reached[row] == rung]
        if waiting:
            return waiting[0], following
    return None


def hyperband(book: Book, rng: np.random.Generator) -> None:
    """Optuna's TPE with its Hyperband pruner; a repeated candidate is free."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    curves, rungs = book.curves, _rungs(book.curves, _HALVES)
    seed = int(rng.integers(2**31))
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=seed, multivariate=True),
        pruner=optuna.pruners.HyperbandPruner(rungs[0], rungs[-1], reduction_factor=2),
    )
    for _ in range(_PATIENCE * len(curves.vectors)):
        trial = study.ask()
        row = curves.nearest(suggested(trial, curves.space))
        score, stopped = math.nan, False
        for rung in rungs:
            if not book.can(row, rung):
                return
            score = book.train(row, rung)
            trial.report(score, rung)
            if rung < rungs[-1] and trial.should_prune():
                stopped = True
                break
        state = optuna.trial.TrialState.PRUNED if stopped else None
        study.tell(trial, None if stopped else score, state=state)


def neps(objectives: int, book: Book, rng: np.random.Generator) -> None:
    """Hyperband of NePS, of one objective or two; a repeated candidate is free."""
    import torch
    from neps import AskAndTell, HPOCategorical, HPOInteger, SearchSpace, algorithms

    torch.manual_seed(int(rng.integers(2**31)))  # NePS samples with the generator of PyTorch
    curves, last = book.curves, book.curves.epochs
    # Of one value it takes no knob.
    knobs = {knob.name: knob for knob in curves.space.knobs if len(knob.values) > 1}
    parameters = {
        name: HPOInteger(0, len(knob.values) - 1)
        if knob.ordinal
        else HPOCategorical([*range(len(knob.values))])
        for name, knob in knobs.items()
    }
    # It halves the longest training as often as that leaves no less than this.
    fidelity = HPOInteger(max(1, int(last * _HALVES[0])), last, is_fidelity=True)
    algorithm = algorithms.hyperband if objectives == 1 else algorithms.mo_hyperband
    search = AskAndTell(algorithm(SearchSpace(parameters | {_FIDELITY: fidelity}), eta=2))
    for _ in range(_PATIENCE * len(curves.vectors)):
        trial = search.ask()
        values = [int(trial.config.get(knob.name, 0)) for knob in curves.space.knobs]
        row = curves.nearest(curves.space.canonical(np.array([values], np.int32))[0])
        epochs = trial.config[_FIDELITY]
        if not book.can(row, epochs):
            return
        losses = [-book.train(row, epochs), float(curves.logs[row])]
        search.tell(trial, {"objective_to_minimize": losses if objectives > 1 else losses[0]})


def ours(stopping: str, curves: Curves) -> Search:
    """This project's search; it proposes candidates of the table, and names the finalists."""
    import jax

    from jointnas_jax.config import PredictorConfig, SearchConfig
    from jointnas_jax.strategy.searcher import Searcher

    logs = np.log(curves.costs)
    features = ((logs - logs.mean(0)) / logs.std(0)).astype(np.float32)
    known = {vector.tobytes(): i for i, vector in enumerate(curves.vectors)}
    rows_of = lambda vectors: [known.get(np.asarray(v, np.int32).tobytes(), 0) for v in vectors]
    shares = _RUNGS if stopping == "curve" else (1.0,)
    searcher = Searcher(
        curves.space,
        _MOST,
        SearchConfig(propose="pool"),
        PredictorConfig(trend=True, pretrain_samples=64, pretrain_epochs=0),
        cost_features=_HostCosts(lambda vectors: features[rows_of(vectors)]),
        front=0,
        quantile=0.8,
        rungs=shares,
    )
    pretrained = searcher.pretrain(curves.vectors[:64], jax.random.key(0))

    def search(book: Book, rng: np.random.Generator) -> dict[int, float]:
        pool = curves.vectors[rng.permutation(len(curves.vectors))]
        key = jax.random.key(int(rng.integers(2**31)))
        state = searcher.init(pool=pool, pretrained=pretrained, key=key, networks=False)
        rungs, ends = _rungs(curves, shares), curves.epochs
        marks: dict[int, float] = {}
        while len(state.vectors) < _MOST:
            width = _FIRST if not len(state.vectors) else 1
            state, asked = searcher.ask(state, width)
            rows = rows_of(asked.vectors)
            finalists = book.best(marks) if marks else []
            if stopping == "paper" and len(state.vectors) > _FIRST:
                rungs = [ends]
            scores = []
            for row, rung in zip(rows, asked.rungs, strict=True):
                if not book.can(row, rungs[rung], finalists):
                    return marks
                scores.append(book.train(row, rungs[rung]))
            state = searcher.tell(state, asked.numbers, scores)
            if stopping == "paper" and len(state.vectors) == _FIRST:
                first = curves.trained[rows]
                ends = early_stop(first, 0.92, "spearman").epochs
                rungs = [ends]
                state = searcher.tell(state, asked.numbers, first[:, ends - 1])
            state = searcher.fit(state)
            assert state.fitted is not None
            expected = searcher.predictor.predict(state.fitted, state.vectors)[0]
            marks = dict(zip(rows_of(state.vectors), expected.tolist(), strict=True))
        return marks

    return search


class _HostCosts:
    """Costs of a table's candidates, which are looked up on the host, also under `jit`."""

    def __init__(self, look_up: Callable[[np.ndarray], np.ndarray]):
        self._look_up = look_up

    def __call__(self, vectors: Any) -> Any:
        import jax

        if isinstance(vectors, np.ndarray):
            return self._look_up(vectors)
        shape = jax.ShapeDtypeStruct((*vectors.shape[:-1], 2), np.float32)
        return jax.pure_callback(self._look_up, shape, vectors, vmap_method="sequential")


CONTESTANTS: Mapping[str, Callable[[Curves], Search]] = {
    "random": lambda curves: random_search,
    "halving": lambda curves: halving,
    "asha": lambda curves: asha,
    "hyperband": lambda curves: hyperband,
    "neps": lambda curves: functools.partial(neps, 1),
    "neps-mo": lambda curves: functools.partial(neps, 2),
    "none": lambda curves: ours("none", curves),
    "paper": lambda curves: ours("paper", curves),
    "curve": lambda curves: ours("curve", curves),
}

# Contestant -> module that the extra `peers` brings.
NEEDS = dict.fromkeys(("neps", "neps-mo"), "neps")


def race(
    tables: Mapping[str, Mapping[str, Any]], column: int, *, searches: int, names: Sequence[str]
) -> list[dict[str, Any]]:
    """Runs all contestants on tables by name; a row for each, with means and standard errors."""
    rows = []
    for title, table in tables.items():
        curves = Curves.of(title, table, column)
        if len(curves.vectors) < _LEAST:
            continue
        for name in names:
            contestant = CONTESTANTS[name](curves)
            for budget in BUDGETS:
                judged = np.array([_one(contestant, curves, budget, s) for s in range(searches)])
                mean, error = judged.mean(0), judged.std(0) / math.sqrt(searches)
                rows.append(
                    {
                        "table": title,
                        "search": name,
                        "trainings": budget,
                        "area": float(mean[0]),
                        "area_error": float(error[0]),
                        "regret": float(mean[1]),
                        "regret_error": float(error[1]),
                        "candidates": float(mean[2]),
                    }
                )
    return rows


def _one(contestant: Search, curves: Curves, budget: int, seed: int) -> tuple[float, float, float]:
    """One search: area, regret, and how many candidates it trained."""
    book = Book(curves, budget)
    finalists = book.best(contestant(book, np.random.default_rng(seed)))
    ended = [row for row in finalists if book.can(row, curves.epochs)]
    for row in ended:
        book.train(row, curves.epochs)
    # A search that ended nothing has what it trained last.
    area, regret = curves.judge(ended or [*book.reached][-1:])
    return area, regret, len(book.reached)


def restored(value: Any) -> Any:
    """A space as a config has it: `{"range": [...]}` are tuples, as in a stored config."""
    if isinstance(value, dict):
        if set(value) == {"range"}:
            return tuple(value["range"])
        return {name: restored(inner) for name, inner in value.items()}
    return [restored(inner) for inner in value] if isinstance(value, list) else value
