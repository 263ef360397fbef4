"""How trainings lie on the devices: who shares a program, a device and a batch.

The evaluator trains by these rules, and a forecast counts by them.
"""

from collections.abc import Sequence

import jax
import numpy as np

from jointnas_jax.config import Config, TrainConfig
from jointnas_jax.nets.conv import resolve_dtype, resolve_lowering
from jointnas_jax.space import ArchSpec, JointSpace
from jointnas_jax.train.lanes import lanes_that_fit
from jointnas_jax.train.machine import Machine, machine_of
from jointnas_jax.train.packing import Planner, Shape


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


def most_lanes(train: TrainConfig, device: jax.Device, shape: Shape, taken: int) -> int:
    """Lanes of a shape on a device at most, where so many bytes of it are taken anyway."""
    if train.lanes:
        return train.lanes
    return lanes_that_fit(device, shape, train.batch_size, value_bytes(train), taken)


def value_bytes(train: TrainConfig) -> int:
    """Size of a value of a feature map."""
    return np.dtype(resolve_dtype(train.dtype)).itemsize
