"""How trainings lie on the devices: who shares a program, a device and a batch.

The evaluator trains by these rules, and a forecast counts by them.
"""

import math
from collections.abc import Sequence

import jax
import numpy as np

from jointnas_jax.config import Config, TrainConfig
from jointnas_jax.nets.conv import resolve_dtype, resolve_lowering
from jointnas_jax.nets.cost import training_bytes
from jointnas_jax.space import ArchSpec, JointSpace
from jointnas_jax.train.machine import Machine, machine_of
from jointnas_jax.train.packing import Planner, Shape

# Share of a device's memory that lanes may fill.
_MEMORY_SHARE = 0.8


def training_devices(config: Config) -> tuple[jax.Device, ...]:
    """The devices that train."""
    return tuple(jax.local_devices()[: config.study.devices or None])


def machine_here(config: Config, scales: tuple[float, float]) -> Machine:
    """What compiling and training cost here, given the `measured_scales`."""
    device = training_devices(config)[0]
    machine = machine_of(device, scales)
    fast = config.train.fast_compile and device.platform == "cpu"
    return machine.compiling_fast() if fast else machine


def make_planner(
    config: Config, space: JointSpace, machine: Machine, sample: Sequence[ArchSpec]
) -> Planner:
    """Creates a planner for these devices; see `Planner`."""
    devices, train = training_devices(config), config.train
    lowering = resolve_lowering(train.lowering, resolve_dtype(train.dtype))
    tiled = lowering == "matmul" and devices[0].platform == "cpu"
    return Planner(
        *(space, machine, len(devices), train.batch_size, tiled, train.program),
        sample=sample,
    )


def shares_batches(train: TrainConfig, devices: Sequence[jax.Device], jobs: int) -> bool:
    """Whether all devices share the batches of one candidate after the other."""
    several = len(devices) > 1
    if train.data_parallel != "auto":
        return several and train.data_parallel == "always"
    fits = train.batch_size % len(devices) == 0
    return several and fits and jobs == 1 and devices[0].platform != "cpu"


def lanes_per_device(
    train: TrainConfig, devices: Sequence[jax.Device], shape: Shape, jobs: int
) -> int:
    """As many lanes as are needed and fit; on CPU one, since more fall out of its caches.

    Args:
      train: of training.
      devices: that the jobs are shared out among.
      shape: of the program.
      jobs: that it trains.
    """
    wanted = -(-jobs // len(devices))
    if train.lanes:
        return min(train.lanes, wanted)
    memory = (devices[0].memory_stats() or {}).get("bytes_limit", 0)
    if devices[0].platform == "cpu" or not memory:
        return 1
    fit = _MEMORY_SHARE * memory / training_bytes(shape, train.batch_size, value_bytes(train))
    # A power of two, so that a smaller last pack or round seldom needs a program of its own.
    return 2 ** int(math.log2(max(1, min(wanted, fit))))


def value_bytes(train: TrainConfig) -> int:
    """Size of a value of a feature map."""
    return np.dtype(resolve_dtype(train.dtype)).itemsize
