"""One study from config to result; read `run_study` from top to bottom."""

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from jointnas_jax.config import Config, check_asking
from jointnas_jax.data.source import Images
from jointnas_jax.errors import StudyError
from jointnas_jax.execution.factory import make_executor
from jointnas_jax.execution.job import Job, RunContext, TrainResult
from jointnas_jax.execution.lane_batches import TrainFn
from jointnas_jax.predictor.fit import PredictorState
from jointnas_jax.predictor.predictor import Fitted
from jointnas_jax.problem.problem import PRETRAIN_STREAM, Problem, build_problem
from jointnas_jax.runtime.interrupt import Interrupt
from jointnas_jax.search.coarse import Round
from jointnas_jax.search.evolution import Evolution, diverse
from jointnas_jax.space import Candidate
from jointnas_jax.storage.workdir import Found
from jointnas_jax.study.coarse_stage import CoarseStage, Searched, completed_trials
from jointnas_jax.study.result import Contender, build_result, print_result
from jointnas_jax.study.study_files import StudyFiles
from jointnas_jax.study.study_forecast import (
    SAMPLE,
    StudyForecast,
    find_teacher,
    forecast_study,
    print_forecast,
)
from jointnas_jax.study.trial_runner import Batch, Trials
from jointnas_jax.telemetry.console import watched
from jointnas_jax.telemetry.progress import Progress
from jointnas_jax.telemetry.stage_timer import StageTimer

# Streams of the study's key. A key depends on the stream and an index, never on what was drawn
# before.
_PRETRAIN, _SEARCH, _EVOLVE, _COARSE, _RANDOM, _VALIDATE, _RETRAIN = range(7)


def dry_run(config: Config, console: Console) -> None:
    """Prints the forecast of a study; opens the dataset, trains nothing."""
    check_asking(config)
    problem = build_problem(config)
    images = problem.dataset.count(config.data.train_split)
    forecast = forecast_study(problem, problem.pool(), images, find_teacher(config))
    print_forecast(problem, forecast, console)


def run_study(
    config: Config,
    workdir: Path,
    console: Console,
    overwrite: bool = False,
    interrupt: Interrupt | None = None,
    progress: Progress | None = None,
    train_fn: TrainFn | None = None,
) -> dict[str, Any]:
    """Runs a whole study, or goes on with it.

    Args:
      config: a checked config.
      workdir: where everything is written.
      console: for what is told.
      overwrite: replace what the workdir holds of a study.
      interrupt: tells when to save and stop.
      progress: told where the study is; None: it is shown as suits the console.
      train_fn: see `LocalExecutor`.

    Returns:
      The content of `result.json`, which is written too.

    Raises:
      InputError: before anything trains.
      BusyError: another run owns the workdir.
      DamagedError: what is stored of the study is not what was written.
      StudyError: every trial of a stage failed.
      StorageError: something cannot be written.
      InterruptedStudyError: the run was interrupted.
    """
    check_asking(config)
    interrupt = interrupt or Interrupt()
    progress = progress or watched(console)
    files = StudyFiles(workdir, config)
    with files.owned(overwrite):
        if files.found is Found.FINISHED:
            text = f"`{workdir}` holds this study, finished; --overwrite runs it again."
            progress.console.print(text)
            return files.finished()
        interrupt.check()
        meter = StageTimer(progress.stage)
        with meter.listening(), progress.shown():
            return _run(config, files, progress, interrupt, meter, train_fn)


def _run(
    config: Config,
    files: StudyFiles,
    progress: Progress,
    interrupt: Interrupt,
    meter: StageTimer,
    train_fn: TrainFn | None,
) -> dict[str, Any]:
    with meter.stage("data"):
        problem = files.problem()
        images = problem.divided_images()
    with meter.stage("pool"):
        pool = problem.pool()
        forecast = forecast_study(problem, pool, len(images[0]), find_teacher(config))
        study = Study(problem, pool, images, forecast, files, progress, interrupt, train_fn)
    with contextlib.closing(study.evaluator):
        print_forecast(problem, forecast, progress.console)
        study.open()  # the last thing before training: bad input leaves no trace
        interrupt.command = progress.command
        with contextlib.closing(study.trials):
            return _stages(study, pool, meter, interrupt)


