"""One study from config to result; read `run_study` from top to bottom."""

import contextlib
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from jointnas_jax.config import Config, check_asking
from jointnas_jax.data.source import Images
from jointnas_jax.errors import StudyError
from jointnas_jax.execution.executor import Executor
from jointnas_jax.execution.factory import make_executor
from jointnas_jax.execution.job import Job, RunContext, TrainResult
from jointnas_jax.execution.lane_batches import TrainFn
from jointnas_jax.models.confusion import confusion
from jointnas_jax.models.model import Model
from jointnas_jax.predictor.fit import PredictorState
from jointnas_jax.problem.problem import PRETRAIN_STREAM, Problem, build_problem
from jointnas_jax.runtime.interrupt import Interrupt
from jointnas_jax.space import Candidate
from jointnas_jax.storage.weights import load_variables
from jointnas_jax.storage.workdir import WorkdirState
from jointnas_jax.strategy.accuracy_scale import accuracy_scale
from jointnas_jax.strategy.evolution import Evolution, diverse
from jointnas_jax.strategy.searcher import Searcher
from jointnas_jax.study.coarse_stage import CoarseStage, Searched
from jointnas_jax.study.result import Contender, build_result, print_result
from jointnas_jax.study.study_files import StudyFiles
from jointnas_jax.study.study_forecast import (
    SAMPLE,
    find_teacher,
    forecast_study,
    print_forecast,
)
from jointnas_jax.study.trial_runner import TrialRunner, TrialSpec
from jointnas_jax.telemetry.console import watched
from jointnas_jax.telemetry.progress import Progress
from jointnas_jax.telemetry.stage_timer import StageTimer

# Streams of the study's key. A key depends on the stream and an index, never on what was drawn
# before. Trainings have the key of their seed: two candidates differ in what they are, and not in
# their draws.
_PRETRAIN, _SEARCH, _EVOLVE, _TRAIN = range(4)

