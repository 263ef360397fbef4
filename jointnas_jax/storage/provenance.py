"""Provenance of a study: what its results depend on besides its config."""

import dataclasses
import secrets
from pathlib import Path
from typing import Any

from rich.console import Console

from jointnas_jax.config import Config
from jointnas_jax.errors import ConfigError
from jointnas_jax.files import read_json, reading, write_json
from jointnas_jax.storage.database import parse_url, public_name
from jointnas_jax.storage.workdir import PROVENANCE, SCHEMA


@dataclasses.dataclass(frozen=True)
class Provenance:
    """Environment and storage with which a study began.

    Attributes:
      schema: Version of the files in the workdir.
      machine: See `environment`: another one may round differently.
      speed_factors: Input of the schedule, see `measured_speed_factors`.
      storage: Database of the trials, without its password; "" is the file in the workdir.
      study: Name of the study in the database.
      dataset: Name of the dataset; "" where an older version began.
    """

    schema: int
    machine: dict[str, Any]
    speed_factors: tuple[float, float]
    storage: str
    study: str
    dataset: str = ""

    @staticmethod
    def here(
        config: Config, machine: dict[str, Any], speed_factors: tuple[float, float], dataset: str
    ) -> "Provenance":
        """Provenance of a study that begins now."""
        storage = _public_storage(config)
        # The same database may have other studies of this name.
        end = f"-{secrets.token_hex(4)}" if storage else ""
        study = config.name + end
        return Provenance(SCHEMA, machine, speed_factors, storage, study, dataset)

    @staticmethod
    def read(workdir: Path) -> "Provenance":
        """Reads the file in a workdir; raises as `read_json` does."""
        data = read_json(workdir / PROVENANCE, SCHEMA)
        with reading(workdir / PROVENANCE):
            return Provenance(**data | {"speed_factors": tuple(data["speed_factors"])})

    def write(self, workdir: Path) -> None:
        """Writes the file in the workdir; raises `StorageError`."""
        write_json(workdir / PROVENANCE, dataclasses.asdict(self), digest=True)

    def check(
        self, config: Config, machine: dict[str, Any], console: Console, *, dataset: str
    ) -> None:
        """Checks that the study may continue.

        Raises:
          ConfigError: Its database is another one, or the dataset, or the machine without
            `config.study.other_machine`.
        """
        if self.dataset and dataset != self.dataset:
            raise ConfigError(
                f"the study began with the images of `{self.dataset}`, here are those of "
                f"`{dataset}`; restore the files of `config.data.dir`, or give another --workdir"
            )
        if (given := _public_storage(config)) != self.storage:
            raise ConfigError(
                f"`config.study.storage` is {self.storage!r} where the study began, got {given!r}"
            )
        differ = [
            f"{name} {self.machine.get(name)} there, {value} here"
            for name, value in machine.items()
            if self.machine.get(name) != value
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


def environment(devices: int) -> dict[str, Any]:
    """Kind, number and features of devices like those of this process, and versions of JAX."""
    # Only here: reports read the provenance without JAX.
    import jax
    import jaxlib

    first = jax.local_devices()[0]
    try:
        from jaxlib import xla_client  # no public module has the fingerprint

        features = str(xla_client.get_topology_for_devices([first]).fingerprint())
    except (ImportError, AttributeError, TypeError, jax.errors.JaxRuntimeError):
        features = "unknown"
    return {
        "device": first.device_kind,
        "devices": devices,
        "features": features,
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
    }
