"""Where and how a study began: what its results depend on besides its config."""

import dataclasses
import secrets
from pathlib import Path
from typing import Any

from rich.console import Console

from jointnas_jax.config import Config
from jointnas_jax.errors import ConfigError, DamagedError
from jointnas_jax.files import read_json, write_json
from jointnas_jax.storage.database import parse_url, public_name
from jointnas_jax.storage.workdir import PROVENANCE, SCHEMA


@dataclasses.dataclass(frozen=True)
class Provenance:
    """Where and how a study began.

    Attributes:
      schema: of the files in the workdir.
      machine: kind, number and features of the devices, versions of JAX: other ones may round
        differently.
      speed_factors: that the planner goes by, see `measured_speed_factors`.
      storage: database of the trials, without its password; "" is the file in the workdir.
      study: name of the study in it.
    """

    schema: int
    machine: dict[str, Any]
    speed_factors: tuple[float, float]
    storage: str
    study: str

    @staticmethod
    def here(
        config: Config, machine: dict[str, Any], speed_factors: tuple[float, float]
    ) -> "Provenance":
        """That of a study which begins here and now."""
        storage = _public_storage(config)
        # Others may keep studies of this name in the same database.
        end = f"-{secrets.token_hex(4)}" if storage else ""
        return Provenance(SCHEMA, machine, speed_factors, storage, config.name + end)

    @staticmethod
    def read(workdir: Path) -> "Provenance":
        """Reads what `write` wrote.

        Raises:
          DamagedError: it is not what was written.
          WorkdirError: another version wrote it.
        """
        data = read_json(workdir / PROVENANCE, SCHEMA)
        try:
            return Provenance(**data | {"speed_factors": tuple(data["speed_factors"])})
        except (TypeError, LookupError) as error:
            raise DamagedError(f"`{workdir / PROVENANCE}` is damaged: {error}") from error

    def write(self, workdir: Path) -> None:
        """Writes it into the workdir; raises `StorageError`."""
        write_json(workdir / PROVENANCE, dataclasses.asdict(self), digest=True)

    def check(self, config: Config, machine: dict[str, Any], console: Console) -> None:
        """Checks that the study may go on here.

        Raises:
          ConfigError: it is stored elsewhere, or began on another machine and that is not allowed.
        """
        if (given := _public_storage(config)) != self.storage:
            raise ConfigError(
                f"`config.study.storage` is {self.storage!r} where the study began, got {given!r}"
            )
        there = self.machine
        differ = [
            f"{name} {there.get(name)} there, {value} here"
            for name, value in machine.items()
            if there.get(name) != value
        ]
        if not differ:
            return
        what = f"the study began on another machine: {', '.join(differ)}"
        if not config.study.other_machine:
            raise ConfigError(
                f"{what}; results may differ in the last bits; go on nevertheless with "
                "--config.study.other_machine"
            )
        console.print(f"  warning: {what}; results may differ in the last bits", highlight=False)


def _public_storage(config: Config) -> str:
    """Raises `ConfigError` if the config names no database."""
    storage = config.study.storage
    return public_name(parse_url(storage)) if storage else ""


def machine_here(devices: int) -> dict[str, Any]:
    """What results on so many devices like those of this process may depend on."""
    # Only here: reports read origins without JAX.
    import jax
    import jaxlib
    from jaxlib import xla_client

    first = jax.local_devices()[0]
    try:
        features = str(xla_client.get_topology_for_devices([first]).fingerprint())
    except (AttributeError, TypeError, jax.errors.JaxRuntimeError):
        features = "unknown"
    return {
        "device": first.device_kind,
        "devices": devices,
        "features": features,
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
    }
