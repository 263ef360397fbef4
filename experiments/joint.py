"""Does joint search beat the search of architectures, or of recipes, alone?

python -m experiments.joint --workdir=runs/claim_joint --out=joint.json

Whole studies with the same number of trained candidates, the same budget and the same seeds. What
is not searched comes from the default candidate. Each study picks its winner by validation
accuracy; the winner's test accuracy, the mean of its trainings, is what counts. With
`config.search.front` it is the area under the front of all winners, on a logarithmic axis of the
cost, as a share of that under the winners of all modes; recipes alone all cost the same, and have
one winner. The differences of the modes at each seed are the units; that the test images are finite
is not part of the noise.
--seeds: studies of each mode.
"""

import dataclasses
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from rich.console import Console

from experiments.entry import run_experiment
from experiments.verdict import judge, number, row
from jointnas_jax.command_line import define_path
from jointnas_jax.config import Config
from jointnas_jax.errors import ConfigError, DamagedError, WorkdirError
from jointnas_jax.strategy.front import Reference, hypervolume

CLAIM = "Joint search beats the search of architectures or recipes alone"
MODES = ("joint", "arch", "recipe")


def compare(
    config: Config,
    workdir: Path,
    seeds: int,
    *,
    overwrite: bool,
    run: Callable[[Config, Path, bool], dict[str, Any]],
) -> dict[str, Any]:
    """Runs a study for each mode and seed, each in a folder of the workdir.

    Args:
      config: the joint study; its seed is the first one.
      workdir: studies there go on, and do not run again where they are finished.
      seeds: studies of each mode.
      overwrite: replace studies there that have another config.
      run: runs a study in a workdir, or goes on with it unless it overwrites.

    Returns:
      The report: `rows` and, by mode, its `studies`.

    Raises:
      InputError: before anything trains, or where the workdir holds something else.
    """
    from jointnas_jax.problem.problem import build_problem
    from jointnas_jax.storage.workdir import look

    for mode in MODES:  # what is wrong with the last one shall not wait for the others to train
        build_problem(dataclasses.replace(config, mode=mode))
    studies: dict[str, list[dict[str, Any]]] = {mode: [] for mode in MODES}
    baseline = []
    settings = dataclasses.replace(config.study, random_reference=False)
    if config.front == "latency" and not config.budget.latency:
        raise ConfigError(
            "recipes alone search no front, so their latency is known only where "
            '`config.budget.latency` limits it, got ""; add --config.budget.latency=10ms'
        )
    if not config.front:  # the claim is of one network
        config = dataclasses.replace(config, search=dataclasses.replace(config.search, winners=1))
    for seed in range(config.seed, config.seed + seeds):
        for mode in MODES:
            study = dataclasses.replace(config, mode=mode, seed=seed, study=settings)
            folder, replace = workdir / f"{mode}-seed{seed}", False
            try:
                look(folder, study)
            except (WorkdirError, DamagedError):
                if not overwrite:
                    raise
                replace = True
            result = run(study, folder, replace)
            studies[mode].append(_summary(result, config.search.front, study.front))
        # Alike in all modes of a seed, key for key.
        baseline.append(result["references"]["default"]["test"]["mean"])
    return report(studies, baseline) | {
        "dataset": result["dataset"]["name"],
        "budget": config.budget.limits(),
        "epochs": result["epochs"],
    }


def report(
    studies: Mapping[str, Sequence[Mapping[str, Any]]], baseline: Sequence[float | None]
) -> dict[str, Any]:
    """Compares what the studies of the modes reached, seed by seed; nothing where they failed."""
    reached = {mode: np.array([s["test"] for s in studies[mode]], float) for mode in MODES}
    fronts = any("members" in study for study in studies["joint"])
    if fronts:
        seeds = zip(*(studies[mode] for mode in MODES), strict=True)
        every = [_areas([study["members"] for study in seed]) for seed in seeds]
        reached = dict(zip(MODES, np.array(every).T, strict=True))
    joint, rows = reached["joint"], []
    for name in MODES[1:]:
        other = reached[name]
        means = {"joint": _mean(joint), "other": _mean(other)}
        rows.append(row(f"joint against {name}", means, judge(joint - other)))
    shares = {mode: [number(value) for value in values] for mode, values in reached.items()}
    return {
        "claim": CLAIM,
        "rows": rows,
        "studies": studies,
        "default": baseline,
        "areas": shares if fronts else None,
    }


def _mean(values: np.ndarray) -> float:
    """The mean of those that are there, nan where none is."""
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan


def _areas(fronts: Sequence[Sequence[tuple[float, float]]]) -> list[float]:
    """The areas under fronts of (cost, accuracy), from what is worse than all of their members.

    They are shares of the area under all of them together; nan where a front has no member.
    """
    each = [np.array(front, float).reshape(-1, 2).T for front in fronts]
    costs, accuracies = np.concatenate(each, axis=1)
    if not len(costs):
        return [math.nan] * len(fronts)
    logs = np.log(costs)
    corner = Reference.beyond(logs, accuracies)
    whole = hypervolume(logs, accuracies, corner)
    return [hypervolume(np.log(c), a, corner) / whole if len(c) else math.nan for c, a in each]


def _summary(result: Mapping[str, Any], cost: str, front: str) -> dict[str, Any]:
    """What counts of a study; `front` is "" where it searched none, and its winner is a point."""
    winner, winners = result["winners"][0], result["winners"]
    members = [(w["costs"][cost], w["test"]["mean"]) for w in winners] if cost else []
    members = members if front else members[:1]
    sound = [member for member in members if member[1] is not None]
    return ({"members": sound} if cost else {}) | {
        "seed": result["seed"],
        "test": winner["test"]["mean"],
        "trainings": winner["test"]["seeds"],
        "validation": winner["validation"]["mean"],
        "source": winner["source"],
        "flops": winner["costs"]["flops"],
        "trained": sum(r["trained"] for r in result["rounds"]),
        "best_in_search": max((r["best"] for r in result["rounds"] if r["best"]), default=None),
        "epochs": result["early_stop"]["epochs"],
        "seconds": round(sum(result["seconds"].values()), 1),
    }


def measure(config: Config, console: Console) -> dict[str, Any]:
    """Tries the claim; returns the report."""
    from jointnas_jax.study.run import run_study

    def run(study: Config, workdir: Path, overwrite: bool) -> dict[str, Any]:
        return run_study(study, workdir, console, overwrite=overwrite)

    values = flags.FLAGS
    workdir = Path(values.workdir)
    return compare(config, workdir, values.seeds, overwrite=values.overwrite, run=run)


if __name__ == "__main__":
    define_path("workdir", "runs/claim_joint", "Folder of the studies.")
    flags.DEFINE_bool("overwrite", False, "Replace studies there that have another config.")
    sys.exit(run_experiment(__doc__, measure, "joint"))
