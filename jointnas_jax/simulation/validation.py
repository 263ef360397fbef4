"""Is the simulation right? Runs a study on several numbers of CPU devices, and plays it."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jointnas_jax.command_line import text_table
from jointnas_jax.config import Config, check_config
from jointnas_jax.runtime.processes import in_a_process
from jointnas_jax.simulation.fleet import Fleet, Speeds, speed_at
from jointnas_jax.simulation.player import play
from jointnas_jax.simulation.recorded import recorded
from jointnas_jax.simulation.workload import Workload

# Largest error of a simulated time that counts as right.
TOLERANCE = 0.20


def validate(config: Config, counts: Sequence[int], speeds: Speeds) -> dict[str, Any]:
    """Runs a study on each number of devices, nothing compiled before; raises `StudyError`.

    The times of the first number are played on all of them.
    """
    measured: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for devices in counts:
            cache = Path(folder) / f"cache{devices}"
            cache.mkdir()
            measured[devices] = in_a_process(
                "jointnas_jax.simulation.validation:stage_seconds",
                str(Path(folder) / str(devices)),
                config.to_dict(),
                JAX_NUM_CPU_DEVICES=str(devices),
                JAX_COMPILATION_CACHE_DIR=str(cache),
            )
        workload = recorded(Path(folder) / str(counts[0]), one_host=True)
    return compare(workload, measured, speeds)


def stage_seconds(workdir: str, settings: Mapping[str, Any]) -> dict[str, float]:
    """Runs a study in this process; returns its seconds by stage."""
    from rich.console import Console

    from jointnas_jax.problem.problem import build_problem
    from jointnas_jax.runtime.jax_setup import prepare_jax
    from jointnas_jax.study.run import run_study

    prepare_jax(0)
    config = check_config(settings)
    build_problem(config)  # prepares the digits if nobody did: that is no part of a study
    return run_study(config, Path(workdir), Console(quiet=True))["seconds"]


def compare(
    workload: Workload, measured: Mapping[int, dict[str, float]], speeds: Speeds
) -> dict[str, Any]:
    """Plays a workload on all fleets that were measured: number of devices -> seconds by stage."""
    rows: list[dict[str, Any]] = []
    for devices, seconds in measured.items():
        fleet = Fleet(devices, speed_at(speeds, devices))
        real, played = sum(seconds.values()), play(workload, fleet).seconds
        rows.append(
            {
                "devices": devices,
                "speed": fleet.speed,
                "measured": real,
                "simulated": played,
                "error": played / real - 1,
                "stages": seconds,
            }
        )
    right = all(abs(row["error"]) <= TOLERANCE for row in rows)
    load = os.getloadavg()[1] if hasattr(os, "getloadavg") else None
    return {"study": workload.name, "rows": rows, "right": right, "load": load}


def table(report: dict[str, Any]) -> str:
    """The report as text."""
    layout = {
        "devices": "{devices}",
        "measured": "{measured:.1f} s",
        "simulated": "{simulated:.1f} s",
        "error": "{error:+.1%}",
    }
    verdict = "within" if report["right"] else "not within"
    end = f"  {verdict} {TOLERANCE:.0%}; load of the machine {report['load']}"
    return f"{report['study']}:\n{text_table(report['rows'], layout)}\n{end}"