# With the arguments of `make_executor`.
MakeExecutor = Callable[..., Executor]


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
    *,
    overwrite: bool = False,
    interrupt: Interrupt | None = None,
    progress: Progress | None = None,
    make: MakeExecutor = make_executor,
    train_fn: TrainFn | None = None,
) -> dict[str, Any]:
    """Runs a whole study, or goes on with it.

    Args:
      config: a checked config.
      workdir: folder of everything that the study writes.
      console: console for messages.
      overwrite: replace what the workdir holds of a study.
      interrupt: says when to save and stop.
      progress: progress of the run; None: it is shown as suits the console.
      make: makes the executor.
      train_fn: trains the jobs of an assignment; None: as `LocalExecutor` does.

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
        if files.found is WorkdirState.FINISHED:
            text = f"`{workdir}` holds this study, finished; --overwrite runs it again."
            progress.console.print(text)
            return files.finished()
        interrupt.check()
        timer = StageTimer(progress.stage)
        with timer.listening(), progress.shown():
            return _run(
                config,
                files,
                progress=progress,
                interrupt=interrupt,
                timer=timer,
                make=functools.partial(make, train_fn=train_fn),
                weights=train_fn is None,
            )


def _run(
    config: Config,
    files: StudyFiles,
    *,
    progress: Progress,
    interrupt: Interrupt,
    timer: StageTimer,
    make: MakeExecutor,
    weights: bool,
) -> dict[str, Any]:
    with timer.stage("data"):
        problem = files.problem()
        images = problem.divided_images()
    with timer.stage("pool"):
        pool = problem.pool()
        forecast = forecast_study(problem, pool, len(images[0]), find_teacher(config))
        sample = [problem.space.decode(vector).arch for vector in pool[:SAMPLE]]
        factors = files.provenance.speed_factors if files.provenance else None
        context = RunContext(files.workdir, factors, interrupt=interrupt, progress=progress)
        searcher = problem.searcher()
        executor = make(config, problem.space, images, sample=sample, context=context)
    with contextlib.closing(executor):
        print_forecast(problem, forecast, progress.console)
        for line in problem.missing_classes(images):
            progress.say(f"warning: {line}")
        # The last thing before training: bad input leaves no trace.
        store = files.open(executor, problem, progress.console)
        with contextlib.closing(store):
            runner = TrialRunner(
                problem,
                executor,
                store,
                workdir=files.workdir,
                trainings=forecast.trainings,
                progress=progress,
            )
            scale, stored = executor.speed_factors[0], runner.stored.values()
            progress.begin(files.workdir, forecast.parts, scale, stored)
            interrupt.command = progress.command
            study = Study(
                problem,
                runner,
                files,
                progress=progress,
                searcher=searcher,
                test=images[2],
                weights=weights,
            )
            return _stages(study, pool, timer, interrupt)


def _stages(
    study: "Study", pool: np.ndarray, timer: StageTimer, interrupt: Interrupt
) -> dict[str, Any]:
    """Runs the stages of a study, and writes its result."""
    with timer.stage("pretraining"):
        pretrained = study.pretrain()
    interrupt.check()
    with timer.stage("coarse stage"):
        searched = study.coarse(pool, pretrained)
    interrupt.check()
    with timer.stage("fine stage"):
        evolution = study.evolve(searched)
        finalists = study.finalists(searched, evolution)
    with timer.stage("random search"):
        trained = len(searched.state.vectors) + len(finalists) - 1
        references = study.references(trained, searched)
    with timer.stage("finalists"):
        study.validate([*finalists, *references])
        finalists.sort(key=lambda contender: -contender.mean_score)
        winners = study.winners(finalists)
    with timer.stage("retraining"):
        study.retrain(winners, references)
    result = build_result(
        study.problem,
        searched,
        evolution,
        winners=winners,
        finalists=finalists,
        references=references,
        runner=study.runner,
        timer=timer,
        test_labels=study.test.labels,
    )
    study.files.result(result)
    print_result(result, study.progress.console)
    return result


@dataclasses.dataclass(frozen=True)
class Study:
    """The stages of a study, and what they share.

    Attributes:
      problem: its task.
      runner: trains, and stores every trial.
      files: its workdir.
      progress: progress of the run.
      searcher: searcher of the problem.
      test: the test split.
      weights: whether trainings return the weights of networks, not of a stand-in.
    """

    problem: Problem
    runner: TrialRunner
    files: StudyFiles
    progress: Progress
    searcher: Searcher
    test: Images
    weights: bool = True

    @property
    def config(self) -> Config:
        """The config of the problem."""
        return self.problem.config

    def pretrain(self) -> PredictorState:
        """Pretrains the predictor's encoders on the costs of random architectures."""
        rng = np.random.default_rng((self.config.seed, PRETRAIN_STREAM))
        vectors = self.problem.space.sample(rng, self.config.predictor.pretrain_samples)
        return self.searcher.pretrain(vectors, self._key(_PRETRAIN, 0))

    def coarse(self, pool: np.ndarray, pretrained: PredictorState) -> Searched:
        """Runs the coarse stage, and writes its predictor for `search_budgets`."""
        stage = CoarseStage(
            self.problem,
            self.searcher,
            self.runner,
            self.progress,
            key=self._key(_TRAIN, 0),
        )
        searched = stage.run(pool, pretrained, self._key(_SEARCH, 0))
        self.files.predictor(lambda path: self.searcher.predictor.save(path, searched.fitted))
        return searched

    def evolve(self, searched: Searched) -> Evolution[np.ndarray]:
        """Runs the fine stage from all trials and the pool, whose scores cost nothing."""
        state = searched.state
        evolution = self.searcher.fine_stage(
            state.measured[0], state.pool, searched.fitted, self._key(_EVOLVE, 0)
        )
        scale = accuracy_scale(self.runner.stored.values())
        self.progress.say(
            f"fine stage: {evolution.generations} generations of {evolution.children:,} children "
            f"in all, {evolution.duplicates:,} of them duplicates; best prediction "
            f"{scale.accuracy(float(evolution.scores[0])):.2%}"
        )
        return evolution

    def finalists(self, searched: Searched, evolution: Evolution[np.ndarray]) -> list[Contender]:
        """Picks the best of the fine stage, and the best measured candidate of the coarse stage."""
        state = searched.state
        measured = state.vectors[np.nanargmax(state.scores)]
        alive = np.asarray(evolution.population)[np.isfinite(evolution.scores)]
        new = alive[~(alive == measured).all(axis=1)]
        evolved = diverse(new, self.config.search.finalists, max(1, len(measured) // 6))
        chosen = np.concatenate([evolved, measured[None]])
        predicted = self.searcher.predictor.predict(searched.fitted, chosen)[0]
        sources = ["fine stage"] * len(evolved) + ["coarse stage"]
        return [
            Contender(source, self.problem.candidate(v), float(p))
            for source, v, p in zip(sources, chosen, predicted, strict=True)
        ]

    def references(self, trained: int, searched: Searched) -> list[Contender]:
        """Finds what the search has to beat: the default candidate and the best by random search.

        Random search gets as many candidates as the search trained, all for the full epochs.
        """
        sources = {"default candidate": self.problem.default}
        if self.config.study.random_reference:
            vectors = self.problem.random_candidates(trained)
            candidates = [self.problem.candidate(vector) for vector in vectors]
            epochs = self.config.train.epochs
            jobs = [Job(candidate, self._key(_TRAIN, 0), epochs) for candidate in candidates]
            outcomes = self.runner.run([TrialSpec("random", job) for job in jobs])
            scores = {i: o.score for i, o in enumerate(outcomes) if o.score is not None}
            source, outcome = f"best of {len(vectors)} random", "all failed"
            if scores:  # or there is nothing to beat
                best = max(scores, key=lambda i: scores[i])
                sources[source], outcome = candidates[best], f"{outcomes[best].accuracy:.2%}"
            self.progress.say(f"{source} candidates: {outcome}")
        return [
            Contender(source, candidate, self._predicted(candidate, searched))
            for source, candidate in sources.items()
        ]

    def validate(self, contenders: Sequence[Contender]) -> None:
        """Trains with all seeds, without the validation images, and measures accuracy on them."""
        trained = self._train_seeds(contenders, "validate")
        for contender, outcomes in zip(contenders, trained, strict=True):
            contender.validation = [outcome.accuracy for outcome in outcomes]
            contender.scores = [outcome.score for outcome in outcomes]

    def winners(self, finalists: Sequence[Contender]) -> list[Contender]:
        """The best finalists none of whose seeds failed; raises `StudyError` if there is none."""
        sound = [f for f in finalists if math.isfinite(f.mean_score)]
        if not sound:
            raise StudyError(f"every finalist failed: {'; '.join(self.runner.reasons())}")
        return sound[: self.config.search.winners]

    def retrain(self, winners: Sequence[Contender], references: Sequence[Contender]) -> None:
        """Trains on the whole training split with all seeds and measures test accuracy, once."""
        contenders = [*winners, *references]
        folders = [self.files.weights(f"winner{i}", w.candidate) for i, w in enumerate(winners)]
        trained = self._train_seeds(contenders, "retrain", folders)
        for contender, outcomes in zip(contenders, trained, strict=True):
            contender.test = [outcome.accuracy for outcome in outcomes]
        for contender, folder in zip(winners, folders, strict=True):
            if folder and self.weights:  # process 0 has them
                contender.confusion = self._confusion(contender, folder)

    def _confusion(self, winner: Contender, folder: Path) -> np.ndarray | None:
        """See `Contender`; None where no training is sound."""
        dataset, pixels = self.problem.dataset, self.runner.executor.pixels
        models = [
            Model(
                arch=winner.candidate.arch,
                image_size=dataset.image_shape[:2],
                crop=None,
                labels=dataset.labels,
                variables=load_variables(folder / f"seed{seed}"),
                mean=tuple(pixels["mean"]),
                std=tuple(pixels["std"]),
            )
            for seed, accuracy in enumerate(winner.test)
            if accuracy is not None
        ]
        return confusion(models, self.test) if models else None

    def _predicted(self, candidate: Candidate, searched: Searched) -> float:
        assert candidate.vector is not None
        predict = self.searcher.predictor.predict
        return float(predict(searched.fitted, candidate.vector[None])[0][0])

    def _train_seeds(
        self, contenders: Sequence[Contender], stage: str, folders: Sequence[Path | None] = ()
    ) -> list[list[TrainResult]]:
        """Trains contenders for the epochs of winners, once per seed, the same seeds for all.

        What is known does not train again: what the search trained as long, with the first seed,
        and a contender that comes from two sources.

        Args:
          contenders: candidates to train.
          stage: `validate` or `retrain`.
          folders: folders for the weights of the first contenders, None in other processes than
            process 0.

        Returns:
          The results of each contender by seed.
        """
        seeds, epochs = self.config.study.seeds, self.config.train.epochs_of_winners
        specs: dict[tuple[bytes, int], TrialSpec] = {}
        known: dict[tuple[bytes, int], TrainResult] = {}
        for rank, (contender, folder) in enumerate(itertools.zip_longest(contenders, folders)):
            for seed in range(seeds):
                job = Job(contender.candidate, self._key(_TRAIN, seed), epochs, stage == "retrain")
                job = dataclasses.replace(job, kept=rank < len(folders))
                weights, name = folder and folder / f"seed{seed}", (contender.identity, seed)
                searched = seed == 0 and stage == "validate" and self.runner.searched(job)
                if searched:
                    known[name] = searched
                elif name not in specs:
                    specs[name] = TrialSpec(stage, job, seed=seed, weights=weights)
        if specs:
            outcomes = self.runner.run(list(specs.values()))
            known |= dict(zip(specs, outcomes, strict=True))
        return [[known[c.identity, seed] for seed in range(seeds)] for c in contenders]

    def _key(self, stream: int, index: int) -> jax.Array:
        root = jax.random.key(self.config.seed)
        return jax.random.fold_in(jax.random.fold_in(root, stream), index)
