"""Trains the same candidates, recipes and images in four ways, each in a process of its own.

- `program`: what a study runs: envelopes or exact programs, as the planner decides, all devices.
- `jit`: one compiled program for each candidate, one after the other, same lowering.
- `jit_lax`: likewise, step by step, with `lax` convolutions in NHWC, as one writes them in Flax.
- `torch`: eager PyTorch at its best settings (`bench/torch_baseline.py`).

Seconds include building and compiling; a persistent compilation cache is not used.
"""

import ast
import dataclasses
import json
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from jointnas_jax.config import Config, TrainConfig
from jointnas_jax.runtime.processes import in_a_process
from jointnas_jax.space import Candidate, JointSpace

CONTESTANTS = ("program", "jit", "jit_lax", "torch")
# Steps of an epoch.
_EPOCH = 60
# Trainings whose weights are compared between contestants.
_COMPARED = 3

# 32x32 colour images, three stages at 16x16, 8x8 and 4x4.
SPACE = dict(
    resolution=32,
    stem=dict(channels=(16, 24, 8), stride=2),
    stages=(
        dict(kernel=[3, 5], expand=1, channels=(16, 24, 8), depth=(1, 2), stride=1),
        dict(
            kernel=[3, 5],
            expand=(3, 5),
            channels=(24, 40, 8),
            depth=(2, 3),
            stride=2,
            se=[False, True],
        ),
        dict(kernel=[3, 5], expand=(3, 5), channels=(48, 64, 8), depth=(2, 3), stride=2, se=True),
    ),
    head=dict(channels=256, expand=4),
    recipe=dict(
        lr=(0.004, 0.02, 0.002),
        optimizer=["sgd", "rmsprop"],
        sgd_lr_scale=4.0,
        ema=[False, True],
        dropout=(0.0, 0.3, 0.05),
        stochastic_depth=(0.0, 0.2, 0.05),
        mixup=(0.0, 0.4, 0.05),
        weight_decay=[1e-5, 1e-4, 1e-3],
        lr_decay=0.9,
    ),
)


@dataclasses.dataclass(frozen=True)
class Task:
    """What every contestant does.

    Attributes:
      candidates: how many, drawn at random.
      steps: of each.
      batch: images of a step.
      lanes: candidates at once on one device (`program`); 0: as a study would.
      threads: of PyTorch.
      seed: of the draws.
      space: description of the space, as in a config.
    """

    candidates: int = 24
    steps: int = 60
    batch: int = 64
    lanes: int = 0
    threads: int = 2
    seed: int = 0
    space: Mapping[str, Any] = dataclasses.field(default_factory=lambda: SPACE)


def compare(task: Task, contestants: tuple[str, ...] = CONTESTANTS) -> dict[str, Any]:
    """Runs contestants one after the other and returns their results by name."""
    results, weights = {}, {}
    for name in contestants:
        environment = {
            "MALLOC_MMAP_THRESHOLD_": "1000000000",
            "MALLOC_TRIM_THRESHOLD_": "1000000000",
            "JAX_ENABLE_COMPILATION_CACHE": "false",
        }
        if name != "program":  # one candidate after the other, with all cores
            environment["JAX_NUM_CPU_DEVICES"] = "1"
        results[name] = in_a_process("benchmarks.population", name, task, **environment)
        weights[name] = results[name].pop("weights", None)
    if weights.get("program") and weights.get("jit"):
        pairs = zip(weights["program"], weights["jit"], strict=True)
        deviations = [_deviation(a, b) for a, b in pairs if a and b]
        results["program"]["largest_deviation"] = max(deviations, default=None)
    return results


def _deviation(a: list[float], b: list[float]) -> float:
    """Largest difference, as a share of the largest weight."""
    return float(np.abs(np.subtract(a, b)).max() / np.abs(b).max())


def _candidates(task: Task) -> list[Candidate]:
    space = JointSpace.from_config(task.space, image_channels=3, num_classes=10)
    return [
        space.decode(v) for v in space.sample(np.random.default_rng(task.seed), task.candidates)
    ]


