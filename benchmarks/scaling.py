"""Steps per second against devices: candidates side by side, and one network on all devices.

Each number of devices is measured in a process of its own: JAX reads how many CPU devices there are
when it starts. Times are of whole epochs after the first, so nothing compiles in them.
"""

import ast
import dataclasses
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jointnas_jax.config import Config, TrainConfig
from jointnas_jax.runtime.processes import in_a_process
from jointnas_jax.space import JointSpace

WAYS = ("side_by_side", "together")
_CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Task:
    """What is trained.

    Attributes:
      space: description of the space, as in a config.
      default: the default candidate, which trains.
      train: settings, as in a config.
      channels: of the images, which are noise.
      steps: of an epoch.
      epochs: that are timed.
    """

    space: Mapping[str, Any]
    default: Mapping[str, Any]
    train: Mapping[str, Any]
    channels: int
    steps: int
    epochs: int

    @staticmethod
    def of(config: Config, steps: int, epochs: int) -> "Task":
        """That of a config; the number of its channels says little about speed."""
        train = dataclasses.asdict(config.train) | {"teacher": ""}
        return Task(config.space, config.default, train, 3, steps, epochs)


def measure(task: Task, counts: Sequence[int]) -> dict[str, Any]:
    """Measures numbers of devices one after the other.

    Returns:
      The report: `rows` with `devices` and, for each of `WAYS`, `steps_per_second` of all
      candidates together and the `speedup` over the first row.

    Raises:
      StudyError: a process failed, for instance for want of so many accelerators.
    """
    rows: list[dict[str, Any]] = []
    for devices in counts:
        found = in_a_process("benchmarks.scaling", devices, task, JAX_NUM_CPU_DEVICES=str(devices))
        row: dict[str, Any] = {"devices": devices}
        for way in WAYS:
            first = rows[0][way]["steps_per_second"] if rows else found[way]
            row[way] = {"steps_per_second": found[way], "speedup": found[way] / first}
        rows.append(row)
    return {"task": dataclasses.asdict(task), "cores": os.cpu_count(), "rows": rows}


def steps_per_second(task: Task, devices: int) -> dict[str, float]:
    """Measures both ways in this process, on its first devices."""
    import jax

    from jointnas_jax.data.augment import Augmentation
    from jointnas_jax.train.feed import EvalData, Feed, TrainData, pixel_stats
    from jointnas_jax.train.parallel import replicate
    from jointnas_jax.train.program import TrainProgram

    used = jax.local_devices()[:devices]
    if len(used) < devices:
        raise SystemExit(f"there are {len(used)} devices of {used[0].platform}")
    space = JointSpace.from_config(task.space, task.channels, _CLASSES)
    candidate = space.decode(space.vector_from_values(task.default))
    config = TrainConfig(**task.train)
    size, rng = candidate.arch.resolution, np.random.default_rng(0)
    count = task.steps * config.batch_size
    images = rng.integers(0, 256, (count, size, size, task.channels)).astype(np.uint8)
    labels = (np.arange(count) % _CLASSES).astype(np.int32)
    stats = pixel_stats(images)
    data = replicate(TrainData(images, labels, np.ones(count, bool), stats), used)
    few = config.batch_size
    evaluation = replicate(EvalData.of(images[:few], labels[:few], stats), used)
    found = {}
    for way in WAYS:
        together, ends = way == "together", []
        program = TrainProgram(
            candidate.arch, config, augmentation=Augmentation(), devices=used, together=together
        )
        program.train(
            [candidate] * program.lanes,
            [jax.random.key(lane) for lane in range(program.lanes)],
            Feed(data, evaluation),
            epochs=task.epochs + 1,
            every_epoch=False,
            progress=lambda *_, ends=ends: ends.append(time.perf_counter()),
        )
        steps = program.lanes * task.epochs * task.steps
        found[way] = steps / (ends[-1] - ends[0])
    return found


def _main(devices: int, task: Task) -> None:
    from jointnas_jax.runtime.jax_setup import prepare_jax

    prepare_jax(devices)
    print(json.dumps(steps_per_second(task, devices)))


if __name__ == "__main__":
    _main(int(sys.argv[1]), Task(**ast.literal_eval(sys.stdin.read())))
