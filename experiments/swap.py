"""Claim: a recipe that was found with one network costs another network accuracy.

Every network is trained with every recipe, all on the whole training split for the final epochs,
with the same seeds; test accuracy counts. A unit is a seed: the accuracy with the own recipe minus
the mean of that with the others'. So the verdict is about these networks, not about all.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.verdict import Row, judge
from jointnas_jax.config import Config
from jointnas_jax.errors import InputError, SpaceError
from jointnas_jax.execution.job import Job
from jointnas_jax.execution.lane_batches import TrainFn
from jointnas_jax.execution.local import LocalExecutor
from jointnas_jax.nets.cost import count
from jointnas_jax.problem.problem import Problem, build_problem
from jointnas_jax.space import Candidate
from jointnas_jax.space.joint import read_candidate

CLAIM = "Swapping the found recipes of networks costs accuracy"


def compare(
    config: Config, files: Sequence[Path], seeds: int, train_fn: TrainFn | None = None
) -> dict[str, Any]:
    """Trains all pairs of network and recipe.

    Args:
      config: with the dataset, the space that the candidates come from, and the final epochs.
      files: of found candidates, two or more.
      seeds: trainings of each pair.
      train_fn: see `LocalExecutor`.

    Raises:
      InputError: before anything trains.
    """
    if len(files) < 2:
        raise InputError(f"`--candidates` must name two files or more, got {len(files)}")
    problem = build_problem(config)
    candidates = [_candidate(problem, file) for file in files]
    epochs = config.train.epochs_of_winners
    stretch = epochs / config.train.epochs
    pairs = [Candidate(a.arch, b.recipe.stretched(stretch)) for a in candidates for b in candidates]
    sample = [candidate.arch for candidate in candidates]
    images = problem.divided_images()
    executor = LocalExecutor(config, problem.space, images, sample=sample, train_fn=train_fn)
    root = jax.random.key(config.seed)
    jobs = [
        Job(pair, jax.random.fold_in(root, seed), epochs, on_full_split=True)
        for pair in pairs
        for seed in range(seeds)
    ]
    accuracies = np.array([o.accuracy for o in executor.run(jobs)], float).reshape(
        len(files), len(files), seeds
    )
    names = [f"network {i + 1}" for i in range(len(files))]
    return report(names, accuracies) | {
        "dataset": problem.dataset.name,
        "epochs": epochs,
        "networks": [
            {
                "file": str(file),
                "flops": count(candidate.arch).flops,
                "recipe": candidate.recipe.to_dict(),
            }
            for file, candidate in zip(files, candidates, strict=True)
        ],
    }


def report(names: Sequence[str], accuracies: np.ndarray) -> dict[str, Any]:
    """Compares own and others' recipes: each network, and the mean of all.

    Args:
      names: of the M networks.
      accuracies: `float64[M, M, S]` of network, recipe and seed; nan where a training failed.
    """
    own = np.array([accuracies[i, i] for i in range(len(names))])
    swapped = np.array([np.delete(accuracies[i], i, 0).mean(0) for i in range(len(names))])
    labelled = [*zip(names, own, swapped, strict=True), ("all", own.mean(0), swapped.mean(0))]
    rows = [
        Row(label, {"own": np.mean(a), "swapped": np.mean(b)}, judge(a - b)).to_dict()
        for label, a, b in labelled
    ]
    plain = np.where(np.isfinite(accuracies), accuracies.astype(object), None)
    return {"claim": CLAIM, "rows": rows, "accuracies": plain.tolist()}


def _candidate(problem: Problem, file: Path) -> Candidate:
    """Reads a candidate of the problem's space."""
    arch, recipe = read_candidate(file)
    if recipe is None:
        raise SpaceError(f"`{file}` holds an architecture without a recipe")
    candidate = Candidate(arch, recipe)
    try:
        problem.space.encode(candidate)
    except SpaceError as error:
        raise SpaceError(f"`{file}` is not of this config's space: {error}") from error
    return candidate
