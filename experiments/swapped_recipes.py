"""Does it cost accuracy to swap the recipes that were found for different networks?

python -m experiments.swapped_recipes --out=swap.json \\
    --candidates=runs/a/winner0.json,runs/b/winner0.json

The candidates come from studies of the same space, for instance with different budgets. Every
network trains with every recipe, on the whole training split for the epochs of winners, with the
same seeds; test accuracy counts. A unit is a seed: the accuracy with the own recipe minus the mean
of that with the others'. So the verdict is about these networks, not about all.
--seeds: trainings of each network with each recipe.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags
from rich.console import Console

from experiments.entry import run_experiment
from experiments.verdict import judge, number, row
from jointnas_jax.command_line import define_paths
from jointnas_jax.config import Config
from jointnas_jax.errors import InputError, SpaceError
from jointnas_jax.nets.cost import count
from jointnas_jax.space import Candidate
from jointnas_jax.space.joint import read_candidate

if TYPE_CHECKING:
    from experiments.random_trials import MakeExecutor

CLAIM = "Swapping the found recipes of networks costs accuracy"


def compare(
    config: Config, files: Sequence[Path], seeds: int, *, make: "MakeExecutor | None" = None
) -> dict[str, Any]:
    """Trains all pairs of network and recipe, `seeds` times each, by what `make` makes.

    Raises:
      InputError: before anything trains.
    """
    import jax

    from experiments.random_trials import dataset_name, local_executor
    from jointnas_jax.execution.job import Job
    from jointnas_jax.problem.problem import build_problem

    if len(files) < 2:
        raise InputError(f"`--candidates` must name two files or more, got {len(files)}")
    problem = build_problem(config)
    candidates = [_candidate(file) for file in files]
    for file, candidate in zip(files, candidates, strict=True):
        try:
            problem.space.encode(candidate)
        except SpaceError as error:
            raise SpaceError(f"`{file}` is not of this config's space: {error}") from error
    epochs = config.train.epochs_of_winners
    pairs = [Candidate(a.arch, b.recipe) for a in candidates for b in candidates]
    root = jax.random.key(config.seed)
    jobs = [
        Job(pair, jax.random.fold_in(root, seed), epochs, on_full_split=True)
        for pair in pairs
        for seed in range(seeds)
    ]
    results = dict((make or local_executor)(problem, candidates).train(jobs))
    accuracies = np.array([results[i].accuracy for i in range(len(jobs))], float)
    names = [f"network {i + 1}" for i in range(len(files))]
    return report(names, accuracies.reshape(len(files), len(files), seeds)) | {
        "dataset": dataset_name(problem),
        "epochs": epochs,
        "networks": [
            {"file": str(file), "flops": count(c.arch).flops, "recipe": c.recipe.to_dict()}
            for file, c in zip(files, candidates, strict=True)
        ],
    }


def report(names: Sequence[str], accuracies: np.ndarray) -> dict[str, Any]:
    """Compares own and others' recipes: each network, and the mean of all.

    `accuracies` are `float64[M, M, S]` of network, recipe and seed; nan where a training failed.
    """
    own = np.array([accuracies[i, i] for i in range(len(names))])
    swapped = np.array([np.delete(accuracies[i], i, 0).mean(0) for i in range(len(names))])
    compared = [*zip(names, own, swapped, strict=True), ("all", own.mean(0), swapped.mean(0))]
    rows = [
        row(name, {"own": np.mean(a), "swapped": np.mean(b)}, judge(a - b))
        for name, a, b in compared
    ]
    plain = [[[number(a) for a in recipe] for recipe in network] for network in accuracies]
    return {"claim": CLAIM, "rows": rows, "accuracies": plain}


def _candidate(file: Path) -> Candidate:
    arch, recipe = read_candidate(file)
    if recipe is None:
        raise SpaceError(f"`{file}` holds an architecture without a recipe")
    return Candidate(arch, recipe)


def measure(config: Config, console: Console) -> dict[str, Any]:
    """Tries the claim; returns the report."""
    del console
    files = [Path(file) for file in flags.FLAGS.candidates]
    return compare(config, files, flags.FLAGS.seeds)


if __name__ == "__main__":
    define_paths("candidates", "Files of candidates, two or more.")
    sys.exit(run_experiment(__doc__, measure, "swapped_recipes"))
