"""Compares searches for a front of a table's first cost and its score; prints a table, writes JSON.

python -m benchmarks.fronts --data=DIR --seeds=5 --out=r.json

What counts is the hypervolume under the front of what was evaluated, on a logarithmic axis of the
cost, from the median score up and to 1.1 times the dearest candidate, as a share of that under the
front of the whole table. Optuna's samplers minimise the cost as a second objective, for they know
none beforehand; a repeated candidate is free for all. `botorch` chooses among all candidates that
it has not evaluated, and knows their costs, as this project's search does; it needs the extra
`peers`, and is left out without it.
"""

import functools
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from benchmarks import tables
from benchmarks.predictors import standard_error, who_can
from benchmarks.searches import AT, Book, Objective, ours, random_search, suggested
from jointnas_jax.command_line import define_path, parse_flags, run_measurement
from jointnas_jax.config import PredictorConfig
from jointnas_jax.space.features import FeatureTable
from jointnas_jax.strategy.front import Reference, hypervolume

# Random candidates before the first process, as Optuna's has; noise of standardised scores, which
# have none; Monte Carlo samples; candidates that are judged at once, for memory.
_BOTORCH_FIRST, _BOTORCH_NOISE, _BOTORCH_SAMPLES, _CHUNK = 10, 1e-5, 64, 1024

Front = Callable[[Objective, int], np.ndarray]


def optuna_front(sampler: str, objective: Objective, seed: int) -> np.ndarray:
    """One of Optuna's samplers with two objectives; vectors in order, `int32[E, K]`."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    makers = {
        "TPE": lambda: optuna.samplers.TPESampler(seed=seed, multivariate=True),
        "GP": lambda: optuna.samplers.GPSampler(seed=seed, deterministic_objective=True),
        "NSGA-II": lambda: optuna.samplers.NSGAIISampler(seed=seed, population_size=20),
    }
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=makers[sampler]())
    book, table = Book(objective, seed), objective.table
    while not book.full:
        trial = study.ask()
        vector = suggested(trial, table.space)
        cost = np.log(table.costs[table.rows(vector[None])[0], 0])
        study.tell(trial, [book.look_up(vector), float(cost)])
    return book.outcome().vectors


def botorch_front(objective: Objective, seed: int) -> np.ndarray:
    """BoTorch's log EHVI with a process for scores and known costs; in order, `int32[E, K]`.

    Inputs are knobs, choices one-hot, and the logarithm of the cost.
    """
    import torch
    from botorch.acquisition.multi_objective.logei import qLogExpectedHypervolumeImprovement
    from botorch.acquisition.multi_objective.objective import GenericMCMultiOutputObjective
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from botorch.sampling import SobolQMCNormalSampler
    from botorch.utils.multi_objective.box_decompositions import FastNondominatedPartitioning
    from gpytorch.mlls import ExactMarginalLogLikelihood

    torch.manual_seed(seed)
    book, table = Book(objective, seed), objective.table
    logs = np.log(table.costs[:, :1])
    dearest = 1 + np.log(1.1) / np.ptp(logs)  # the reference of `shares`
    logs = (logs - logs.min()) / np.ptp(logs)
    features = np.concatenate([*FeatureTable.of(table.space)(table.vectors), logs], axis=1)
    inputs = torch.tensor(features, dtype=torch.float64)
    # It maximises all objectives; the second one is no matter of belief.
    both = GenericMCMultiOutputObjective(
        lambda scores, X: torch.cat([scores, -X[..., -1:].expand_as(scores)], dim=-1)
    )
    order = np.random.default_rng(seed).permutation(len(inputs)).tolist()
    rows, waiting = order[:_BOTORCH_FIRST], np.array(order[_BOTORCH_FIRST:])
    scores = [book.look_up(table.vectors[row]) for row in rows]
    while not book.full:
        marks = torch.tensor(_standardised(scores)[:, None], dtype=torch.float64)
        process = SingleTaskGP(inputs[rows], marks, torch.full_like(marks, _BOTORCH_NOISE))
        fit_gpytorch_mll(ExactMarginalLogLikelihood(process.likelihood, process))
        corner = torch.tensor([marks.median().item(), -dearest], dtype=torch.float64)
        known = both(marks, inputs[rows])
        gain = qLogExpectedHypervolumeImprovement(
            process,
            corner,
            FastNondominatedPartitioning(corner, known),
            sampler=SobolQMCNormalSampler(torch.Size([_BOTORCH_SAMPLES]), seed=seed),
            objective=both,
        )
        with torch.no_grad():
            gains = torch.cat([gain(part[:, None]) for part in inputs[waiting].split(_CHUNK)])
        best = int(gains.argmax())
        rows.append(int(waiting[best]))
        scores.append(book.look_up(table.vectors[rows[-1]]))
        waiting = np.delete(waiting, best)
    return book.outcome().vectors


CONTESTANTS: dict[str, Callable[[Objective], Front]] = {
    "front": lambda objective: _evaluated(ours(objective, front=0)),
    "front-trend": lambda objective: _evaluated(
        ours(objective, front=0, predictor=PredictorConfig(trend=True))
    ),
    "best": lambda objective: _evaluated(ours(objective)),
    "random": lambda objective: _evaluated(random_search),
    "optuna-gp": lambda objective: functools.partial(optuna_front, "GP"),
    "optuna-tpe": lambda objective: functools.partial(optuna_front, "TPE"),
    "optuna-nsga2": lambda objective: functools.partial(optuna_front, "NSGA-II"),
    "botorch": lambda objective: botorch_front,
}
# Contestant -> module that the extra `peers` brings.
NEEDS = {"botorch": "botorch"}


def _evaluated(search: Callable[[Objective, int], Any]) -> Front:
    return lambda objective, seed: search(objective, seed).vectors


def _standardised(scores: Sequence[float]) -> np.ndarray:
    return (np.array(scores) - np.mean(scores)) / (np.std(scores) or 1.0)


def shares(objective: Objective, vectors: np.ndarray) -> list[float]:
    """At each of `AT`: the share of the table's hypervolume that was found."""
    table = objective.table
    logs = np.log(table.costs[:, 0].astype(float))
    corner = Reference(float(logs.max() + np.log(1.1)), float(np.median(table.scores)))
    whole = hypervolume(logs, table.scores, corner)
    rows = table.rows(vectors)
    found = (hypervolume(logs[rows[:n]], table.scores[rows[:n]], corner) for n in AT)
    return [volume / whole for volume in found]


