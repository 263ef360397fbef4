"""Trains the same candidates, recipes and images in four ways, each in a process of its own.

python -m benchmarks.population --out=r.json
python -m benchmarks.population --candidates=6 --long_steps=0 --contestants=program,torch

- `program`: what a study runs: envelopes or exact programs, as the schedule says, all devices.
- `jit`: one compiled program for each candidate, one after the other, same lowering.
- `jit_lax`: likewise, step by step, with `lax` convolutions in NHWC, as one writes them in Flax.
- `torch`: eager PyTorch at its best settings (`torch_baseline.py`; extra `bench`).

Seconds include building and compiling; a persistent compilation cache is not used. On an
accelerator: --lanes=8 sets how many candidates train at once on one device.
"""

import dataclasses
import functools
import importlib.util
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from jointnas_jax.command_line import (
    define_path,
    load_config,
    parse_flags,
    run_measurement,
    text_table,
)
from jointnas_jax.config import Config, DataConfig, TrainConfig
from jointnas_jax.errors import ConfigError
from jointnas_jax.runtime.processes import in_a_process
from jointnas_jax.space import Candidate, JointSpace

# Steps of an epoch.
_EPOCH = 60
# Of the process of a contestant: memory stays with it, and all programs compile.
_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": "1000000000",
    "MALLOC_TRIM_THRESHOLD_": "1000000000",
    "JAX_ENABLE_COMPILATION_CACHE": "false",
}
# Trainings whose weights are compared between contestants.
_COMPARED = 3

_LAYOUT = {
    "": "{name}",
    "seconds": "{seconds:.1f}",
    "ratio": "{ratio:.2f}",
    "ms/step": "{ms_per_step:.1f}",
    "compiled": "{compilations}",
}

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
        lr_end=0.5,
    ),
)


