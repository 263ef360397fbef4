"""A fleet as one describes it: so many devices, how fast, how large, how long they last."""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jointnas_jax.errors import ConfigError, InputError, one_line, shown
from jointnas_jax.rules import POSITIVE, Rule, at_least, between

LARGEST = 4096


def _field(default: float, rule: Rule, doc: str) -> Any:
    """A field with its rule, and its meaning, which is the help of its flag too."""
    return dataclasses.field(default=default, metadata={"rule": rule, "doc": doc})


@dataclasses.dataclass(frozen=True)
class Fleet:
    """Machines that train candidates, one driver that asks for them."""

    devices: int = _field(1, between(1, LARGEST), "Devices that train.")
    speed: float = _field(1.0, POSITIVE, "Speed of a device; the trial times are of speed 1.")
    memory_gb: float = _field(0.0, at_least(0), "Memory of a device; 0: enough.")
    compile_seconds: float = _field(
        -1.0, at_least(-1), "Of a program on a device, which keeps it; -1: the workload's."
    )
    preemptions_per_hour: float = _field(
        0.0, at_least(0), "Of a device that trains; what was not saved and its programs are lost."
    )
    replacement_minutes: float = _field(5.0, at_least(0), "Until a preempted device is replaced.")
    checkpoint_minutes: float = _field(
        10.0, at_least(0), "Between saved states of a training, which end an epoch."
    )
    spread: float = _field(
        0.0, between(0, 2), "Deviation of the logarithm of a training's time: stragglers."
    )
    devices_per_trial: int = _field(1, between(1, LARGEST), "Devices that share a batch.")
    sharing: float = _field(0.9, between(0.5, 1), "Speed that each doubling of them keeps.")

    def __post_init__(self):
        """Raises `ConfigError` for a value that breaks its rule."""
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
        """Speed of the devices of a worker together."""
        count = self.worker_devices
        return self.speed * count * self.sharing ** math.log2(count)

    @property
    def worker_bytes(self) -> float:
        """Bytes of memory of a worker."""
        return self.memory_gb * 1e9 * self.worker_devices if self.memory_gb else math.inf


# Number of devices -> speed of each of them where so many are in use.
Speeds = dict[int, float]


def parse_speeds(texts: Sequence[str]) -> Speeds:
    """Reads `["0.5"]`, or `["1:1", "2:0.8", "4:0.4"]`; raises `ConfigError`."""
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
    """Speeds as `benchmarks/scaling.py` measured them, side by side; raises `InputError`."""
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
        total = {int(r["devices"]): float(r["side_by_side"]["steps_per_second"]) for r in rows}
        speeds = {devices: rate / devices / total[1] for devices, rate in total.items()}
    except (OSError, ValueError, LookupError, TypeError, ZeroDivisionError) as error:
        raise InputError(
            f"`{file}` is not a result of benchmarks/scaling.py with one device and more: "
            f"{one_line(repr(error))}"
        ) from error
    return parse_speeds([f"{devices}:{speed!r}" for devices, speed in speeds.items()])


def speed_at(speeds: Speeds, devices: int) -> float:
    """The speed where so many devices are in use: that of the nearest number below."""
    return speeds[max(number for number in speeds if number <= devices)]
