"""One study from config to result; read `run_study` from top to bottom."""

import contextlib
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from jointnas_jax.config import Config, check_asking
from jointnas_jax.execution.executor import Executor
from jointnas_jax.execution.factory import make_executor
from jointnas_jax.execution.job import RunContext
from jointnas_jax.execution.lane_batches import TrainFn
from jointnas_jax.problem.problem import build_problem
from jointnas_jax.runtime.interrupt import Interrupt
from jointnas_jax.storage.workdir import WorkdirState
from jointnas_jax.study.front import FrontRule
from jointnas_jax.study.result import build_result, print_result
from jointnas_jax.study.stages import Stages
from jointnas_jax.study.study_files import StudyFiles
from jointnas_jax.study.study_forecast import (
    SAMPLE,
    find_teacher,
    forecast_study,
    print_forecast,
)
from jointnas_jax.study.trial_runner import TrialRunner
from jointnas_jax.telemetry.console import watched
from jointnas_jax.telemetry.progress import Progress
from jointnas_jax.telemetry.stage_timer import StageTimer

# With the arguments of `make_executor`.
MakeExecutor = Callable[..., Executor]


def dry_run(config: Config, console: Console, target: str = "") -> None:
    """Prints the forecast of a study; opens the dataset, trains nothing.

    It is for a chip of `CHIPS`, or for this machine.
    """
    check_asking(config)
    problem = build_problem(config)
    images = problem.dataset.count(config.data.train_split)
    pool = problem.pool()
    FrontRule.of(problem, pool)  # which refuses what a study would
    forecast = forecast_study(problem, pool, images, find_teacher(config), target)
    print_forecast(problem, forecast, console)
    for line in problem.expectations_in_words():
        console.print(f"  {line}", highlight=False, soft_wrap=True)


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
            if config.study.retry_failed:
                text += (
                    f" What failed trains again with --config.study.extend={workdir}, elsewhere."
                )
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
            )


def _run(
    config: Config,
    files: StudyFiles,
    *,
    progress: Progress,
    interrupt: Interrupt,
    timer: StageTimer,
    make: MakeExecutor,
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
        searcher, rule = problem.searcher(), FrontRule.of(problem, pool)
        executor = make(config, problem.space, images, sample=sample, context=context)
    with contextlib.closing(executor):
        print_forecast(problem, forecast, progress.console)
        for line in problem.missing_classes(images):
            progress.say(f"warning: {line}")
        earlier = files.earlier(executor, problem, progress.console)
        # The last thing before training: bad input leaves no trace.
        store = files.open(executor, problem, progress.console)
        with contextlib.closing(store):
            for line in [*files.data(problem, images), *problem.expectations_in_words()]:
                progress.say(line)
            retried = files.retried()
            if retried and config.study.retry_failed:
                progress.say(f"failed trials train again; {len(retried)} sound ones are kept")
            runner = TrialRunner(
                problem,
                executor,
                store,
                workdir=files.workdir,
                trainings=forecast.trainings,
                progress=progress,
                earlier=earlier,
                retried=retried,
            )
            scale, stored = executor.speed_factors[0], runner.stored.values()
            progress.begin(files.workdir, forecast.parts, scale, stored)
            interrupt.command = progress.command
            study = Stages(
                problem,
                runner,
                files,
                progress=progress,
                searcher=searcher,
                rule=rule,
            )
            return _stages(study, pool, images[2].labels, timer=timer, interrupt=interrupt)


def _stages(
    study: Stages,
    pool: np.ndarray,
    test_labels: np.ndarray,
    *,
    timer: StageTimer,
    interrupt: Interrupt,
) -> dict[str, Any]:
    """Runs the stages of a study, and writes its result."""
    with timer.stage("pretraining"):
        pretrained = study.pretrain()
    interrupt.check()
    with timer.stage("coarse stage"):
        searched = study.coarse(pool, pretrained)
    interrupt.check()
    with timer.stage("fine stage"):
        evolutions = study.evolve(searched)
        finalists = study.finalists(searched, evolutions)
    with timer.stage("random search"):
        new = sum(finalist.source == "fine stage" for finalist in finalists)
        references = study.references(searched.trainings + new, searched)
    with timer.stage("finalists"):
        study.validate([*finalists, references.default, *references.random])
        finalists.sort(key=lambda contender: -contender.mean_score)
        winners = study.winners(finalists)
        references = study.final_references(references, winners, searched)
    with timer.stage("retraining"):
        study.retrain(winners, references)
    result = build_result(
        study.problem,
        searched,
        evolutions,
        winners=winners,
        finalists=finalists,
        references=references,
        runner=study.runner,
        timer=timer,
        test_labels=test_labels,
        expectations=study.searcher.judged_expectations(searched.state),
    )
    stored = study.runner.stored
    study.files.result(result, [stored[number] for number in sorted(stored)])
    print_result(result, study.progress.console)
    return result
