"""Trains one candidate fully: on any dataset and all devices, with a state on disk.

An interrupted training goes on from its last saved epoch, to the same result bit for bit. Of
several processes only process 0 reads and writes the workdir.
"""

import contextlib
import dataclasses
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from jointnas_jax.config import Config
from jointnas_jax.data.division import check_division
from jointnas_jax.data.source import ImageDataset, open_dataset
from jointnas_jax.errors import ConfigError, SpaceError, StudyError
from jointnas_jax.execution.job import Job, RunContext, TrainResult
from jointnas_jax.execution.local import LocalExecutor
from jointnas_jax.execution.multihost import GlobalExecutor
from jointnas_jax.files import SCHEMA
from jointnas_jax.models.model import Model, save_model
from jointnas_jax.nets import zoo
from jointnas_jax.nets.cost import count
from jointnas_jax.report.words import metric_of
from jointnas_jax.runtime.distributed import is_first, share
from jointnas_jax.runtime.interrupt import Interrupt
from jointnas_jax.space import Candidate, JointSpace, Knob, read_candidate
from jointnas_jax.storage import workdir as workdirs
from jointnas_jax.storage.lock import locked
from jointnas_jax.study.study_forecast import training_lines
from jointnas_jax.telemetry.console import print_lines, watched
from jointnas_jax.telemetry.progress import Progress
from jointnas_jax.telemetry.time_left import Part

_STAGE = "training"


