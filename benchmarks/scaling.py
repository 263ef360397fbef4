"""Steps per second against devices: candidates side by side, and one network on all devices.

python -m benchmarks.scaling --devices=1,2,4,8 --out=scaling.json

One network on several devices shares its batches among them, with BN over the whole batch. Each
number of devices is measured in a process of its own: JAX reads JAX_NUM_CPU_DEVICES when it starts.
Times are of whole epochs after the first, so nothing compiles in them. CPU devices share the cores
of the machine.
"""

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from jointnas_jax.command_line import integers, parse_config, run_measurement, text_table
from jointnas_jax.config import Config, check_config
from jointnas_jax.errors import ConfigError
from jointnas_jax.runtime.processes import in_a_process
from jointnas_jax.space import JointSpace

DEFAULT_CONFIG = Path(__file__).parent.parent / "configs" / "digits.py"

WAYS = ("side_by_side", "together")
# Of noise; their number says little about speed.
_CLASSES, _CHANNELS = 10, 3


def measure(
    config: Config,
    counts: Sequence[int],
    *,
    steps: int,
    epochs: int,
    call: Callable[..., Any] = in_a_process,
) -> dict[str, Any]:
    """Measures numbers of devices one after the other: `epochs` after one that is not timed.

    Returns:
      The report: `rows` with `devices` and, for each of `WAYS`, `steps_per_second` of all
      candidates together and the `speedup` over the first row.

    Raises:
      StudyError: a process failed, for instance for want of so many accelerators.
    """
    rows: list[dict[str, Any]] = []
    settings = config.to_dict()
    for devices in counts:
        function, environment = "benchmarks.scaling:steps_per_second", str(devices)
        rates = call(function, settings, devices, steps, epochs, JAX_NUM_CPU_DEVICES=environment)
        row: dict[str, Any] = {"devices": devices}
        for way in WAYS:
            first = rows[0][way]["steps_per_second"] if rows else rates[way]
            row[way] = {"steps_per_second": rates[way], "speedup": rates[way] / first}
        rows.append(row)
    task = {"config": settings, "steps": steps, "epochs": epochs}
    return {"task": task, "cores": os.cpu_count(), "rows": rows}


def steps_per_second(
    settings: Mapping[str, Any], devices: int, steps: int, epochs: int
) -> dict[str, float]:
    """Measures both ways in this process, on its first devices."""
    import jax

    from jointnas_jax.data.augment import Augmentation
    from jointnas_jax.data.source import Split
    from jointnas_jax.runtime.jax_setup import prepare_jax
    from jointnas_jax.train.feed import feeds
    from jointnas_jax.train.program import TrainProgram

    prepare_jax(devices)
    used = jax.local_devices()[:devices]
    if len(used) < devices:
        raise SystemExit(f"there are {len(used)} devices of {used[0].platform}")
    config = check_config(settings)
    space = JointSpace.from_config(config.space, _CHANNELS, _CLASSES)
    candidate = space.decode(space.vector_from_values(config.default))
    size, batch = candidate.arch.resolution, config.train.batch_size
    shape = (steps * batch, size, size, _CHANNELS)
    images = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    labels = (np.arange(len(images)) % _CLASSES).astype(np.int32)
    split, few = Split(images, labels), Split(images[:batch], labels[:batch])
    feed = feeds(split, np.zeros(len(split), bool), few, devices=used)[True]
    rates = {}
    for way in WAYS:
        together = way == "together"
        ends: list[float] = []
        program = TrainProgram(
            candidate.arch,
            config.train,
            augmentation=Augmentation(),
            devices=used,
            together=together,
        )
        program.train(
            [candidate] * program.lanes,
            [jax.random.key(lane) for lane in range(program.lanes)],
            feed,
            epochs=epochs + 1,
            every_epoch=False,
            progress=lambda *_, ends=ends: ends.append(time.perf_counter()),
        )
        rates[way] = program.lanes * epochs * steps / (ends[-1] - ends[0])
    return rates


def main(argv: list[str]) -> dict[str, Any]:
    """Measures; returns the report."""
    values = flags.FLAGS
    config = parse_config(argv, str(DEFAULT_CONFIG), values)
    counts = sorted(set(integers("devices", values.devices, low=1, high=4096)))
    if odd := [n for n in counts if config.train.batch_size % n]:
        raise ConfigError(
            f"`config.train.batch_size` must be a multiple of the devices that share a batch, "
            f"{odd[0]}, got {config.train.batch_size}"
        )
    report = measure(config, counts, steps=values.steps, epochs=values.epochs)
    print(
        f"{config.name}: default candidate, batches of {config.train.batch_size}, "
        f"{os.cpu_count()} cores"
    )
    layout = {
        "devices": "{devices}",
        "side by side": "{side_by_side[steps_per_second]:.1f} ({side_by_side[speedup]:.2f}x)",
        "one network": "{together[steps_per_second]:.1f} ({together[speedup]:.2f}x)",
    }
    print(text_table(report["rows"], layout))
    return report


if __name__ == "__main__":
    flags.DEFINE_list("devices", ["1", "2", "4", "8"], "Numbers of devices, from 1 to 4096.")
    flags.DEFINE_integer("steps", 60, "Steps of an epoch.", 2, 100_000)
    flags.DEFINE_integer("epochs", 3, "That are timed, after one that is not.", 1, 1000)
    sys.exit(run_measurement(__doc__, main))
