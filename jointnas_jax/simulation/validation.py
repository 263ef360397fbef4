"""Is the simulation right? Runs a study on several numbers of CPU devices, and plays it."""

import ast
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jointnas_jax.config import Config, check_config
from jointnas_jax.runtime.processes import in_a_process
from jointnas_jax.simulation.fleet import Fleet, Speeds, speed_at
from jointnas_jax.simulation.player import play
from jointnas_jax.simulation.recorded import recorded
from jointnas_jax.simulation.workload import Workload

# Largest error of a simulated time that counts as right.
TOLERANCE = 0.20


def validate(config: Config, counts: Sequence[int], speeds: Speeds) -> dict[str, Any]:
    """Runs a study on each number of devices, nothing compiled before.

    Args:
      config: of the study.
      counts: numbers of devices; times of the first one are played on all of them.
      speeds: of a device, by number of devices.

    Raises:
      StudyError: a run failed.
    """
    measured: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for devices in counts:
            workdir = Path(folder) / str(devices)
            measured[devices] = _run(config, workdir, devices, Path(folder) / f"cache{devices}")
        workload = recorded(Path(folder) / str(counts[0]), one_host=True)
    return compare(workload, measured, speeds)


def compare(
    workload: Workload, measured: dict[int, dict[str, float]], speeds: Speeds
) -> dict[str, Any]:
    """Plays a workload on the fleets that were measured.

    Args:
      workload: of the smallest fleet.
      measured: number of devices -> seconds by stage.
      speeds: of a device, by number of devices.
    """
    rows = []
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


def table(report: dict[str, Any]) -> list[str]:
    """The report for people."""
    lines = [f"{report['study']}: {'devices':>8}{'measured':>10}{'simulated':>11}{'error':>8}"]
    for r in report["rows"]:
        times = f"{r['measured']:>8.1f} s{r['simulated']:>9.1f} s{r['error']:>+8.1%}"
        lines.append(" " * (len(report["study"]) + 2) + f"{r['devices']:>8}" + times)
    verdict = "within" if report["right"] else "not within"
    return [*lines, f"  {verdict} {TOLERANCE:.0%}; load of the machine {report['load']}"]


def _run(config: Config, workdir: Path, devices: int, cache: Path) -> dict[str, float]:
    """Seconds by stage of the study in a process of its own, with an empty cache of programs."""
    cache.mkdir()
    own = {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_COMPILATION_CACHE_DIR": str(cache)}
    return in_a_process("jointnas_jax.simulation.validation", workdir, config, **own)


def _main(workdir: Path, config: Config) -> None:
    from rich.console import Console

    from jointnas_jax.problem.problem import build_problem
    from jointnas_jax.runtime.jax_setup import prepare_jax
    from jointnas_jax.study.run import run_study

    prepare_jax(0)
    build_problem(config)  # prepares the digits where nobody did: that is no part of a study
    result = run_study(config, workdir, Console(quiet=True))
    print(json.dumps(result["seconds"]))


if __name__ == "__main__":
    _main(Path(sys.argv[1]), check_config(ast.literal_eval(sys.stdin.read())))
