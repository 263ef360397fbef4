"""A fleet as one describes it: so many devices, how fast, how large, how long they last."""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

from jointnas_jax.errors import ConfigError, InputError, one_line, shown
from jointnas_jax.rules import POSITIVE, at_least, between, option

LARGEST = 4096


@dataclasses.dataclass(frozen=True)
class Fleet:
    """Machines that train candidates, one driver that asks for them.

    Attributes:
      devices: that train.
      speed: of a device, in those that the trial times are of.
      memory_gb: of a device; 0: enough.
      compile_seconds: that a device takes to compile a program, which it keeps; -1: as long as the
        workload says.
      preemptions_per_hour: of a device that trains. It loses what was not saved, and the programs.
      replacement_minutes: until another device stands in for one that was preempted.
      checkpoint_minutes: the state of a training is saved after the first epoch that ends so long
        after the last time.
      spread: standard deviation of the logarithm of a training's time around what its network
        takes: stragglers.
      devices_per_trial: that share the batches of one candidate.
      sharing: what is kept of the devices' speed at each doubling of them.
    """

    devices: int = option(1, between(1, LARGEST))
    speed: float = option(1.0, POSITIVE)
    memory_gb: float = option(0.0, at_least(0))
    compile_seconds: float = option(-1.0, at_least(-1))
    preemptions_per_hour: float = option(0.0, at_least(0))
    replacement_minutes: float = option(5.0, at_least(0))
    checkpoint_minutes: float = option(10.0, at_least(0))
    spread: float = option(0.0, between(0, 2))
    devices_per_trial: int = option(1, between(1, LARGEST))
    sharing: float = option(0.9, between(0.5, 1))

    def __post_init__(self):
        """Raises `ConfigError` for what breaks its rule."""
        for field in dataclasses.fields(self):
            rule, value = field.metadata["rule"], getattr(self, field.name)
            if not rule.holds(value):
                raise ConfigError(f"`--{field.name}` must be {rule.text}, got {shown(value)}")

    @property
    def workers(self) -> int:
        """Candidates that train at once."""
        return max(1, self.devices // self.devices_per_trial)

    @property
    def worker_devices(self) -> int:
        """Devices of a worker."""
        return min(self.devices, self.devices_per_trial)

    @property
    def worker_speed(self) -> float:
        """Of the devices of a worker together."""
        count = self.worker_devices
        return self.speed * count * self.sharing ** math.log2(count)

    @property
    def worker_bytes(self) -> float:
        """Memory of a worker."""
        return self.memory_gb * 1e9 * self.worker_devices if self.memory_gb else math.inf

    def without_preemptions(self) -> "Fleet":
        """The same fleet, but that its devices last."""
        return dataclasses.replace(self, preemptions_per_hour=0.0)


Speeds = dict[int, float]
"""Number of devices -> speed of each of them where so many are in use."""


def parse_speeds(texts: Sequence[str]) -> Speeds:
    """Reads `["0.5"]`, or `["1:1", "2:0.8", "4:0.4"]` where devices share what they compute with.

    Raises:
      ConfigError: something else was given.
    """
    try:
        pairs = [text.split(":") if ":" in text else ["1", text] for text in texts]
        speeds = {int(devices): float(speed) for devices, speed in pairs}
    except ValueError:
        speeds = {}
    if not speeds or 1 not in speeds or not all(0 < s < math.inf for s in speeds.values()):
        raise ConfigError(
            "`--speed` must be a number above 0, or speeds by number of devices from 1 on, such as "
            f"1:1,2:0.8,4:0.4, got {shown(','.join(texts))}"
        )
    return speeds


def read_speeds(file: Path) -> Speeds:
    """Speeds as `benchmarks/device_scaling.py` measured them, candidates side by side.

    Raises:
      InputError: the file is not what the script writes, or does not begin with one device.
    """
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
        total = {int(r["devices"]): float(r["side_by_side"]["steps_per_second"]) for r in rows}
        speeds = {devices: rate / devices / total[1] for devices, rate in total.items()}
    except (OSError, ValueError, LookupError, TypeError, ZeroDivisionError) as error:
        raise InputError(
            f"`{file}` is not a result of benchmarks/device_scaling.py with one device and more: "
            f"{one_line(repr(error))}"
        ) from error
    return parse_speeds([f"{devices}:{speed!r}" for devices, speed in speeds.items()])


def speed_at(speeds: Speeds, devices: int) -> float:
    """The speed where so many devices are in use: that of the nearest number below."""
    return speeds[max(known for known in speeds if known <= devices)]
