"""One workload on fleets of many sizes: what it takes, where it stops scaling, what rounds cost."""

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any

from jointnas_jax.command_line import text_table
from jointnas_jax.errors import InputError
from jointnas_jax.simulation.asking import ASKERS
from jointnas_jax.simulation.fleet import Fleet, Speeds, speed_at
from jointnas_jax.simulation.player import Played, play
from jointnas_jax.simulation.workload import Workload

# A fleet twice as large that saves less than this share of the time does not scale any more.
WORTH = 0.10
# What asynchronous rounds must gain to be worth having.
WANTED = 0.20

_LAYOUT = {
    "devices": "{devices:,}",
    "rounds": "{rounds}",
    "hours": "{hours:,.4g}",
    "search": "{search_hours:,.4g}",
    "busy": "{utilisation:.0%}",
    "preempted": "{preemptions:,.0f}",
    "lost dev-h": "{lost_device_hours:,.4g}",
    "delay": "{delay:.1%}",
    "known": "{known:.0f}",
}


def sweep(
    workload: Workload, fleet: Fleet, sizes: Sequence[int], *, speeds: Speeds, seeds: int
) -> dict[str, Any]:
    """Plays a workload on fleets of several sizes, in rounds and as results arrive.

    Args:
      workload: the study.
      fleet: everything about it but its size and speed.
      sizes: numbers of devices.
      speeds: speed of a device, by number of devices.
      seeds: plays of each, over which times are averaged.

    Returns:
      The report, documented in `scripts/simulate.py`.

    Raises:
      InputError: no candidate fits on a device, or no training gets anywhere.
    """
    rows = []
    for devices in sorted(set(sizes)):
        sized = dataclasses.replace(fleet, devices=devices, speed=speed_at(speeds, devices))
        fits = workload.fitting(sized.worker_bytes)
        if not all(phase.trainings for phase in fits.phases if phase.coarse):
            raise InputError(
                f"a round has no candidate that fits in `--memory_gb` = {fleet.memory_gb:g} of "
                f"{sized.worker_devices} devices; the smallest one needs "
                f"{min(t.memory for t in workload.trainings) / 1e9:.1f} GB"
            )
        for rounds in ASKERS:
            plays = [play(fits, sized, rounds, seed=seed) for seed in range(seeds)]
            calm = plays
            if sized.preemptions_per_hour:
                lasting = dataclasses.replace(sized, preemptions_per_hour=0.0)
                calm = [play(fits, lasting, rounds, seed=seed) for seed in range(seeds)]
            row = {"devices": devices, "rounds": rounds} | _means(
                fits, sized, plays=plays, calm=calm
            )
            rows.append(row | {"too_large": len(workload.trainings) - len(fits.trainings)})
    return {
        "study": workload.name,
        "source": workload.source,
        "fleet": dataclasses.asdict(fleet) | {"speed": speeds},
        "seeds": seeds,
        "trainings": len(workload.trainings),
        "device_hours": workload.device_seconds / 3600,
        "rows": rows,
        "scaling": {name: scaling(rows, name) for name in ASKERS},
        "gains": gains(rows),
    }


def _means(
    workload: Workload, fleet: Fleet, *, plays: Sequence[Played], calm: Sequence[Played]
) -> dict[str, float | None]:
    """Means over plays; `calm` are the same ones without preemptions."""
    mean = statistics.fmean
    seconds = mean(p.seconds for p in plays)
    devices = fleet.workers * fleet.worker_devices
    _, *later = [phase for phase in workload.phases if phase.coarse]
    seen = [p.seen[t.number] for p in plays for phase in later for t in phase.trainings]
    return {
        "hours": seconds / 3600,
        "search_hours": mean(p.search_seconds for p in plays) / 3600,
        "utilisation": mean(p.training / (devices * p.seconds) for p in plays),
        "compile_share": mean(p.compiling / (p.training + p.compiling + p.lost) for p in plays),
        "preemptions": mean(p.preemptions for p in plays),
        "lost_device_hours": mean(p.lost for p in plays) / 3600,
        "delay": seconds / mean(p.seconds for p in calm) - 1,
        "known": mean(seen) if seen else None,
        "least_known": min(seen, default=None),
    }


def scaling(rows: Sequence[dict[str, Any]], rounds: str) -> dict[str, Any]:
    """Where more devices no longer help.

    Returns:
      `stops`: the first size of which the next one, at least twice as large, saves less than
      `WORTH` of the time, None if there is none; `half_busy`: the largest size at which devices
      train half of the time.
    """
    line = [row for row in rows if row["rounds"] == rounds]
    stops = []
    for row in line:
        twice = next((other for other in line if other["devices"] >= 2 * row["devices"]), None)
        if twice and twice["hours"] > (1 - WORTH) * row["hours"]:
            stops.append(row["devices"])
    busy = [row["devices"] for row in line if row["utilisation"] >= 0.5]
    return {"stops": min(stops, default=None), "half_busy": max(busy, default=None)}


def gains(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Share of the time that other ways of asking save, by fleet: of the search, and of the study.

    `over_wide` is what they save of a search in rounds as wide as the fleet: that rounds of fixed
    size leave the rest of a large fleet idle is not for want of asking earlier.
    """
    by_size: dict[int, dict[str, dict[str, Any]]] = {}
    for row in rows:
        by_size.setdefault(row["devices"], {})[row["rounds"]] = row
    gained = []
    for devices, others in by_size.items():
        sync = others.pop("sync")
        saved = {
            name: {
                "search": 1 - row["search_hours"] / sync["search_hours"],
                "study": 1 - row["hours"] / sync["hours"],
                "over_wide": 1 - row["search_hours"] / others["wide"]["search_hours"],
                "known": row["known"],
            }
            for name, row in others.items()
        }
        gained.append({"devices": devices, "known": sync["known"], **saved})
    return gained


def table(report: dict[str, Any]) -> str:
    """The report's rows as text."""
    hours = f"{report['device_hours']:,.4g} device-hours, by {report['source']}"
    head = f"{report['study']}: {report['trainings']} trainings, {hours}"
    return f"{head}\n{text_table(report['rows'], _LAYOUT)}"


def sentences(report: dict[str, Any]) -> list[str]:
    """The report's answers in words."""
    lines = []
    last = max(row["devices"] for row in report["rows"])
    for name, answers in report["scaling"].items():
        answer = f"still scales at {last:,} devices"
        if stops := answers["stops"]:
            little = f"twice as many save less than {WORTH:.0%}"
            answer = f"stops scaling at {stops:,} devices ({little})"
        busy = f"devices train half of the time up to {answers['half_busy'] or 0:,}"
        lines.append(f"{name}: {answer}; {busy}")
    for name in ("wide", "mixed", "async"):
        saved = {gain["devices"]: gain[name] for gain in report["gains"]}
        best = max(saved, key=lambda devices: saved[devices]["search"])
        line = f"{name}: saves up to {saved[best]['search']:.0%} of the search ({best:,} devices)"
        if name != "wide":
            beyond = max(gain["over_wide"] for gain in saved.values())
            line += f", up to {beyond:.0%} of one in wide rounds"
        if many := [f"{n:,}" for n, gain in saved.items() if gain["search"] > WANTED]:
            line += f"; more than {WANTED:.0%} with {' '.join(many)} devices"
        lines.append(line)
    return lines
