"""The hardware that trains, as far as a schedule depends on it."""

import dataclasses

import jax
import numpy as np

from jointnas_jax.config import Config
from jointnas_jax.execution.cost_model import MAP_COPIES, measured_speed_factors
from jointnas_jax.nets.conv import resolve_dtype, resolve_lowering
from jointnas_jax.nets.cost import training_bytes
from jointnas_jax.nets.envelope import Envelope
from jointnas_jax.runtime.cache import cache_dir
from jointnas_jax.runtime.chips import CHIPS, chip_of
from jointnas_jax.space import ArchSpec


@dataclasses.dataclass(frozen=True)
class Hardware:
    """Devices that train, in one process or in several alike.

    Attributes:
      platform: platform of all devices, such as `cpu`.
      devices: devices of one worker, which are what one program can run on.
      workers: processes with so many devices each.
      memory: memory of a device in bytes, 0 where it is not known.
      taken: bytes of it that images take.
      speed_factors: times that compiling and training take, over the constants of the cost model;
        see `measured_speed_factors`.
      dtype: dtype of feature maps.
      lowering: lowering of convolutions.
      chip: name in `CHIPS`; "": another device.
    """

    platform: str
    devices: int
    workers: int
    memory: int
    taken: int
    speed_factors: tuple[float, float]
    dtype: str
    lowering: str
    chip: str = ""

    @staticmethod
    def here(
        config: Config, speed_factors: tuple[float, float] | None = None, taken: int = 0
    ) -> "Hardware":
        """The hardware of this process.

        Args:
          config: config of the study.
          speed_factors: those that the study began with; None: a device is measured for a second,
            once on each machine.
          taken: bytes of images on each device.
        """
        devices = training_devices(config)
        platform = devices[0].platform
        dtype = resolve_dtype(config.train.dtype, platform)
        return Hardware(
            platform=platform,
            devices=len(devices),
            workers=1,
            memory=(devices[0].memory_stats() or {}).get("bytes_limit", 0),
            taken=taken,
            speed_factors=speed_factors or measured_speed_factors(devices[0], cache_dir()),
            dtype=dtype,
            lowering=resolve_lowering(config.train.lowering, dtype, platform),
            chip=chip_of(devices[0].device_kind) or "",
        )

    @staticmethod
    def absent(config: Config, chip: str, taken: int = 0) -> "Hardware":
        """As many chips of `CHIPS` as the config names, or one, which need not be there."""
        platform = CHIPS[chip].platform
        dtype = resolve_dtype(config.train.dtype, platform)
        return Hardware(
            platform=platform,
            devices=config.study.devices or 1,
            workers=1,
            memory=CHIPS[chip].memory,
            taken=taken,
            speed_factors=(1.0, 1.0),
            dtype=dtype,
            lowering=resolve_lowering(config.train.lowering, dtype, platform),
            chip=chip,
        )

    @property
    def kind(self) -> str:
        """The kind of device that `cost_model_of` takes."""
        return self.chip or self.platform

    @property
    def all_devices(self) -> int:
        """Devices of all workers."""
        return self.devices * self.workers

    @property
    def value_bytes(self) -> int:
        """Size of a value of a feature map."""
        return np.dtype(self.dtype).itemsize

    def training_bytes(self, shape: ArchSpec | Envelope, batch: int) -> int:
        """Memory that the training of a lane takes, see `nets/cost.py`."""
        copies = MAP_COPIES[self.platform]
        return training_bytes(shape, batch, self.value_bytes, copies)

    @property
    def tiled(self) -> bool:
        """Whether envelopes run in tiles, see `nets/tiled.py`."""
        return self.lowering == "matmul" and self.platform == "cpu"


def training_devices(config: Config) -> tuple[jax.Device, ...]:
    """The devices of this process that train."""
    return tuple(jax.local_devices()[: config.study.devices or None])
