"""The best candidates for any budgets, by the predictor of a finished study, without training.

Shapes: B budgets, N candidates that an evolution starts from, P costs, Q population, K knobs.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from jointnas_jax.config import COST_NAMES
from jointnas_jax.errors import SpaceError, WorkdirError
from jointnas_jax.files import check_digest, read_json, reading, write_json
from jointnas_jax.nets.cost import at_most, limit_limbs
from jointnas_jax.nets.latency import LATENCY
from jointnas_jax.predictor.predictor import Fitted
from jointnas_jax.problem.latency_table import LatencyTable
from jointnas_jax.problem.problem import restore_problem
from jointnas_jax.rules import duration, limit_text
from jointnas_jax.space import read_arch
from jointnas_jax.storage.foreign_trials import kept_foreign
from jointnas_jax.storage.study_reader import stored_trials
from jointnas_jax.storage.workdir import (
    BUDGETS,
    BUDGETS_FOLDER,
    PREDICTOR,
    PROVENANCE,
    RESULT,
    stored_config,
)
from jointnas_jax.strategy.accuracy_scale import accuracy_scale
from jointnas_jax.strategy.evolution import Evolution, evolve
from jointnas_jax.strategy.pool import distinct
from jointnas_jax.telemetry.stage_timer import StageTimer

SCHEMA = 1
_WINNER = "winner0.json"

Budget = Mapping[str, int]


class Best(NamedTuple):
    """Result of a search, under `jit`.

    Attributes:
      vectors: `int32[B, K]`, the best candidate for each budget.
      predicted, spread: `float32[B]`, prediction for it and standard deviation.
      generations, children, duplicates: `int32[B]`, counts of each evolution.
    """

    vectors: jax.Array
    predicted: jax.Array
    spread: jax.Array
    generations: jax.Array
    children: jax.Array
    duplicates: jax.Array


class BudgetSearch:
    """Search of a finished study for other budgets.

    One program serves all searches for equally many budgets, whatever costs they limit.

    Attributes:
      problem: Problem of the study, without its dataset.
      predictor: Predictor of its space.
      fitted: State of the predictor after all trials of the coarse stage.
      verdict: Verdict on the predictor, if there is one.
      scale: From scores to accuracies.
    """

    def __init__(self, workdir: Path, measured: bool = False):
        """Reads the study.

        Args:
          workdir: Folder of the study.
          measured: Whether a budget limits the latency: that of the study, or else of this device.

        Raises:
          WorkdirError: The workdir holds no finished study, or its files cannot be read.
          ConfigError: The latencies of the space are missing.
        """
        config = stored_config(workdir)
        for name in (RESULT, PREDICTOR, PROVENANCE, _WINNER):
            if not (workdir / name).exists():
                raise WorkdirError(
                    f"workdir `{workdir}` holds no finished study that can be searched: it has no "
                    f"`{name}`; run it again with --overwrite"
                )
        try:
            with reading(workdir, WorkdirError):
                card = read_json(workdir / RESULT)["rounds"][-1]["report_card"]
                self.verdict = card and card["verdict"]
                table = LatencyTable.of_study(config, workdir)
                winner = read_arch(workdir / _WINNER)
                self.problem = problem = restore_problem(
                    config, winner, table, measured=measured, earlier=kept_foreign(workdir)
                )
                trials = stored_trials(workdir)
                vectors = [problem.space.vector_from_values(trial.knobs) for trial in trials]
                self._trials = distinct(np.array(vectors))
                self.scale = accuracy_scale(trials)
                self.predictor = problem.searcher().predictor
                check_digest(workdir / PREDICTOR)
                self.fitted = self.predictor.load(workdir / PREDICTOR)
        except SpaceError as error:
            raise WorkdirError(f"workdir `{workdir}` cannot be read: {error}") from error
        self._names = COST_NAMES if measured else tuple(n for n in COST_NAMES if n != LATENCY)
        self._exact = problem.costs.limbs(self._names)
        self._repair = problem.repair(self._names)
        self._program = jax.jit(self._search)

    def starts(self, budgets: Sequence[Budget], seed: int) -> np.ndarray:
        """Draws candidates within each budget and adds the trials: `int32[B, N, K]`.

        Raises `SpaceError` where a budget admits no candidate.
        """
        size = self.problem.config.search.pool_size + len(self._trials)
        pools = [self.problem.pool_within(budget, seed) for budget in budgets]
        starts = [np.concatenate([pool, self._trials]) for pool in pools]
        # Of one shape: the first one, which satisfies the budget, fills up.
        return np.stack([np.concatenate([s, s[:1].repeat(size - len(s), 0)]) for s in starts])

    def search(self, starts: np.ndarray, budgets: Sequence[Budget], seed: int) -> Best:
        """Runs an evolution for each budget, from `starts: int32[B, N, K]`.

        At least one of each N must be within its budget. The prediction for the best candidate
        never falls with a larger budget.
        """
        limits = limit_limbs(budgets, self._names)
        return jax.device_get(self._program(self.fitted, starts, limits, np.uint32(seed)))

    def _search(self, state: Fitted, starts: jax.Array, limits: jax.Array, seed: jax.Array) -> Best:
        space, config = self.problem.space, self.problem.config.search.evolution

        def one(inputs: tuple[jax.Array, jax.Array]) -> Evolution:
            start, limit = inputs
            return evolve(
                start,
                jax.random.key(seed),
                self.predictor.score_fn(state),
                feasible=lambda vectors: at_most(self._exact(vectors), limit),
                canonical=space.canonical,
                cardinalities=space.cardinalities,
                config=config,
                repair=self._repair,
            )

        # One after the other, see `Searcher`.
        evolutions = jax.lax.map(one, (starts, limits))
        # The best of all that satisfy a budget, from any evolution. All of them are scored at
        # once, so that equal candidates have equal scores to the last bit.
        vectors = evolutions.population.reshape(-1, len(space.knobs))
        mean, spread = self.predictor.mean_and_spread(state, vectors)
        within = jax.vmap(lambda limit: at_most(self._exact(vectors), limit))(limits)
        within &= jnp.isfinite(evolutions.scores).reshape(-1)
        best = jnp.where(within, mean, -jnp.inf).argmax(axis=1)
        return Best(
            vectors=vectors[best],
            predicted=mean[best],
            spread=spread[best],
            generations=evolutions.generations,
            children=evolutions.children,
            duplicates=evolutions.duplicates,
        )


def search_budgets(workdir: Path, budgets: Sequence[Budget], seed: int = 0) -> dict[str, Any]:
    """Finds the best candidate for each budget.

    Args:
      workdir: Folder of a finished study.
      budgets: Name of each limited cost -> limit; they replace the budget of the study.
      seed: Seed of everything random.

    Returns:
      The content of `budgets.json`; the README documents it.

    Raises:
      WorkdirError: The workdir holds no finished study.
      SpaceError: A budget admits no candidate.
    """
    timer = StageTimer()
    with timer.listening():
        with timer.stage("study"):
            study = BudgetSearch(workdir, any(LATENCY in budget for budget in budgets))
        with timer.stage("pool"):
            starts = study.starts(budgets, seed)
        with timer.stage("search"):
            best = study.search(starts, budgets, seed)
    return {
        "schema": SCHEMA,
        "name": study.problem.config.name,
        "mode": study.problem.config.mode,
        "seed": seed,
        "study_budget": study.problem.config.budget.limits(),
        "predictor": study.verdict,
        "budgets": [_entry(study, b, best, i) for i, b in enumerate(budgets)],
        **timer.report(),
    }


def write_budgets(report: dict[str, Any], out: Path) -> list[Path]:
    """Writes `budgets.json` and a file for each candidate; raises `WorkdirError`."""
    paths = [out / BUDGETS]
    try:
        (out / BUDGETS_FOLDER).mkdir(parents=True, exist_ok=True)
        write_json(paths[0], report)
        for entry in report["budgets"]:
            paths.append(out / BUDGETS_FOLDER / f"{entry['name']}.json")
            write_json(paths[-1], entry["candidate"])
    except OSError as error:
        raise WorkdirError(
            f"`{out}` cannot be written: {error.strerror}; give another --out"
        ) from error
    return paths


def print_budgets(report: dict[str, Any], console: Console) -> None:
    """Prints the candidate for each budget, and the verdict on the predictor."""
    table = Table(title=f"{report['name']}, by its predictor", title_justify="left")
    timed = any(LATENCY in entry["costs"] for entry in report["budgets"])
    for column in ("budget", "predicted", "FLOPs", "params", *([LATENCY] if timed else [])):
        table.add_column(column, justify="left" if column == "budget" else "right")
    for entry in report["budgets"]:
        table.add_row(
            in_words(entry["budget"]) + ("" if entry["within_study_budget"] else " *"),
            f"{entry['accuracy']['predicted']:.2%} ± {entry['accuracy']['spread']:.2%}",
            f"{entry['costs']['flops']:,}",
            f"{entry['costs']['params']:,}",
            *([duration(entry["costs"][LATENCY], " ")] if timed else []),
        )
    console.print(table)
    if not all(entry["within_study_budget"] for entry in report["budgets"]):
        console.print(
            f"  * over the budget of the study, {in_words(report['study_budget'])}: the predictor "
            "has seen no trial there",
            highlight=False,
        )
    if report["predictor"]:
        console.print(f"  {report['predictor']}", highlight=False)
    children = sum(entry["children"] for entry in report["budgets"])
    console.print(
        f"  {sum(report['seconds'].values()):.1f} seconds, {children:,} children, no training",
        highlight=False,
    )


def in_words(budget: Budget) -> str:
    """Returns a budget as text, such as `flops <= 450M, params <= 8M`."""
    return ", ".join(f"{name} <= {limit_text(name, limit)}" for name, limit in budget.items())


def _entry(study: BudgetSearch, budget: Budget, best: Best, i: int) -> dict[str, Any]:
    candidate = study.problem.candidate(np.asarray(best.vectors[i]))
    predicted, spread = float(best.predicted[i]), float(best.spread[i])
    return {
        "name": "_".join(f"{name}_{limit_text(name, limit)}" for name, limit in budget.items()),
        "budget": dict(budget),
        "knobs": study.problem.knobs(candidate),
        "candidate": candidate.to_dict(),
        "costs": candidate.costs,
        "within_study_budget": not study.problem.over_budget(candidate),
        "predicted": predicted,
        "spread": spread,
        "accuracy": {
            "predicted": study.scale.accuracy(predicted),
            "spread": study.scale.deviation(spread),
        },
        "generations": int(best.generations[i]),
        "children": int(best.children[i]),
        "duplicates": int(best.duplicates[i]),
    }