def main(argv: list[str]) -> dict[str, Any]:
    """Runs all contestants on all tables."""
    parse_flags(argv, flags.FLAGS)
    values = flags.FLAGS
    names = who_can(values.contestants, CONTESTANTS, NEEDS)
    report: dict[str, Any] = {}
    for name in values.tables:
        table = tables.load(name, Path(values.data))
        objective = Objective(table, None, noisy=False)
        report[name] = {}
        print(f"{name}: share of the hypervolume, {values.seeds} seeds, after {AT}", flush=True)
        for who in names:
            search = CONTESTANTS[who](objective)
            found = np.array([shares(objective, search(objective, s)) for s in range(values.seeds)])
            mean, error = found.mean(0), standard_error(found)
            report[name][who] = {"share": mean.tolist(), "error": np.asarray(error).tolist()}
            row = "".join(f"{m:9.4f} ± {e:.4f}" for m, e in zip(mean, error, strict=True))
            print(f"  {who:<16}{row}", flush=True)
    return report


if __name__ == "__main__":
    define_path("data", "", "Folder of NAS-Bench-Macro's JSON file.")
    flags.DEFINE_list("tables", ["macro"], f"Of {', '.join(tables.NAMES)}.")
    flags.DEFINE_integer("seeds", 20, "Repetitions.", 1)
    flags.DEFINE_list("contestants", [], "Who takes part; none: all that are installed.")
    sys.exit(run_measurement(__doc__, main))
