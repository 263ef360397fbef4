"""Claim: joint search beats the search of architectures, or of recipes, alone.

Whole studies with the same number of trained candidates, the same budget and the same seeds. What
is not searched comes from the default candidate. Each study picks its winner by validation
accuracy; the winner's test accuracy, the mean of its trainings, is what counts. The differences of
the modes at each seed are the units; that the test images are finite is not part of the noise.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from experiments.verdict import Row, judge
from jointnas_jax.config import Config
from jointnas_jax.errors import DamagedError, WorkdirError
from jointnas_jax.problem.problem import build_problem
from jointnas_jax.storage.workdir import look
from jointnas_jax.study.run import run_study

CLAIM = "Joint search beats the search of architectures or recipes alone"
MODES = ("joint", "arch", "recipe")


def compare(
    config: Config, workdir: Path, seeds: int, overwrite: bool, console: Console
) -> dict[str, Any]:
    """Runs a study for each mode and seed, each in a folder of the workdir.

    Args:
      config: of the joint study; its seed is the first one.
      workdir: studies found there go on, and are not run again where they are finished.
      seeds: studies of each mode.
      overwrite: replace studies there that have another config.
      console: where progress goes.

    Returns:
      The report: `rows` and, by mode, its `studies`.

    Raises:
      InputError: before anything trains, or where the workdir holds something else.
    """
    for mode in MODES:  # what is wrong with the last one shall not wait for the others to train
        build_problem(dataclasses.replace(config, mode=mode))
    studies: dict[str, list[dict[str, Any]]] = {mode: [] for mode in MODES}
    baseline = []
    for seed in range(config.seed, config.seed + seeds):
        for mode in MODES:
            study = dataclasses.replace(
                config,
                mode=mode,
                seed=seed,
                study=dataclasses.replace(config.study, random_reference=False),
            )
            result = _finished(study, workdir / f"{mode}-seed{seed}", overwrite, console)
            studies[mode].append(_summary(result))
        # Alike in all modes of a seed, key for key.
        baseline.append(_number(result["references"]["default"]["test"]["mean"]))
    return report(studies, baseline) | {
        "dataset": result["dataset"]["name"],
        "budget": config.budget.limits(),
        "epochs": result["epochs"],
    }


def report(studies: dict[str, list[dict[str, Any]]], baseline: list[float]) -> dict[str, Any]:
    """Compares what the studies of the modes reached, seed by seed."""
    tests = {mode: np.array([_number(s["test"]) for s in studies[mode]]) for mode in MODES}
    rows = [
        Row(
            f"joint against {name}",
            {"joint": np.nanmean(tests["joint"]), "other": np.nanmean(other)},
            judge(tests["joint"] - other),
        ).to_dict()
        for name, other in (("arch", tests["arch"]), ("recipe", tests["recipe"]))
    ]
    return {
        "claim": CLAIM,
        "rows": rows,
        "studies": studies,
        "default": [b if np.isfinite(b) else None for b in baseline],
    }


def _finished(config: Config, workdir: Path, overwrite: bool, console: Console) -> dict[str, Any]:
    """The result of a study, which is run, or goes on, unless the workdir holds it."""
    try:
        look(workdir, config)
    except (WorkdirError, DamagedError):
        if not overwrite:
            raise
        return run_study(config, workdir, console, overwrite=True)
    return run_study(config, workdir, console)


def _summary(result: dict[str, Any]) -> dict[str, Any]:
    """What counts of a study."""
    winner = result["winners"][0]
    seconds = sum(result["seconds"].values())
    return {
        "seed": result["seed"],
        "test": winner["test"]["mean"],
        "trainings": winner["test"]["seeds"],
        "validation": winner["validation"]["mean"],
        "source": winner["source"],
        "flops": winner["costs"]["flops"],
        "trained": sum(r["trained"] for r in result["rounds"]),
        "best_in_search": max((r["best"] for r in result["rounds"] if r["best"]), default=None),
        "epochs": result["early_stop"]["epochs"],
        "seconds": round(seconds, 1),
    }


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
