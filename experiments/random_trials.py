"""Random candidates, trained for all epochs: what two of the claims are tried on.

They are kept in a file of JSON lines, since they are expensive: first the settings that they depend
on, then one trial a line. A second call trains what is missing only.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console

from jointnas_jax.config import Config
from jointnas_jax.errors import InputError, WorkdirError
from jointnas_jax.execution.job import Job, TrainResult
from jointnas_jax.execution.local import Evaluator
from jointnas_jax.nets.cost import count
from jointnas_jax.problem.problem import Problem, build_problem
from jointnas_jax.space import Candidate
from jointnas_jax.storage.trial_store import COMPLETED, Trial
from jointnas_jax.storage.workdir import jsonable
from jointnas_jax.strategy.early_stop import kendall, spearman
from jointnas_jax.study.trial_runner import measured

# Fewer candidates than this cannot be ranked in any way that means something.
_FEWEST = 3


class RandomTrials(NamedTuple):
    """Trained candidates, without those that failed.

    Attributes:
      problem: what they are candidates of.
      vectors: `int32[n, K]`.
      curves: `float64[n, T]`, validation accuracy after each epoch.
      twice: `float64[a, 2]`, final accuracies of candidates that were trained twice, with other
        weights, batches and augmentation.
      failed: trainings that failed.
    """

    problem: Problem
    vectors: np.ndarray
    curves: np.ndarray
    twice: np.ndarray
    failed: int

    def facts(self) -> dict[str, Any]:
        """What every report on them says first.

        `ceiling` is the rank correlation of a candidate's accuracy with that of its second
        training; a predictor of one training's accuracy cannot be expected to do better.
        """
        first, second = self.twice.T
        good = len(self.twice) >= _FEWEST
        return {
            "dataset": self.problem.dataset.name,
            "candidates": len(self.vectors),
            "failed": self.failed,
            "epochs": self.curves.shape[1],
            "ceiling": {
                "candidates": len(self.twice),
                "kendall": kendall(first, second) if good else None,
                "spearman": spearman(first, second) if good else None,
            },
        }


def check_sizes(flag: str, sizes: Sequence[int], candidates: int) -> None:
    """Raises `InputError` if a set of one of the sizes leaves too few candidates to test on."""
    most = candidates - _FEWEST
    for size in sizes:
        if not _FEWEST <= size <= most:
            raise InputError(
                f"`--{flag}` must be from {_FEWEST} to {most}, since of {candidates} candidates "
                f"{_FEWEST} have to be left to test on, got {size}; train more with --candidates="
            )


def random_trials(
    config: Config, path: Path, wanted: int, twice: int, console: Console
) -> RandomTrials:
    """Reads trials from a file and trains those that it lacks.

    Args:
      config: of a study.
      path: the file.
      wanted: candidates; fewer where the space has no more within the budget.
      twice: how many of them, the first ones, are trained a second time.
      console: where progress goes.

    Raises:
      InputError: bad config or data, or a file that holds something else; before anything trains.
    """
    problem = build_problem(config)
    vectors = problem.random_candidates(wanted)
    counts = (len(vectors), min(twice, len(vectors)))
    names = [(i, training) for training, n in enumerate(counts) for i in range(n)]
    stored = _read(path, _settings(problem))
    known = [position for position, name in enumerate(names) if name in stored]
    if len(known) < len(names):
        _train(problem, vectors, names, known, path, console)
        stored = _read(path, _settings(problem))
    sound = {name: stored[name] for name in names if stored[name].status == COMPLETED}
    first = [i for i, training in sound if training == 0]
    both = [i for i in first if (i, 1) in sound]
    return RandomTrials(
        problem,
        vectors[first],
        np.array([sound[i, 0].accuracies for i in first]).reshape(len(first), -1),
        np.array([[sound[i, t].score for t in (0, 1)] for i in both]).reshape(-1, 2),
        len(names) - len(sound),
    )


def _train(
    problem: Problem,
    vectors: np.ndarray,
    names: list[tuple[int, int]],
    known: list[int],
    path: Path,
    console: Console,
) -> None:
    """Trains candidates by (position, training), but for the known ones, which are planned only.

    Appends them to the file.
    """
    config = problem.config
    candidates = [problem.space.decode(vector) for vector in vectors]
    evaluator = Evaluator(
        config, problem.space, *problem.divided_images(), [c.arch for c in candidates]
    )
    root, epochs = jax.random.key(config.seed), config.train.epochs
    key = lambda i, training: jax.random.fold_in(jax.random.fold_in(root, training), i)
    console.print(
        f"  {len(names) - len(known)} trainings of {epochs} epochs, kept in {path}", highlight=False
    )
    if path.exists():
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
    else:
        _append(path, _settings(problem))
    jobs = [Job(candidates[i], key(i, training), epochs) for i, training in names]
    with contextlib.closing(evaluator.completed(jobs, known=known)) as completed:
        for job, outcome in completed:
            i, training = names[job]
            trial = _trial(i, training, problem.space.values(vectors[i]), candidates[i], outcome)
            _append(path, dataclasses.asdict(trial))
    console.print(f"  {evaluator.packings[-1]}", highlight=False)


def _trial(
    number: int, training: int, knobs: dict[str, Any], candidate: Candidate, outcome: TrainResult
) -> Trial:
    """What is kept of a training."""
    return Trial(
        number=number,
        stage="random",
        round=None,
        seed=training,
        knobs=knobs,
        costs=dataclasses.asdict(count(candidate.arch)),
        predicted=None,
        epochs=len(outcome.accuracies),
        **measured(outcome),
    )


def _settings(problem: Problem) -> dict[str, Any]:
    """Everything that trained candidates depend on; where the dataset lies is not of it."""
    config = problem.config.to_dict()
    kept = {name: config[name] for name in ("seed", "budget", "data", "space", "train")}
    kept["data"] = {k: v for k, v in kept["data"].items() if k not in ("name", "dir")}
    return json.loads(json.dumps(jsonable(kept | {"dataset": problem.dataset.name})))


def _read(path: Path, settings: dict[str, Any]) -> dict[tuple[int, int], Trial]:
    """The trials of a file by (position, training); none where there is no file."""
    if not path.exists():
        return {}
    try:
        head, *lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        if lines and not lines[-1].endswith("\n"):  # what a kill tore
            lines.pop()
        found = json.loads(head)
        other = [name for name in settings if found.get(name) != settings[name]]
        trials = [] if other else [Trial(**json.loads(line)) for line in lines]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise WorkdirError(
            f"`--trials={path}` must be a file of trials that this script wrote: {error}"
        ) from error
    if other:
        raise WorkdirError(
            f"`--trials={path}` holds trials with another `{other[0]}`; give another file"
        )
    return {(trial.number, trial.seed): trial for trial in trials}


def _append(path: Path, line: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")
    except OSError as error:
        raise WorkdirError(f"`--trials={path}` cannot be written: {error.strerror}") from error
