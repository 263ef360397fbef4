"""How trainings lie on the devices: who shares a program, a device and a batch.

The evaluator trains by these rules, and a forecast counts by them.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jointnas_jax.config import Config, TrainConfig
from jointnas_jax.execution.cost_model import Machine, machine_of
from jointnas_jax.execution.lanes import lanes_that_fit
from jointnas_jax.execution.packing import Planner, Shape
from jointnas_jax.nets.conv import resolve_dtype, resolve_lowering
from jointnas_jax.space import ArchSpec, JointSpace


@dataclasses.dataclass(frozen=True)
class Hardware:
    """What trains, as far as a plan depends on it; the same for whoever plans.

    Attributes:
      platform: of all devices, such as `cpu`.
      devices: of one worker, which are what one program can run on.
      workers: processes with so many devices each.
      memory: of a device in bytes, 0 where it is not known.
      taken: bytes of it that images take.
      speed_factors: how fast it is, see `measured_speed_factors`.
      dtype: of feature maps.
      lowering: of convolutions.
    """

    platform: str
    devices: int
    workers: int
    memory: int
    taken: int
    speed_factors: tuple[float, float]
    dtype: str
    lowering: str

    @staticmethod
    def here(config: Config, speed_factors: tuple[float, float], taken: int = 0) -> "Hardware":
        """That of this process.

        Args:
          config: of the study.
          speed_factors: as above.
          taken: as above.
        """
        devices = training_devices(config)
        dtype = resolve_dtype(config.train.dtype)
        return Hardware(
            platform=devices[0].platform,
            devices=len(devices),
            workers=1,
            memory=(devices[0].memory_stats() or {}).get("bytes_limit", 0),
            taken=taken,
            speed_factors=speed_factors,
            dtype=dtype,
            lowering=resolve_lowering(config.train.lowering, dtype),
        )

    @property
    def all_devices(self) -> int:
        """Devices of all workers."""
        return self.devices * self.workers

    def memory_stats(self) -> dict[str, Any]:
        """As a device of JAX says it."""
        return {"bytes_limit": self.memory}


def training_devices(config: Config) -> tuple[jax.Device, ...]:
    """The devices that train."""
    return tuple(jax.local_devices()[: config.study.devices or None])


def all_devices(config: Config) -> tuple[jax.Device, ...]:
    """The devices of all processes that train, process by process."""
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return tuple(
        device
        for _, group in itertools.groupby(devices, lambda device: device.process_index)
        for device in itertools.islice(group, config.study.devices or None)
    )


def machine_here(config: Config, speed_factors: tuple[float, float]) -> Machine:
    """What compiling and training cost here, given the `measured_speed_factors`."""
    return machine_on(config, Hardware.here(config, speed_factors))


def machine_on(config: Config, hardware: Hardware) -> Machine:
    """What compiling and training cost on some hardware."""
    machine = machine_of(hardware, hardware.speed_factors)
    fast = config.train.fast_compile and hardware.platform == "cpu"
    return machine.compiling_fast() if fast else machine


def make_planner(
    config: Config, space: JointSpace, machine: Machine, sample: Sequence[ArchSpec]
) -> Planner:
    """Creates a planner for these devices; see `Planner`."""
    return planner_for(config, space, machine, Hardware.here(config, (1.0, 1.0)), sample)


def planner_for(
    config: Config,
    space: JointSpace,
    machine: Machine,
    hardware: Hardware,
    sample: Sequence[ArchSpec],
) -> Planner:
    """Creates a planner for some hardware; see `Planner`."""
    train = config.train
    tiled = hardware.lowering == "matmul" and hardware.platform == "cpu"
    return Planner(
        *(space, machine, hardware.all_devices, train.batch_size, tiled, train.program),
        sample=sample,
    )


def shares_batches(train: TrainConfig, devices: Sequence[jax.Device], jobs: int) -> bool:
    """Whether all devices share the batches of one candidate after the other."""
    return shares_batches_on(train, devices[0].platform, len(devices), jobs)


def shares_batches_on(train: TrainConfig, platform: str, devices: int, jobs: int) -> bool:
    """As `shares_batches`, for so many devices of a platform."""
    several = devices > 1
    if train.data_parallel != "auto":
        return several and train.data_parallel == "always"
    fits = train.batch_size % devices == 0
    return several and fits and jobs == 1 and platform != "cpu"


def most_lanes(train: TrainConfig, device: jax.Device, shape: Shape, taken: int) -> int:
    """Lanes of a shape on a device at most, where so many bytes of it are taken anyway."""
    if train.lanes:
        return train.lanes
    return lanes_that_fit(device, shape, train.batch_size, value_bytes(train), taken)


def value_bytes(train: TrainConfig) -> int:
    """Size of a value of a feature map."""
    return np.dtype(resolve_dtype(train.dtype)).itemsize
