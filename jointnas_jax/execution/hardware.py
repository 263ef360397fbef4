"""The hardware that trains, as far as a schedule depends on it."""

import dataclasses

import jax
import numpy as np

from jointnas_jax.config import Config
from jointnas_jax.execution.cost_model import measured_speed_factors
from jointnas_jax.nets.conv import resolve_dtype, resolve_lowering
from jointnas_jax.runtime.cache import cache_dir


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
        dtype = resolve_dtype(config.train.dtype)
        return Hardware(
            platform=devices[0].platform,
            devices=len(devices),
            workers=1,
            memory=(devices[0].memory_stats() or {}).get("bytes_limit", 0),
            taken=taken,
            speed_factors=speed_factors or measured_speed_factors(devices[0], cache_dir()),
            dtype=dtype,
            lowering=resolve_lowering(config.train.lowering, dtype),
        )

    @property
    def all_devices(self) -> int:
        """Devices of all workers."""
        return self.devices * self.workers

    @property
    def value_bytes(self) -> int:
        """Size of a value of a feature map."""
        return np.dtype(self.dtype).itemsize

    @property
    def tiled(self) -> bool:
        """Whether envelopes run in tiles, see `nets/tiled.py`."""
        return self.lowering == "matmul" and self.platform == "cpu"


def training_devices(config: Config) -> tuple[jax.Device, ...]:
    """The devices of this process that train."""
    return tuple(jax.local_devices()[: config.study.devices or None])