def _stages(
    study: "Study", pool: np.ndarray, meter: StageTimer, interrupt: Interrupt
) -> dict[str, Any]:
    """Runs the stages of an open study, and writes its result."""
    with meter.stage("pretraining"):
        pretrained = study.pretrain()
    interrupt.check()
    with meter.stage("coarse stage"):
        rounds, cards, stop, fitted = study.coarse(pool, pretrained)
        study.save_predictor(fitted)
    interrupt.check()
    with meter.stage("fine stage"):
        evolution = study.evolve(pool, rounds, fitted)
        finalists = study.finalists(rounds, evolution, fitted)
    with meter.stage("random search"):
        trained = sum(len(r.vectors) for r in rounds) + len(finalists) - 1
        references = study.references(trained, fitted)
    with meter.stage("finalists"):
        study.validate([*finalists, *references])
        finalists.sort(key=lambda contender: -contender.mean_validation)
        winners = study.winners(finalists)
    with meter.stage("retraining"):
        study.retrain(winners, references)
    result = build_result(
        *(study.problem, study.evaluator.pixels, rounds, cards, stop, evolution),
        *(winners, finalists, references, study.trials.count, meter),
    )
    study.files.result(result)
    print_result(result, study.progress.console)
    return result


class Study:
    """The stages of a study, and what they share."""

    def __init__(
        self,
        problem: Problem,
        pool: np.ndarray,
        images: tuple[Images, np.ndarray, Images],
        forecast: StudyForecast,
        files: StudyFiles,
        progress: Progress,
        interrupt: Interrupt,
        train_fn: TrainFn | None = None,
    ):
        """Puts the images on the devices.

        Args:
          problem: the problem.
          pool: `int32[P, K]`.
          images: training split, `bool[N]` which of it are for validation, test split.
          forecast: of the study.
          files: where everything is written.
          progress: told where the study is.
          interrupt: tells when to save and stop.
          train_fn: see `LocalExecutor`.

        Raises:
          InputError: the study may not go on here.
          DamagedError: what is stored of it is not what was written.
        """
        self.problem, self.config = problem, problem.config
        self.files, self.progress, self._forecast = files, progress, forecast
        sample = [problem.space.decode(vector).arch for vector in pool[:SAMPLE]]
        factors = files.provenance and files.provenance.speed_factors
        self.evaluator = make_executor(
            self.config,
            problem.space,
            images,
            sample=sample,
            context=RunContext(files.workdir, factors, interrupt, progress),
            train_fn=train_fn,
        )
        self.searcher, self._epochs = problem.searcher(), self.config.train.epochs

    def open(self) -> None:
        """Opens the store, and begins the study where it did not begin before.

        Raises:
          InputError: the store or the workdir cannot be used.
          DamagedError: a stored trial is not what was written.
        """
        store = self.files.open(self.evaluator, self.problem, self.progress.console)
        folder = self.files.workdir
        self.trials = Trials(
            *(self.evaluator, store, self.problem.space, folder),
            *(self._forecast.trainings, self.progress, self.problem.costs_of),
        )
        known, scale = self.trials.stored.values(), self.evaluator.speed_factors[0]
        self.progress.begin(folder, self._forecast.parts, scale, known)

    def pretrain(self) -> PredictorState:
        """Pretrains the predictor's encoders on the costs of random architectures."""
        rng = np.random.default_rng((self.config.seed, PRETRAIN_STREAM))
        vectors = self.problem.space.sample(rng, self.config.predictor.pretrain_samples)
        return self.searcher.pretrain(vectors, self._key(_PRETRAIN, 0))

    def coarse(self, pool: np.ndarray, pretrained: PredictorState) -> Searched:
        """Runs the coarse stage."""
        stage = CoarseStage(
            *(self.problem, self.searcher, self.trials, self.progress, self._key(_SEARCH, 0)),
            lambda number: self._key(_COARSE, number),
        )
        return stage.run(pool, pretrained)

    def evolve(self, pool: np.ndarray, rounds: Sequence[Round], fitted: Fitted) -> Evolution:
        """Runs the fine stage from all trials and the pool, whose scores cost nothing."""
        trained = completed_trials(rounds)[0]
        evolution = self.searcher.fine_stage(trained, pool, fitted, self._key(_EVOLVE, 0))
        self.progress.say(
            f"fine stage: {evolution.generations} generations of {evolution.children:,} children "
            f"in all, {evolution.duplicates:,} of them duplicates; best prediction "
            f"{evolution.scores[0]:.2%}"
        )
        return evolution

    def finalists(
        self, rounds: Sequence[Round], evolution: Evolution, fitted: Fitted
    ) -> list[Contender]:
        """Picks the best of the fine stage, and the best measured candidate of the coarse stage."""
        vectors = np.concatenate([r.vectors for r in rounds])
        scores = np.concatenate([r.scores for r in rounds])
        measured = vectors[np.nanargmax(scores)]
        alive = evolution.population[np.isfinite(evolution.scores)]
        new = alive[~(alive == measured).all(axis=1)]
        evolved = diverse(new, self.config.search.finalists, max(1, len(measured) // 6))
        chosen = np.concatenate([evolved, measured[None]])
        predicted = self.searcher.predictor.predict(fitted, chosen)[0]
        sources = ["fine stage"] * len(evolved) + ["coarse stage"]
        return [
            Contender(source, self.problem.space.decode(v), v, float(p))
            for source, v, p in zip(sources, chosen, predicted, strict=True)
        ]

    def references(self, trained: int, fitted: Fitted) -> list[Contender]:
        """Finds what the search has to beat: the default candidate and the best by random search.

        Random search gets as many candidates as the search trained, all for the full epochs.
        """
        space = self.problem.space
        references = [self._contender("default candidate", self.problem.default, fitted)]
        if self.config.study.random_reference:
            vectors = self.problem.random_candidates(trained)
            jobs = [
                Job(space.decode(v), self._key(_RANDOM, i), self._epochs)
                for i, v in enumerate(vectors)
            ]
            outcomes = self.trials.run(Batch("random", vectors, jobs))
            scores = {i: o.accuracies[-1] for i, o in enumerate(outcomes) if o.reason is None}
            source = f"best of {len(vectors)} random"
            if scores:  # or there is nothing to beat
                best = space.decode(vectors[max(scores, key=scores.get)])
                references.append(self._contender(source, best, fitted))
            found = f"{max(scores.values()):.2%}" if scores else "all failed"
            self.progress.say(f"{source} candidates: {found}")
        return references

    def validate(self, contenders: Sequence[Contender]) -> None:
        """Trains with all seeds, without the validation images, and measures accuracy on them."""
        for contender, outcomes in self._train_seeds(contenders, "validate", _VALIDATE):
            contender.validation = [o.accuracy for o in outcomes]

    def winners(self, finalists: Sequence[Contender]) -> list[Contender]:
        """The best finalists none of whose seeds failed; raises `StudyError` if there is none."""
        sound = [f for f in finalists if math.isfinite(f.mean_validation)]
        if not sound:
            raise StudyError(f"every finalist failed: {'; '.join(self.trials.reasons())}")
        return sound[: self.config.search.winners]

    def retrain(self, winners: Sequence[Contender], references: Sequence[Contender]) -> None:
        """Trains on the whole training split with all seeds and measures test accuracy, once."""
        contenders = [*winners, *references]
        kept = [self.files.weights(f"winner{i}", w.candidate) for i, w in enumerate(winners)]
        folders = kept + [None] * len(references)
        trained = self._train_seeds(contenders, "retrain", _RETRAIN, folders, len(winners))
        for contender, outcomes in trained:
            contender.test = [o.accuracy for o in outcomes]

    def save_predictor(self, fitted: Fitted) -> None:
        """Writes the predictor, for `search_budgets`."""
        self.files.predictor(lambda path: self.searcher.predictor.save(path, fitted))

    def _contender(self, source: str, candidate: Candidate, fitted: Fitted) -> Contender:
        vector = self.problem.space.encode(candidate)
        predicted = self.searcher.predictor.predict(fitted, vector[None])[0]
        return Contender(source, candidate, vector, float(predicted[0]))

    def _train_seeds(
        self,
        contenders: Sequence[Contender],
        stage: str,
        stream: int,
        folders: Sequence[Path | None] = (),
        kept: int = 0,
    ) -> list[tuple[Contender, list[TrainResult]]]:
        """Trains every contender for the final epochs, once per seed, the same seeds for all.

        Args:
          contenders: C.
          stage: of the trials.
          stream: of keys.
          folders: C for weights, None for those that are not written here; empty: for none.
          kept: how many contenders, the first ones, have their weights written by somebody.
        """
        seeds = range(self.config.study.seeds)
        epochs = self.config.train.epochs_of_winners
        jobs, vectors, weights = [], [], []
        for rank, (contender, folder) in enumerate(itertools.zip_longest(contenders, folders)):
            recipe = contender.candidate.recipe.stretched(epochs / self._epochs)
            candidate = dataclasses.replace(contender.candidate, recipe=recipe)
            for seed in seeds:
                job = Job(candidate, self._key(stream, seed), epochs, stream == _RETRAIN)
                jobs.append(dataclasses.replace(job, kept=rank < kept))
                vectors.append(contender.vector)
                weights.append(folder and folder / f"seed{seed}")
        numbers = [*seeds] * len(contenders)
        batch = Batch(stage, np.array(vectors), jobs, seeds=numbers, weights=weights)
        outcomes = self.trials.run(batch)
        return [
            (contender, outcomes[i * len(seeds) : (i + 1) * len(seeds)])
            for i, contender in enumerate(contenders)
        ]

    def _key(self, stream: int, index: int) -> jax.Array:
        root = jax.random.key(self.config.seed)
        return jax.random.fold_in(jax.random.fold_in(root, stream), index)
