"""What can be configured of those who train a study's candidates, see `study/executor.py`."""

import dataclasses
from typing import Any

from jointnas_jax.errors import ConfigError, shown
from jointnas_jax.rules import ADDRESS, between, option


@dataclasses.dataclass(frozen=True)
class RayConfig:
    """The actors of the executor `ray`; the cluster is `RAY_ADDRESS`, or one that starts here.

    Attributes:
      workers: actors, each of which trains one pack at a time.
      cpus: processors of each.
      gpus: of each; its programs run on all of them.
      tpus: chips of each, likewise.
      retries: how often what an actor trained when it died is given to another.
    """

    workers: int = option(1, between(1, 4096))
    cpus: int = option(1, between(0, 4096))
    gpus: int = option(0, between(0, 64))
    tpus: int = option(0, between(0, 64))
    retries: int = option(2, between(0, 100))


@dataclasses.dataclass(frozen=True)
class PodConfig:
    """The processes of the executor `pod`: the same command, once on every host.

    Attributes:
      coordinator: `host:port` of process 0, which the others connect to; "": it, the number of
        processes and that of this one are what the environment says (TPU VMs, Slurm, Open MPI).
      processes: how many there are.
      process: number of this one, from 0; process 0 owns the workdir.
      timeout: seconds after which a process that is not heard of is dead, and ends the others.
    """

    coordinator: str = option("", ADDRESS)
    processes: int = option(0, between(0, 4096))
    process: int = option(-1, between(-1, 4095))
    timeout: float = option(60.0, between(2, 3600))


@dataclasses.dataclass(frozen=True)
class SharedConfig:
    """The drivers of the executor `shared`: the same command, each with a workdir of its own.

    What they share is the database `study.storage`, where each claims what it trains.

    Attributes:
      drivers: how many are planned for; more or fewer may come and go.
      timeout: seconds after which a driver that is not heard of is dead, and its claims are free.
    """

    drivers: int = option(2, between(1, 4096))
    timeout: float = option(60.0, between(2, 3600))


def check_executor(config: Any) -> None:
    """Checks what one section alone cannot know; raises `ConfigError`."""
    _check_pod(config.pod)
    if config.executor == "shared" and not config.study.storage:
        raise ConfigError(
            "`config.executor` = `shared` needs the database that the drivers share, got none; "
            "add --config.study.storage=postgresql://host/name"
        )


def check_asking(config: Any) -> None:
    """Checks that this run can ask as the study does; raises `ConfigError`.

    Apart from `check_executor`: a workdir keeps the study's config, not who trains.
    """
    if config.search.asynchronous and config.executor != "ray":
        raise ConfigError(
            "`config.search.asynchronous` is for actors that become free one by one, so "
            f"`config.executor` must be `ray`, got `{config.executor}`; leave it out here: "
            "candidates of a round train side by side"
        )


def _check_pod(pod: PodConfig) -> None:
    """What is not from the environment must be whole."""
    given = (bool(pod.coordinator), pod.processes > 0, pod.process >= 0)
    if any(given) and not (all(given) and pod.process < pod.processes):
        raise ConfigError(
            "`config.pod` must have a `coordinator`, a number of `processes` and a `process` below "
            "it, or none of them where the environment says so, got "
            f"{shown(pod.coordinator)}, {pod.processes} and {pod.process}"
        )
