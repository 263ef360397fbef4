"""Measured latencies: those of a device in the cache folder, and those of a study.

The cache holds, for each kind of device and version of JAX, the times of pieces, and for each space
checked against whole networks a correction: the overhead of a call, and the factor between whole
networks and their pieces. A study stores the corrected times of the pieces of its space, in whole
nanoseconds, in its workdir: later measurements do not change it.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import jax

from jointnas_jax.config import Config
from jointnas_jax.errors import ConfigError, DamagedError, InputError, StorageError
from jointnas_jax.files import read_json, reading, write_json
from jointnas_jax.nets.latency import HEAD, LATENCY, Piece, pieces_of_space
from jointnas_jax.nets.timing import Setting
from jointnas_jax.runtime.cache import cache_folder
from jointnas_jax.space import JointSpace
from jointnas_jax.storage import workdir as workdirs

_FOLDER = "latency"  # in the cache


@dataclasses.dataclass(frozen=True)
class LatencyTable:
    """Times of pieces, whose sums are the latencies of a study.

    Attributes:
      setting: Device and versions, see `Setting.name`.
      times: Nanoseconds of every piece of the space, by key.
    """

    setting: str
    times: Mapping[str, int]

    def write(self, workdir: Path) -> None:
        """Writes the file in a workdir; raises `StorageError`."""
        write_json(workdir / workdirs.LATENCY, dataclasses.asdict(self), digest=True)

    @staticmethod
    def of_study(config: Config, workdir: Path) -> "LatencyTable | None":
        """Reads the table of the study in a workdir; None where its budget has no latency."""
        if not config.budget.latency and config.front != LATENCY:
            return None
        file = workdir / workdirs.LATENCY
        if not file.exists():
            raise DamagedError(f"`{file}` is missing: the latencies that the study began with")
        data = read_json(file)
        with reading(file):
            return LatencyTable(str(data["setting"]), {k: int(v) for k, v in data["times"].items()})


@dataclasses.dataclass(frozen=True)
class Correction:
    """Latency of a network from the sum of its pieces: overhead + factor * sum.

    Attributes:
      overhead: Nanoseconds of any network.
      factor: A number above 0.
    """

    overhead: float
    factor: float

    def applied(self, pieces: Mapping[str, Piece], times: Mapping[str, float]) -> dict[str, int]:
        """Corrects the times of pieces; the overhead goes to the head, which each network has."""
        return {
            key: max(1, round(self.factor * times[key] + self.overhead * (piece.kind == HEAD)))
            for key, piece in pieces.items()
        }


@dataclasses.dataclass
class DeviceLatencies:
    """Measurements on one device, in the cache.

    Attributes:
      setting: Device and versions, see `Setting.name`.
      times: Nanoseconds of pieces by key, uncorrected.
      corrections: Corrections of spaces, by the digest of their pieces.
    """

    setting: str
    times: dict[str, float] = dataclasses.field(default_factory=dict)
    corrections: dict[str, Correction] = dataclasses.field(default_factory=dict)

    @staticmethod
    def read(setting: str) -> "DeviceLatencies":
        """Reads the file in the cache; returns no measurements where there is no sound one."""
        folder = cache_folder(_FOLDER)
        if folder is None:
            return DeviceLatencies(setting)
        file = _file(folder, setting)
        try:
            data = read_json(file)
            with reading(file):
                return DeviceLatencies(
                    setting,
                    {str(key): float(value) for key, value in data["times"].items()},
                    {key: Correction(*map(float, c)) for key, c in data["corrections"].items()},
                )
        except (InputError, DamagedError):
            return DeviceLatencies(setting)

    def write(self) -> None:
        """Writes the file in the cache; raises `StorageError`."""
        folder = cache_folder(_FOLDER)
        if folder is None:
            raise StorageError(
                "the cache folder, which stores latencies, cannot be written; name another one "
                "with XDG_CACHE_HOME"
            )
        corrections = {key: dataclasses.astuple(c) for key, c in self.corrections.items()}
        data = {"setting": self.setting, "times": self.times, "corrections": corrections}
        write_json(_file(folder, self.setting), data, digest=True)

    def missing(self, pieces: Mapping[str, Piece]) -> list[Piece]:
        """The pieces without a time."""
        return [piece for key, piece in pieces.items() if key not in self.times]

    def table(self, pieces: Mapping[str, Piece]) -> LatencyTable | None:
        """The table of a space, given its pieces; None where its measurement is not complete."""
        correction = self.corrections.get(digest_of(pieces))
        if correction is None or self.missing(pieces):
            return None
        return LatencyTable(self.setting, correction.applied(pieces, self.times))


def measured_latencies(space: JointSpace) -> LatencyTable:
    """The latencies of a space on this device; raises `ConfigError` where they are missing."""
    setting = Setting(jax.local_devices()[0]).name
    stored, pieces = DeviceLatencies.read(setting), pieces_of_space(space)
    table = stored.table(pieces)
    if table is None:
        missing = len(stored.missing(pieces))
        raise ConfigError(
            f"a budget of the latency needs measurements on this device ({setting}): "
            f"{missing:,} of {len(pieces):,} distinct blocks of the space are not timed; time them "
            "first with `python scripts/profile.py table` and the same --config flags"
        )
    return table


def digest_of(pieces: Mapping[str, Piece]) -> str:
    """Digest of the pieces of a space, on which its latencies depend."""
    return hashlib.sha256(json.dumps(sorted(pieces)).encode()).hexdigest()[:32]


def _file(folder: Path, setting: str) -> Path:
    return folder / f"{hashlib.sha256(setting.encode()).hexdigest()[:32]}.json"
