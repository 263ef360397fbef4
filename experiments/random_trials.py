"""Random candidates, trained for all epochs: what two of the claims are tried on.

They are expensive, so a file of JSON lines stores them: first the settings that they depend on,
then one trial a line. A second call trains what is missing only.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console

from experiments.verdict import FEWEST
from jointnas_jax.config import Config
from jointnas_jax.errors import WorkdirError
from jointnas_jax.execution.executor import Executor
from jointnas_jax.execution.job import Job
from jointnas_jax.execution.local import LocalExecutor
from jointnas_jax.nets.cost import count
from jointnas_jax.problem.problem import Problem, build_problem
from jointnas_jax.space import Candidate
from jointnas_jax.storage.trial_store import COMPLETED, Trial
from jointnas_jax.storage.workdir import jsonable
from jointnas_jax.strategy.early_stop import kendall, spearman
from jointnas_jax.study.trial_runner import measured

# Makes what trains candidates like some of a problem.
MakeExecutor = Callable[[Problem, Sequence[Candidate]], Executor]


class RandomTrials(NamedTuple):
    """Trained candidates, without those that failed."""

    problem: Problem
    vectors: np.ndarray  # int32[n, K]
    curves: np.ndarray  # float64[n, T], validation accuracy after each epoch
    # float64[a, 2], last accuracies of candidates that trained twice, with other weights, batches
    # and augmentation.
    twice: np.ndarray
    failed: int  # number of failed trainings

    def summary(self) -> dict[str, Any]:
        """What every report on them says first.

        `ceiling` is the rank correlation of a candidate's accuracy with that of its second
        training; a predictor of one training's accuracy cannot be expected to do better.
        """
        first, second = self.twice.T
        good = len(self.twice) >= FEWEST
        return {
            "dataset": dataset_name(self.problem),
            "candidates": len(self.vectors),
            "failed": self.failed,
            "epochs": self.curves.shape[1],
            "ceiling": {
                "candidates": len(self.twice),
                "kendall": kendall(first, second) if good else None,
                "spearman": spearman(first, second) if good else None,
            },
        }


def dataset_name(problem: Problem) -> str:
    """Name and version of the dataset of a problem that was built with it."""
    return problem.dataset.name


def local_executor(problem: Problem, candidates: Sequence[Candidate]) -> Executor:
    """Trains on the devices of this process."""
    sample = [candidate.arch for candidate in candidates]
    return LocalExecutor(problem.config, problem.space, problem.divided_images(), sample=sample)


def random_trials(
    config: Config,
    path: Path,
    *,
    wanted: int,
    twice: int,
    console: Console,
    make: MakeExecutor = local_executor,
) -> RandomTrials:
    """Reads trials from a file and trains those that it lacks.

    Stored ones are scheduled all the same, so that the rest meets the same programs.

    Args:
      config: a study.
      path: the file.
      wanted: candidates; fewer where the space has no more within the budget.
      twice: how many of them, the first ones, train a second time.
      console: where progress goes.
      make: makes what trains.

    Raises:
      InputError: bad config or data, or a file that holds something else; before anything trains.
    """
    problem, epochs, root = build_problem(config), config.train.epochs, jax.random.key(config.seed)
    vectors = problem.random_candidates(wanted)
    # By position and number of the training.
    pairs = [(i, t) for t, n in enumerate((wanted, twice)) for i in range(min(n, len(vectors)))]
    settings = _settings(problem)
    trials = _read(path, settings)
    trained = [position for position, pair in enumerate(pairs) if pair in trials]
    if len(trained) < len(pairs):
        candidates = [problem.space.decode(vector) for vector in vectors]
        executor = make(problem, candidates)
        left = len(pairs) - len(trained)
        console.print(f"  {left} trainings of {epochs} epochs, stored in {path}", highlight=False)
        if path.exists():
            os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
        else:
            _append(path, settings)
        key = lambda i, training: jax.random.fold_in(jax.random.fold_in(root, training), i)
        jobs = [Job(candidates[i], key(i, training), epochs) for i, training in pairs]
        with contextlib.closing(executor.train(jobs, stored=trained)) as completed:
            for position, result in completed:
                i, training = pair = pairs[position]
                trials[pair] = Trial(
                    number=i,
                    stage="random",
                    round=None,
                    seed=training,
                    knobs=problem.space.values(vectors[i]),
                    costs=dataclasses.asdict(count(candidates[i].arch)),
                    predicted=None,
                    epochs=len(result.accuracies),
                    **measured(result),
                )
                _append(path, dataclasses.asdict(trials[pair]))
        console.print(f"  {executor.schedules[-1]}", highlight=False)
    sound = {pair: trials[pair] for pair in pairs if trials[pair].status == COMPLETED}
    first = [i for i, training in sound if training == 0]
    both = [i for i in first if (i, 1) in sound]
    return RandomTrials(
        problem=problem,
        vectors=vectors[first],
        curves=np.array([sound[i, 0].accuracies for i in first]).reshape(len(first), -1),
        twice=np.array([[sound[i, t].score for t in (0, 1)] for i in both]).reshape(-1, 2),
        failed=len(pairs) - len(sound),
    )


def _settings(problem: Problem) -> dict[str, Any]:
    """Everything that trained candidates depend on; where the dataset lies is not of it."""
    config = problem.config.to_dict()
    settings = {name: config[name] for name in ("seed", "budget", "data", "space", "train")}
    settings["data"] = {k: v for k, v in settings["data"].items() if k not in ("name", "dir")}
    settings |= {"dataset": dataset_name(problem), "validation": "drawn by class"}
    return json.loads(json.dumps(jsonable(settings)))


def _read(path: Path, settings: Mapping[str, Any]) -> dict[tuple[int, int], Trial]:
    """The trials of a file by (position, training); none where there is no file."""
    if not path.exists():
        return {}
    try:
        head, *lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        if lines and not lines[-1].endswith("\n"):  # torn by a kill
            lines.pop()
        stored = json.loads(head)
        other = [name for name, value in settings.items() if stored.get(name) != value]
        trials = [] if other else [Trial(**json.loads(line)) for line in lines]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise WorkdirError(
            f"`--trials={path}` must be a file of trials that this script wrote: {error}"
        ) from error
    if other:
        raise WorkdirError(
            f"`--trials={path}` holds trials with another `{other[0]}`; give another file"
        )
    return {(trial.number, trial.seed or 0): trial for trial in trials}


def _append(path: Path, line: Mapping[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")
    except OSError as error:
        raise WorkdirError(f"`--trials={path}` cannot be written: {error.strerror}") from error