def _images(task: Task, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise with a brighter patch for each class: an epoch, and one batch for validation."""
    rng = np.random.default_rng(task.seed)
    labels = rng.integers(0, 10, (_EPOCH + 1) * task.batch).astype(np.int32)
    images = rng.integers(0, 180, (len(labels), size, size, 3))
    patch = size // 4
    for i, label in enumerate(labels):
        row, column = divmod(int(label), 4)
        images[i, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch] += 70
    return images.astype(np.uint8), labels


def run_program(task: Task) -> dict[str, Any]:
    """Contestant `program`, by the evaluator of a study."""
    import jax

    from benchmarks.roofline import Roofline
    from jointnas_jax.data.source import Split
    from jointnas_jax.execution.job import Job
    from jointnas_jax.execution.local import LocalExecutor
    from jointnas_jax.telemetry.stage_timer import StageTimer

    candidates, config = _candidates(task), _config(task)
    space = JointSpace.from_config(task.space, image_channels=3, num_classes=10)
    split = Split(*_images(task, candidates[0].arch.resolution))
    validation = np.arange(len(split.labels)) >= _EPOCH * task.batch
    jobs = [
        Job(candidate, jax.random.key(i), task.steps // _EPOCH)
        for i, candidate in enumerate(candidates)
    ]
    meter = StageTimer()
    with meter.listening():
        with meter.stage("training"):
            executor = LocalExecutor(config, space, (split, validation, split))
            outcomes = executor.run(jobs)
        with meter.stage("again"):
            executor.run([dataclasses.replace(job, epochs=1) for job in jobs])
    step = meter.seconds["again"] / (_EPOCH * len(jobs))
    # One epoch can be packed in another way than many, into programs that must compile first.
    steady = not meter.compilations["again"]
    roofline = Roofline.measured(jax.local_devices())
    archs = [candidate.arch for candidate in candidates]
    return dict(
        seconds=meter.seconds["training"],
        ms_per_step=1e3 * step if steady else None,
        roofline=roofline.shares(archs, task.batch, step) if steady else None,
        compilations=meter.compilations["training"],
        packing=str(executor.schedules[0]),
        useful=executor.schedules[0].estimate.efficiency,
        failed=[o.reason for o in outcomes if o.reason],
        weights=[_flat(o.variables) for o in outcomes[:_COMPARED]],
    )


def run_jit(task: Task) -> dict[str, Any]:
    """Contestant `jit`: the exact program of a study, candidate by candidate."""
    import jax

    from jointnas_jax.data.augment import Augmentation
    from jointnas_jax.telemetry.stage_timer import StageTimer
    from jointnas_jax.train.feed import EvalData, TrainData, pixel_stats
    from jointnas_jax.train.parallel import replicate
    from jointnas_jax.train.program import TrainProgram

    candidates, config = _candidates(task), _config(task)
    images, labels = _images(task, candidates[0].arch.resolution)
    train = _EPOCH * task.batch
    stats = pixel_stats(images)
    used = jax.devices()[:1]
    steady, weights, meter = [], [], StageTimer()
    with meter.listening(), meter.stage("training"):
        data = replicate(TrainData(images, labels, np.arange(len(labels)) < train, stats), used)
        held_out = replicate(EvalData.of(images[train:], labels[train:], stats), used)
        for i, candidate in enumerate(candidates):
            program = TrainProgram(candidate.arch, config.train, Augmentation(4, True), used)
            arguments = ([candidate], [jax.random.key(i)], data, held_out)
            trained = program.train(*arguments, task.steps // _EPOCH)[0]
            if i < _COMPARED:
                weights.append(_flat(trained.variables))
            start = time.perf_counter()
            program.train(*arguments, 1)
            steady.append(time.perf_counter() - start)
    return dict(
        seconds=meter.seconds["training"] - sum(steady),
        ms_per_step=1e3 * float(np.mean(steady)) / _EPOCH,
        compilations=meter.compilations["training"],
        weights=weights,
    )


def run_jit_lax(task: Task) -> dict[str, Any]:
    """Contestant `jit_lax`: a jitted step for each candidate, without evaluation.

    One dispatch for each step: XLA:CPU runs convolution primitives in a loop on a slow path.
    """
    import jax

    from jointnas_jax.data.augment import Augmentation, plan_epoch
    from jointnas_jax.nets.init import initial_variables
    from jointnas_jax.nets.network import Network
    from jointnas_jax.telemetry.stage_timer import StageTimer
    from jointnas_jax.train import step as steps
    from jointnas_jax.train.feed import pixel_stats
    from jointnas_jax.train.recipe_arrays import RecipeArrays

    candidates, augmentation = _candidates(task), Augmentation(4, True)
    images, labels = _images(task, candidates[0].arch.resolution)
    train = _EPOCH * task.batch
    times, meter = [], StageTimer()
    with meter.listening(), meter.stage("training"):
        stats, members = pixel_stats(images), np.ones(train, bool)
        images, labels = jax.device_put((images[:train], labels[:train]))
        for i, candidate in enumerate(candidates):
            module, key = Network(candidate.arch, "conv"), jax.random.key(i)
            recipe = RecipeArrays.of(candidate.recipe)

            @jax.jit
            def step(
                state: Any, recipe: Any, plan: Any, number: int, own: Any = (module, key)
            ) -> Any:
                chosen = plan.images[number]
                module, key = own
                row = jax.tree.map(lambda a: a[number], plan.replace(steps=None, images=None))
                batch = steps.Batch(images[chosen], labels[chosen], row)
                return steps.train_step(
                    module, augmentation, state, recipe, batch, stats, plan.steps, key
                )

            state = steps.init_state(initial_variables(candidate.arch, key))
            for number in range(task.steps):
                if number % _EPOCH == 0:
                    keys = jax.random.fold_in(key, number)
                    plan = plan_epoch(members, recipe.mixup, keys, augmentation, task.batch)
                pause = time.perf_counter()
                state, loss = step(state, recipe, plan, number % _EPOCH)
                loss.block_until_ready()
                times.append(time.perf_counter() - pause)
    return dict(
        seconds=meter.seconds["training"],
        ms_per_step=1e3 * float(np.median(times)),
        compilations=meter.compilations["training"],
    )


def run_torch(task: Task) -> dict[str, Any]:
    """Contestant `torch`."""
    from benchmarks import torch_baseline

    candidates = _candidates(task)
    images, labels = _images(task, candidates[0].arch.resolution)
    images, labels = images[: _EPOCH * task.batch], labels[: _EPOCH * task.batch]
    mean, std = images.mean((0, 1, 2)), images.std((0, 1, 2))
    results = []
    # The first call sets PyTorch up, which is not what is compared.
    for i, candidate in enumerate([candidates[0], *candidates]):
        results.append(
            torch_baseline.train(
                candidate.arch,
                candidate.recipe,
                images,
                labels,
                steps=task.steps if i else 1,
                batch_size=task.batch,
                steps_per_epoch=_EPOCH,
                crop_padding=4,
                flip=True,
                mean=mean.astype(np.float32),
                std=std.astype(np.float32),
                seed=i,
                threads=task.threads,
            )
        )
    return dict(
        seconds=sum(r["seconds"] for r in results[1:]),
        ms_per_step=float(np.mean([r["ms_per_step"] for r in results[1:]])),
        compilations=0,
    )


def _config(task: Task) -> Config:
    train = TrainConfig(batch_size=task.batch, lanes=task.lanes)
    config = Config(space=task.space, train=train)
    data = dataclasses.replace(config.data, crop_padding=4, flip=True)
    return dataclasses.replace(config, data=data)


def _flat(variables: Any) -> list[float]:
    import jax

    if variables is None:
        return []
    return np.concatenate([np.ravel(v) for v in jax.tree.leaves(variables["params"])]).tolist()


def main(name: str, task: Task) -> dict[str, Any]:
    """Runs one contestant in this process."""
    if name == "torch":
        return run_torch(task)
    if name == "program":
        from jointnas_jax.runtime.jax_setup import prepare_jax

        prepare_jax(0)
        return run_program(task)
    return run_jit_lax(task) if name == "jit_lax" else run_jit(task)


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Task(**ast.literal_eval(sys.stdin.read())))))
