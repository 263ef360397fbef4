"""The best candidates for any budgets, by the predictor of a finished study; nothing trains.

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
from jointnas_jax.files import check_digest, read_json, write_json
from jointnas_jax.nets.cost import at_most, limit_limbs
from jointnas_jax.nets.latency import LATENCY
from jointnas_jax.predictor.predictor import Fitted
from jointnas_jax.problem.latency_table import LatencyTable
from jointnas_jax.problem.problem import restore_problem
from jointnas_jax.rules import duration, limit_text
from jointnas_jax.space import read_arch
from jointnas_jax.storage.study_reader import stored_trials
from jointnas_jax.storage.workdir import (
    BUDGETS,
    BUDGETS_FOLDER,
    PREDICTOR,
    PROVENANCE,
    RESULT,
    stored_config,
)
from jointnas_jax.strategy.evolution import Evolution, evolve
from jointnas_jax.strategy.pool import distinct
from jointnas_jax.telemetry.stage_timer import StageTimer

SCHEMA = 1
_WINNER = "winner0.json"

Budget = Mapping[str, int]


class Best(NamedTuple):
    """What a search found.

    Attributes:
      vectors: `int32[B, K]`, the best candidate for each budget.
      predicted, spread: `float32[B]`, of them.
      generations, children, duplicates: `int32[B]`, of each evolution.
    """

    vectors: jax.Array
    predicted: jax.Array
    spread: jax.Array
    generations: jax.Array
    children: jax.Array
    duplicates: jax.Array


class BudgetSearch:
    """A finished study, ready to be searched for other budgets.

    One program serves all searches for equally many budgets, whatever costs they limit.

    Attributes:
      problem: the study's, without its dataset.
      predictor: of its space.
      fitted: what the predictor learnt from all trials of the coarse stage.
      verdict: on the predictor, in words; None where no trial could tell.
    """

    def __init__(self, workdir: Path, measured: bool = False):
        """Reads the study.

        Args:
          workdir: of the study.
          measured: whether a budget limits the latency: that by which the study went, or else what
            is known of this device.

        Raises:
          WorkdirError: the workdir holds no finished study, or its files cannot be read.
          ConfigError: the latencies of the space are not known.
        """
        config = stored_config(workdir)
        for name in (RESULT, PREDICTOR, PROVENANCE, _WINNER):
            if not (workdir / name).exists():
                raise WorkdirError(
                    f"workdir `{workdir}` holds no finished study that can be searched: it has no "
                    f"`{name}`; run it again with --overwrite"
                )
        try:
            result = read_json(workdir / RESULT)
            card = result["rounds"][-1]["report_card"]
            self.verdict = card and card["verdict"]
            begun = LatencyTable.of_study(config, workdir)
            winner = read_arch(workdir / _WINNER)
            self.problem = problem = restore_problem(config, winner, begun, measured)
            knobs = [trial.knobs for trial in stored_trials(workdir)]
            self._trials = distinct(np.array([problem.space.vector_from_values(k) for k in knobs]))
            self.predictor = problem.searcher().predictor
            check_digest(workdir / PREDICTOR)
            self.fitted = self.predictor.load(workdir / PREDICTOR)
        except (OSError, ValueError, TypeError, LookupError, SpaceError) as error:
            line = " ".join(str(error).split())[:300]
            raise WorkdirError(f"workdir `{workdir}` cannot be read: {line}") from error
        self._names = COST_NAMES if measured else tuple(n for n in COST_NAMES if n != LATENCY)
        self._exact = problem.costs.limbs(self._names)
        self._repair = problem.repair(self._names)
        self._program = jax.jit(self._search)

    def starts(self, budgets: Sequence[Budget], seed: int) -> np.ndarray:
        """Draws candidates within each budget and adds the trials: `int32[B, N, K]`.

        Raises:
          SpaceError: a budget admits no candidate.
        """
        size = self.problem.config.search.pool_size + len(self._trials)
        pools = [self.problem.pool_within(budget, seed) for budget in budgets]
        starts = [np.concatenate([pool, self._trials]) for pool in pools]
        # Of one shape: the first one, which satisfies the budget, fills up.
        return np.stack([np.concatenate([s, s[:1].repeat(size - len(s), 0)]) for s in starts])

    def search(self, starts: np.ndarray, budgets: Sequence[Budget], seed: int) -> Best:
        """Runs an evolution for each budget.

        What is best for a budget is never predicted worse than what is best for a smaller one.

        Args:
          starts: `int32[B, N, K]`, at least one of each N within its budget.
          budgets: names of costs -> limits.
          seed: of the evolutions.
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
        found = jax.lax.map(one, (starts, limits))
        # The best of all that satisfy a budget, whichever evolution found it. All of them are
        # scored at once, so that equal candidates have equal scores to the last bit.
        vectors = found.population.reshape(-1, len(space.knobs))
        mean, spread = self.predictor.mean_and_spread(state, vectors)
        within = jax.vmap(lambda limit: at_most(self._exact(vectors), limit))(limits)
        within &= jnp.isfinite(found.scores).reshape(-1)
        best = jnp.where(within, mean, -jnp.inf).argmax(axis=1)
        sizes = (found.generations, found.children, found.duplicates)
        return Best(vectors[best], mean[best], spread[best], *sizes)


