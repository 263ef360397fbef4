"""Latencies that were measured: those of a device in the cache folder, and those that a study uses.

The cache holds, for each kind of device and version of JAX, what every piece took that was ever
timed there, and for each space that was checked against whole networks a correction: what a call
costs, and by how much whole networks are slower or faster than their pieces. A study takes whole
nanoseconds of the pieces of its space, corrected, and keeps them in its workdir: it goes on with
them, whatever is measured later.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import jax

from jointnas_jax.config import Config
from jointnas_jax.errors import ConfigError, DamagedError, InputError, StorageError
from jointnas_jax.files import read_json, write_json
from jointnas_jax.nets.latency import HEAD, Piece, pieces_of_space
from jointnas_jax.nets.timing import Setting
from jointnas_jax.runtime.cache import cache_folder
from jointnas_jax.space import JointSpace
from jointnas_jax.storage import workdir as workdirs

_FOLDER = "latency"  # in the cache


@dataclasses.dataclass(frozen=True)
class LatencyTable:
    """What a study's latencies are summed up from.

    Attributes:
      setting: where it was measured, see `Setting.name`.
      times: nanoseconds of every piece of the space, by key.
    """

    setting: str
    times: Mapping[str, int]

    def write(self, workdir: Path) -> None:
        """Writes it into a workdir; raises `StorageError`."""
        write_json(workdir / workdirs.LATENCY, dataclasses.asdict(self), digest=True)

    @staticmethod
    def of_study(config: Config, workdir: Path) -> "LatencyTable | None":
        """Reads what a study in a workdir began with; None where its budget has no latency.

        Raises:
          DamagedError: it is not what was written.
        """
        if not config.budget.latency:
            return None
        file = workdir / workdirs.LATENCY
        if not file.exists():
            raise DamagedError(f"`{file}` is missing: the latencies that the study began with")
        data = read_json(file)
        try:
            return LatencyTable(str(data["setting"]), {k: int(v) for k, v in data["times"].items()})
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            raise DamagedError(f"`{file}` is damaged: {error}") from error


@dataclasses.dataclass(frozen=True)
class Correction:
    """From the sum of pieces to whole networks: overhead + factor * sum.

    Attributes:
      overhead: nanoseconds of any network.
      factor: above 0.
    """

    overhead: float
    factor: float

    def applied(self, pieces: Mapping[str, Piece], times: Mapping[str, float]) -> dict[str, int]:
        """Corrects the timings of pieces; the overhead goes to the head, which each network has."""
        head = lambda piece: self.overhead * (piece.kind == HEAD)
        return {
            key: max(1, round(self.factor * times[key] + head(piece)))
            for key, piece in pieces.items()
        }


@dataclasses.dataclass
class Kept:
    """What the cache holds of a device.

    Attributes:
      setting: see `Setting.name`.
      times: nanoseconds of pieces by key, uncorrected.
      corrections: of spaces, by the digest of their pieces.
    """

    setting: str
    times: dict[str, float] = dataclasses.field(default_factory=dict)
    corrections: dict[str, Correction] = dataclasses.field(default_factory=dict)

    @staticmethod
    def read(setting: str) -> "Kept":
        """Reads it; where there is nothing sound, nothing is known."""
        folder = cache_folder(_FOLDER)
        try:
            data = read_json(_file(folder, setting)) if folder else {}
            return Kept(
                setting,
                {str(key): float(value) for key, value in data["times"].items()},
                {key: Correction(*map(float, c)) for key, c in data["corrections"].items()},
            )
        except (InputError, DamagedError, TypeError, ValueError, LookupError, AttributeError):
            return Kept(setting)

    def write(self) -> None:
        """Writes it; raises `StorageError`, for it would have been measured for nothing."""
        folder = cache_folder(_FOLDER)
        if folder is None:
            raise StorageError(
                "the cache folder cannot be written, where latencies are kept; name another one "
                "with XDG_CACHE_HOME"
            )
        corrections = {key: dataclasses.astuple(c) for key, c in self.corrections.items()}
        data = {"setting": self.setting, "times": self.times, "corrections": corrections}
        write_json(_file(folder, self.setting), data, digest=True)

    def missing(self, pieces: Mapping[str, Piece]) -> list[Piece]:
        """The pieces that were not timed."""
        return [piece for key, piece in pieces.items() if key not in self.times]

    def table(self, pieces: Mapping[str, Piece]) -> LatencyTable | None:
        """The table of a space, given its pieces; None where it was not measured to the end."""
        correction = self.corrections.get(digest_of(pieces))
        if correction is None or self.missing(pieces):
            return None
        return LatencyTable(self.setting, correction.applied(pieces, self.times))


def known_latencies(space: JointSpace) -> LatencyTable:
    """Returns the latencies of a space on this device.

    Raises:
      ConfigError: they have not been measured, with the command that does.
    """
    setting = Setting(jax.local_devices()[0]).name
    kept, pieces = Kept.read(setting), pieces_of_space(space)
    table = kept.table(pieces)
    if table is None:
        missing = len(kept.missing(pieces))
        raise ConfigError(
            f"a budget of the latency needs measurements on this device ({setting}): "
            f"{missing:,} of {len(pieces):,} distinct blocks of the space are not timed; time them "
            "first with `python scripts/profile.py table` and the same --config flags"
        )
    return table


def digest_of(pieces: Mapping[str, Piece]) -> str:
    """Of all that the latencies of a space depend on."""
    return hashlib.sha256(json.dumps(sorted(pieces)).encode()).hexdigest()[:32]


def _file(folder: Path, setting: str) -> Path:
    return folder / f"{hashlib.sha256(setting.encode()).hexdigest()[:32]}.json"