def train_candidate(
    config: Config,
    name: str,
    workdir: Path,
    *,
    console: Console,
    dry: bool = False,
    target: str = "",
    overwrite: bool = False,
    interrupt: Interrupt | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Trains a candidate on the whole training split and measures test accuracy, once.

    Args:
      config: dataset, training, recipe.
      name: name of the candidate, see `find_candidate`.
      workdir: where everything is written; a training of the same there goes on.
      console: console for messages.
      dry: print the forecast and train nothing.
      target: chip of `CHIPS` that the forecast is for; "": this machine.
      overwrite: replace an earlier training in the workdir.
      interrupt: request to save and stop.
      progress: progress of the training; None: one that suits the console.

    Returns:
      The content of `result.json`, which is written too; empty for a dry run, and in other
      processes than process 0.

    Raises:
      InputError: before anything trains.
      BusyError: another run owns the workdir.
      DamagedError: what is stored there is not what was written.
      StudyError: the loss was not finite.
      StorageError: something cannot be written.
      InterruptedStudyError: the run was interrupted.
    """
    dataset = open_dataset(dataclasses.asdict(config.data))
    dataset.check_disjoint(config.data.train_split, config.data.test_split)
    candidate = find_candidate(config, name, dataset)
    _print_plan(config, dataset, candidate, console=console, target=target)
    if dry:
        return {}
    interrupt, progress = interrupt or Interrupt(), progress or watched(console)
    with locked(workdir) if is_first() else contextlib.nullcontext(), progress.shown():
        progress.stage(_STAGE)
        return _train(
            config,
            dataset,
            candidate,
            workdir=workdir,
            progress=progress,
            overwrite=overwrite,
            interrupt=interrupt,
        )


def _train(
    config: Config,
    dataset: ImageDataset,
    candidate: Candidate,
    *,
    workdir: Path,
    progress: Progress,
    overwrite: bool,
    interrupt: Interrupt,
) -> dict[str, Any]:
    described, console = candidate.to_dict(), progress.console
    # Before any image or teacher is read.
    stored = None
    if is_first() and not overwrite:
        stored = workdirs.finished_training(workdir, config, described)
    if share(stored is not None):
        console.print(f"`{workdir}` holds this training, finished; --overwrite does it again.")
        return stored or {}
    train, test = dataset.open_splits(config.data)
    if len(train) < config.train.batch_size:
        raise ConfigError(
            f"`config.train.batch_size` must be at most the {len(train)} training images, got "
            f"{config.train.batch_size}"
        )
    validation = np.zeros(len(train), bool)  # all images are trained on
    for line in check_division(train.labels, validation, test.labels, dataset.labels):
        progress.say(f"warning: {line}")
    context = RunContext(workdir, None, interrupt, progress)
    space = JointSpace.fixed(candidate)
    make = GlobalExecutor if config.executor == "pod" else LocalExecutor
    executor = make(config, space, (train, validation, test), context=context)
    if is_first():
        workdirs.start_training(workdir, config, described, overwrite)
        progress.begin(workdir, [Part(_STAGE, 1, 0.0, 0.0)])
    interrupt.command = progress.command
    progress.batch(_STAGE)
    start, epochs = time.perf_counter(), config.train.epochs_of_winners

    def tell(epoch: int, loss: float) -> None:
        progress.scalar("training/loss", loss, epoch)
        if not console.is_terminal:  # which shows a bar
            progress.say(f"epoch {epoch} of {epochs}: loss {loss:.4f}")

    job = Job(
        candidate,
        jax.random.key(config.seed),
        epochs,
        on_full_split=True,
        progress=tell,
    )
    (outcome,) = executor.run([job])
    progress.trained(_STAGE)
    if outcome.reason is not None:
        raise StudyError(f"the training failed: {outcome.reason}")
    if not is_first():
        return {}
    seconds = round(time.perf_counter() - start, 2)
    result = _write(
        config,
        dataset,
        candidate,
        workdir=workdir,
        outcome=outcome,
        pixels=executor.pixels,
        seconds=seconds,
    )
    progress.scalar("training/test_accuracy", result["accuracy"], epochs)
    print_accuracy(result, console)
    return result


def _write(
    config: Config,
    dataset: ImageDataset,
    candidate: Candidate,
    *,
    workdir: Path,
    outcome: TrainResult,
    pixels: dict[str, list[float]],
    seconds: float,
) -> dict[str, Any]:
    """Writes the trained model and `result.json`, whose content is returned."""
    result = {
        "schema": SCHEMA,
        "name": config.name,
        "dataset": {"name": dataset.name, "pixels": pixels},
        "candidate": candidate.to_dict(),
        "costs": dataclasses.asdict(count(candidate.arch)),
        "epochs": config.train.epochs_of_winners,
        "metric": config.search.metric,
        "accuracy": outcome.accuracy,
        "seconds": seconds,
    }
    height, width, _ = dataset.image_shape
    model = Model(
        arch=candidate.arch,
        image_size=(height, width),
        crop=1.0,
        labels=dataset.labels,
        variables=outcome.variables,
        mean=tuple(pixels["mean"]),
        std=tuple(pixels["std"]),
    )
    save_model(model, workdir / workdirs.TRAINED, overwrite=True)
    workdirs.finish_training(workdir, result)
    return result


def print_accuracy(result: dict[str, Any], console: Console) -> None:
    """Prints what came out, given the content of `result.json`."""
    console.print(f"  test {metric_of(result)} {result['accuracy']:.2%}", highlight=False)


def _print_plan(
    config: Config, dataset: ImageDataset, candidate: Candidate, *, console: Console, target: str
) -> None:
    train, costs = config.train, count(candidate.arch)
    lines = {
        "training": f"{config.name}, {train.epochs_of_winners} epochs, batches of "
        f"{train.batch_size}",
        "data": str(dataset),
        "network": f"{costs.flops:,} FLOPs, {costs.params:,} params, images of "
        f"{candidate.arch.resolution} x {candidate.arch.resolution}",
        "recipe": ", ".join(f"{k} {v}" for k, v in candidate.recipe.to_dict().items()),
    }
    print_lines(lines | training_lines(config, dataset, candidate, target), console)


def find_candidate(config: Config, name: str, dataset: ImageDataset) -> Candidate:
    """Finds a candidate, and makes its classifier fit a dataset.

    Args:
      config: what its `space.recipe` fixes holds for every candidate; its default candidate has
        the rest, for an architecture that comes without a recipe.
      name: name of a published network, or of a JSON file of a candidate or an architecture; "":
        the config's default candidate.
      dataset: to train on.

    Raises:
      SpaceError: there is no such candidate, or it is for images with other channels.
    """
    channels, classes = dataset.image_shape[2], dataset.num_classes
    space = JointSpace.from_config(config.space, channels, classes)
    default = space.decode(space.vector_from_values(config.default))
    name = name or config.arch_file
    arch, own = (zoo.find(name) if name else default.arch), None
    if name not in ("", *zoo.NAMES):
        own = read_candidate(Path(name))[1]
    if arch.image_channels != channels:
        raise SpaceError(
            f"`{name}` is for images of {arch.image_channels} channels, `{dataset.name}` has "
            f"{channels}"
        )
    fixed: dict[str, Any] = {
        slot: space.recipe_slots[slot]
        for slot in config.space.get("recipe", {})
        if not isinstance(space.recipe_slots[slot], Knob)
    }
    recipe = dataclasses.replace(own or default.recipe, **fixed)
    return Candidate(dataclasses.replace(arch, num_classes=classes), recipe)