@dataclasses.dataclass(frozen=True)
class Task:
    """What every contestant does."""

    candidates: int = 24  # drawn at random
    steps: int = 60  # of each
    batch: int = 64  # images of a step
    lanes: int = 0  # candidates at once on one device (`program`); 0: as a study would
    threads: int = 2  # of PyTorch
    seed: int = 0  # of candidates and images
    space: Mapping[str, Any] = dataclasses.field(default_factory=lambda: SPACE)  # as in a config

    @functools.cached_property
    def joint_space(self) -> JointSpace:
        """The space of the candidates."""
        return JointSpace.from_config(self.space, image_channels=3, num_classes=10)

    @functools.cached_property
    def drawn(self) -> list[Candidate]:
        """The candidates."""
        rng = np.random.default_rng(self.seed)
        return [self.joint_space.decode(v) for v in self.joint_space.sample(rng, self.candidates)]

    def images(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Noise with a brighter patch for each class: an epoch, then one batch for validation.

        Returns:
          `uint8[N, R, R, 3]`, labels `int32[N]`, and which are for validation, `bool[N]`.
        """
        size, rng = self.drawn[0].arch.resolution, np.random.default_rng(self.seed)
        labels = rng.integers(0, 10, (_EPOCH + 1) * self.batch).astype(np.int32)
        images = rng.integers(0, 180, (len(labels), size, size, 3))
        patch = size // 4
        for i, label in enumerate(labels):
            row, column = divmod(int(label), 4)
            images[i, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch] += 70
        return images.astype(np.uint8), labels, np.arange(len(labels)) >= _EPOCH * self.batch

    def config(self) -> Config:
        """Config of a study that trains so."""
        data = DataConfig(crop_padding=4, flip=True)
        train = TrainConfig(batch_size=self.batch, lanes=self.lanes)
        return Config(space=self.space, data=data, train=train)


def compare(
    task: Task, contestants: Sequence[str], call: Callable[..., Any] = in_a_process
) -> dict[str, Any]:
    """Runs contestants one after the other; returns their results by name."""
    results, weights = {}, {}
    for name in contestants:
        # All but `program` train one candidate after the other, with all cores.
        alone = {} if name == "program" else {"JAX_NUM_CPU_DEVICES": "1"}
        given = dataclasses.asdict(task)
        results[name] = call("benchmarks.population:run", name, given, **_ENVIRONMENT, **alone)
        weights[name] = results[name].pop("weights", None)
    if weights.get("program") and weights.get("jit"):
        pairs = zip(weights["program"], weights["jit"], strict=True)
        # As a share of the largest weight.
        deviations = [
            float(np.abs(np.subtract(a, b)).max() / np.abs(b).max()) for a, b in pairs if a and b
        ]
        results["program"]["largest_deviation"] = max(deviations, default=None)
    return results


def run_program(task: Task) -> dict[str, Any]:
    """Contestant `program`, by the evaluator of a study."""
    import jax

    from benchmarks.roofline import Roofline
    from jointnas_jax.data.source import Split
    from jointnas_jax.execution.job import Job
    from jointnas_jax.execution.local import LocalExecutor
    from jointnas_jax.runtime.jax_setup import prepare_jax
    from jointnas_jax.telemetry.stage_timer import StageTimer

    prepare_jax(0)
    images, labels, validation = task.images()
    split = Split(images, labels)
    job = lambda i, epochs: Job(task.drawn[i], jax.random.key(i), epochs)
    timer = StageTimer()
    with timer.listening():
        with timer.stage("training"):
            executor = LocalExecutor(task.config(), task.joint_space, (split, validation, split))
            results = executor.run([job(i, task.steps // _EPOCH) for i in range(task.candidates)])
        with timer.stage("again"):
            executor.run([job(i, 1) for i in range(task.candidates)])
    step = timer.seconds["again"] / (_EPOCH * task.candidates)
    # One epoch can be packed in another way than many, into programs that must compile first.
    steady = not timer.compilations["again"]
    roofline = Roofline.measured(jax.local_devices())
    archs = [candidate.arch for candidate in task.drawn]
    return dict(
        seconds=timer.seconds["training"],
        ms_per_step=1e3 * step if steady else None,
        roofline=roofline.shares(archs, task.batch, step) if steady else None,
        compilations=timer.compilations["training"],
        packing=str(executor.schedules[0]),
        useful=executor.schedules[0].estimate.efficiency,
        failed=[o.reason for o in results if o.reason],
        weights=[_flat(o.variables) for o in results[:_COMPARED]],
    )


def run_jit(task: Task) -> dict[str, Any]:
    """Contestant `jit`: the exact program of a study, candidate by candidate."""
    import jax

    from jointnas_jax.data.augment import Augmentation
    from jointnas_jax.data.source import Split
    from jointnas_jax.telemetry.stage_timer import StageTimer
    from jointnas_jax.train.feed import feeds
    from jointnas_jax.train.program import TrainProgram

    config, used = task.config().train, jax.devices()[:1]
    images, labels, validation = task.images()
    split = Split(images, labels)
    steady, weights, timer = [], [], StageTimer()
    with timer.listening(), timer.stage("training"):
        feed = feeds(split, validation, split, devices=used)[False]
        for i, candidate in enumerate(task.drawn):
            program = TrainProgram(
                candidate.arch, config, augmentation=Augmentation(4, True), devices=used
            )
            train = functools.partial(program.train, [candidate], [jax.random.key(i)], feed)
            (trained,) = train(epochs=task.steps // _EPOCH)
            if i < _COMPARED:
                weights.append(_flat(trained.variables))
            start = time.perf_counter()
            train(epochs=1)
            steady.append(time.perf_counter() - start)
    return dict(
        seconds=timer.seconds["training"] - sum(steady),
        ms_per_step=1e3 * float(np.mean(steady)) / _EPOCH,
        compilations=timer.compilations["training"],
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

    augmentation = Augmentation(4, True)
    drawn, classes, validation = task.images()
    times, timer = [], StageTimer()
    with timer.listening(), timer.stage("training"):
        stats, members = pixel_stats(drawn), np.ones(_EPOCH * task.batch, bool)
        images, labels = jax.device_put((drawn[~validation], classes[~validation]))
        for i, candidate in enumerate(task.drawn):
            module, key = Network(candidate.arch, "conv"), jax.random.key(i)
            recipe = RecipeArrays.of(candidate.recipe, task.steps // _EPOCH)

            @jax.jit
            def step(
                state: Any, recipe: Any, plan: Any, number: int, fixed: Any = (module, key)
            ) -> Any:
                chosen = plan.images[number]
                module, key = fixed
                row = jax.tree.map(lambda a: a[number], plan.replace(steps=None, images=None))
                batch = steps.Batch(images[chosen], labels[chosen], row)
                return steps.train_step(
                    state,
                    batch,
                    module=module,
                    augmentation=augmentation,
                    recipe=recipe,
                    stats=stats,
                    steps_per_epoch=plan.steps,
                    key=key,
                )

            state = steps.init_state(initial_variables(candidate.arch, key))
            for number in range(task.steps):
                if number % _EPOCH == 0:
                    keys = jax.random.fold_in(key, number)
                    kind = dict(augmentation=augmentation, batch_size=task.batch)
                    plan = plan_epoch(members, recipe.mixup, keys, **kind)
                pause = time.perf_counter()
                state, loss = step(state, recipe, plan, number % _EPOCH)
                loss.block_until_ready()
                times.append(time.perf_counter() - pause)
    return dict(
        seconds=timer.seconds["training"],
        ms_per_step=1e3 * float(np.median(times)),
        compilations=timer.compilations["training"],
    )


def run_torch(task: Task) -> dict[str, Any]:
    """Contestant `torch`."""
    from benchmarks import torch_baseline

    images, labels, validation = task.images()
    images, labels = images[~validation], labels[~validation]
    train = functools.partial(
        torch_baseline.train,
        images=images,
        labels=labels,
        batch_size=task.batch,
        steps_per_epoch=_EPOCH,
        crop_padding=4,
        flip=True,
        mean=images.mean((0, 1, 2)).astype(np.float32),
        std=images.std((0, 1, 2)).astype(np.float32),
        threads=task.threads,
    )
    train(task.drawn[0].arch, task.drawn[0].recipe, steps=1, seed=0)  # sets PyTorch up
    results = [
        train(candidate.arch, candidate.recipe, steps=task.steps, seed=i)
        for i, candidate in enumerate(task.drawn, start=1)
    ]
    return dict(
        seconds=sum(r["seconds"] for r in results),
        ms_per_step=float(np.mean([r["ms_per_step"] for r in results])),
        compilations=0,
    )


def _flat(variables: Any) -> list[float]:
    import jax

    if variables is None:
        return []
    return np.concatenate([np.ravel(v) for v in jax.tree.leaves(variables["params"])]).tolist()


CONTESTANTS: Mapping[str, Callable[[Task], dict[str, Any]]] = {
    "program": run_program,
    "jit": run_jit,
    "jit_lax": run_jit_lax,
    "torch": run_torch,
}


def run(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Runs one contestant in this process."""
    return CONTESTANTS[name](Task(**given))


def main(argv: list[str]) -> dict[str, Any]:
    """Runs the comparison; returns the report."""
    values = flags.FLAGS
    parse_flags(argv, values)
    names = list(values.contestants)
    if "torch" in names and importlib.util.find_spec("torch") is None:
        print("PyTorch is not installed (pip install -e '.[bench]'): left out.", file=sys.stderr)
        names.remove("torch")
    if unknown := set(names) - set(CONTESTANTS):
        raise ConfigError(f"`--contestants` must be of {[*CONTESTANTS]}, got {sorted(unknown)}")
    lengths = {"short": values.short_steps, "long": values.long_steps}
    if bad := [s for s in lengths.values() if s % _EPOCH or s < 0]:
        raise ConfigError(f"steps must be multiples of {_EPOCH}, got {bad[0]}")
    space = load_config(values.config, argv[:1]).space.to_dict() if values.config else SPACE
    task = Task(
        candidates=values.candidates,
        batch=values.batch,
        lanes=values.lanes,
        threads=values.threads,
        seed=values.seed,
        space=space,
    )
    report: dict[str, Any] = {"task": dataclasses.asdict(task)}
    for length, steps in lengths.items():
        if steps:
            results = compare(dataclasses.replace(task, steps=steps), names)
            report[length] = results | {"steps": steps}
            print(f"{length}: {task.candidates} candidates, {steps} steps each, batch {task.batch}")
            _print(results)
    return report


def _print(results: Mapping[str, Any]) -> None:
    program = results.get("program")
    ratio = lambda result: program and result["seconds"] / program["seconds"]
    rows = [{"name": name, "ratio": ratio(r), **r} for name, r in results.items()]
    print(text_table(rows, _LAYOUT))
    if program:
        print(f"  {program['packing']}; largest deviation {program.get('largest_deviation')}")
    if roofline := program and program["roofline"]:
        print(
            f"  {roofline['gigaoperations_per_second']:.0f} billion operations a second, "
            f"{roofline['of_matmul_roof']:.0%} of what large matmuls do; "
            f"{roofline['gigabytes_per_second']:.1f} GB of maps a second, "
            f"{roofline['of_memory_roof']:.0%} of what memory does"
        )


if __name__ == "__main__":
    define_path("config", "", "Take the space of this config instead.")
    flags.DEFINE_integer("candidates", Task.candidates, "Random candidates.", 1)
    flags.DEFINE_integer("short_steps", 60, "Steps of a candidate, short; a multiple of 60.")
    flags.DEFINE_integer("long_steps", 600, "Steps of a candidate, long; 0: leave it out.")
    flags.DEFINE_integer("batch", Task.batch, "Images of a step.", 2)
    flags.DEFINE_integer("lanes", 0, "Candidates at once on a device; 0: as many as fit.", 0)
    flags.DEFINE_integer("threads", Task.threads, "Threads of PyTorch.", 1)
    flags.DEFINE_integer("seed", 0, "Seed of candidates and images.")
    flags.DEFINE_list(
        "contestants",
        ["program", "jit", "torch"],
        f"Of {', '.join(CONTESTANTS)}; jit_lax takes hours.",
    )
    sys.exit(run_measurement(__doc__, main))