def search_budgets(workdir: Path, budgets: Sequence[Budget], seed: int = 0) -> dict[str, Any]:
    """Finds the best candidate for each budget.

    Args:
      workdir: of a finished study.
      budgets: name of each limited cost -> limit; they replace the study's own budget.
      seed: of everything random.

    Returns:
      The content of `budgets.json`; the README documents it.

    Raises:
      WorkdirError: the workdir holds no finished study.
      SpaceError: a budget admits no candidate.
    """
    meter = StageTimer()
    with meter.listening():
        with meter.stage("study"):
            study = BudgetSearch(workdir, any(LATENCY in budget for budget in budgets))
        with meter.stage("pool"):
            starts = study.starts(budgets, seed)
        with meter.stage("search"):
            best = study.search(starts, budgets, seed)
    return {
        "schema": SCHEMA,
        "name": study.problem.config.name,
        "mode": study.problem.config.mode,
        "seed": seed,
        "study_budget": study.problem.config.budget.limits(),
        "predictor": study.verdict,
        "budgets": [_entry(study, b, best, i) for i, b in enumerate(budgets)],
        "seconds": {name: round(s, 2) for name, s in meter.seconds.items()},
        "compilations": {
            "programs": sum(meter.compilations.values()),
            "by_stage": meter.compilations,
            "seconds": round(meter.compile_seconds, 2),
        },
    }


def write_budgets(report: dict[str, Any], out: Path) -> list[Path]:
    """Writes `budgets.json` and a file for each candidate; returns their paths.

    Raises:
      WorkdirError: the folder cannot be written.
    """
    paths = [out / BUDGETS]
    try:
        (out / BUDGETS_FOLDER).mkdir(parents=True, exist_ok=True)
        write_json(paths[0], report)
        for entry in report["budgets"]:
            paths.append(out / BUDGETS_FOLDER / f"{entry['name']}.json")
            write_json(paths[-1], entry["candidate"])
    except OSError as error:
        raise WorkdirError(f"`{out}` cannot be written: {error.strerror}") from error
    return paths


def print_budgets(report: dict[str, Any], console: Console) -> None:
    """Prints what was found for each budget, and how far it can be trusted."""
    table = Table(title=f"{report['name']}, by its predictor", title_justify="left")
    timed = any(LATENCY in entry["costs"] for entry in report["budgets"])
    for column in ("budget", "predicted", "FLOPs", "params", *([LATENCY] if timed else [])):
        table.add_column(column, justify="left" if column == "budget" else "right")
    for entry in report["budgets"]:
        table.add_row(
            in_words(entry["budget"]) + ("" if entry["within_study_budget"] else " *"),
            f"{entry['predicted']:.2%} ± {entry['spread']:.2%}",
            f"{entry['costs']['flops']:,}",
            f"{entry['costs']['params']:,}",
            *([duration(entry["costs"][LATENCY], " ")] if timed else []),
        )
    console.print(table)
    if not all(entry["within_study_budget"] for entry in report["budgets"]):
        console.print(
            f"  * over the study's own budget, {in_words(report['study_budget'])}: the predictor "
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
    return {
        "name": "_".join(f"{name}_{limit_text(name, limit)}" for name, limit in budget.items()),
        "budget": dict(budget),
        "knobs": study.problem.knobs(candidate),
        "candidate": candidate.to_dict(),
        "costs": candidate.costs,
        "within_study_budget": not study.problem.over_budget(candidate),
        "predicted": float(best.predicted[i]),
        "spread": float(best.spread[i]),
        "generations": int(best.generations[i]),
        "children": int(best.children[i]),
        "duplicates": int(best.duplicates[i]),
    }
