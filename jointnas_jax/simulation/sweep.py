"""One workload on fleets of many sizes: what it takes, where it stops scaling, what rounds cost."""

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any

from jointnas_jax.errors import InputError
from jointnas_jax.simulation.asking import ASKERS
from jointnas_jax.simulation.fleet import Fleet, Speeds, speed_at
from jointnas_jax.simulation.player import Played, play
from jointnas_jax.simulation.workload import Workload

# A fleet twice as large that saves less than this share of the time does not scale any more.
WORTH = 0.10
# What asynchronous rounds must gain to be worth having.
WANTED = 0.20


def sweep(
    workload: Workload, fleet: Fleet, sizes: Sequence[int], speeds: Speeds, seeds: int
) -> dict[str, Any]:
    """Plays a workload on fleets of several sizes, in rounds and as results arrive.

    Args:
      workload: the study.
      fleet: what does not depend on its size.
      sizes: numbers of devices.
      speeds: of a device, by number of devices.
      seeds: plays of each, over which times are averaged.

    Returns:
      The report: JSON, documented in the README.

    Raises:
      InputError: no candidate fits on a device, or no training gets anywhere.
    """
    rows = []
    for devices in sorted(set(sizes)):
        own = dataclasses.replace(fleet, devices=devices, speed=speed_at(speeds, devices))
        fits = workload.fitting(own.worker_bytes)
        if not all(phase.trainings for phase in fits.phases if phase.coarse):
            raise InputError(
                f"a round has no candidate that fits in `--memory_gb` = {fleet.memory_gb:g} of "
                f"{own.worker_devices} devices; the smallest one needs "
                f"{min(t.memory for t in workload.trainings) / 1e9:.1f} GB"
            )
        for rounds in ASKERS:
            plays = [play(fits, own, rounds, seed) for seed in range(seeds)]
            calm = plays
            if own.preemptions_per_hour:
                lasting = own.without_preemptions()
                calm = [play(fits, lasting, rounds, seed) for seed in range(seeds)]
            rows.append(_row(fits, own, rounds, plays, calm))
            rows[-1]["too_large"] = len(workload.trainings) - len(fits.trainings)
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


def _row(
    workload: Workload, fleet: Fleet, rounds: str, plays: Sequence[Played], calm: Sequence[Played]
) -> dict[str, Any]:
    """Means over plays; `calm` are the same ones without preemptions."""
    mean = lambda values: statistics.fmean(values)
    seconds = mean(p.seconds for p in plays)
    first = len(next(p for p in workload.phases if p.coarse).trainings)
    coarse = [t.number for phase in workload.phases if phase.coarse for t in phase.trainings]
    informed = [p.known[n] for p in plays for n in coarse[first:]]
    return {
        "devices": fleet.devices,
        "rounds": rounds,
        "hours": seconds / 3600,
        "search_hours": mean(p.search_seconds for p in plays) / 3600,
        "utilisation": mean(
            p.training / (fleet.workers * fleet.worker_devices * p.seconds) for p in plays
        ),
        "compile_share": mean(p.compiling / (p.training + p.compiling + p.lost) for p in plays),
        "preemptions": mean(p.preemptions for p in plays),
        "lost_device_hours": mean(p.lost for p in plays) / 3600,
        "delay": seconds / mean(p.seconds for p in calm) - 1,
        "known": mean(informed) if informed else None,
        "least_known": min(informed, default=None),
    }


def scaling(rows: Sequence[dict[str, Any]], rounds: str) -> dict[str, Any]:
    """Where more devices no longer help.

    Returns:
      `stops`: the first size of which the next one, at least twice as large, saves less than
      `WORTH` of the time, None if there is none; `half_busy`: the largest size at which devices
      train half of the time.
    """
    own = [row for row in rows if row["rounds"] == rounds]
    stops = None
    for i, row in enumerate(own):
        larger = (other for other in own[i + 1 :] if other["devices"] >= 2 * row["devices"])
        twice = next(larger, None)
        if twice and twice["hours"] > (1 - WORTH) * row["hours"]:
            stops = row["devices"]
            break
    busy = [row["devices"] for row in own if row["utilisation"] >= 0.5]
    return {"stops": stops, "half_busy": max(busy, default=None)}


def gains(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Share of the time that other ways of asking save, by fleet: of the search, and of the study.

    `over_wide` is what they save of a search in rounds as wide as the fleet: that rounds of fixed
    size leave the rest of a large fleet idle is not for want of asking earlier.
    """
    by_size: dict[int, dict[str, dict[str, Any]]] = {}
    for row in rows:
        by_size.setdefault(row["devices"], {})[row["rounds"]] = row
    found = []
    for devices, own in by_size.items():
        sync = own["sync"]
        saved = {
            name: {
                "search": 1 - own[name]["search_hours"] / sync["search_hours"],
                "study": 1 - own[name]["hours"] / sync["hours"],
                "over_wide": 1 - own[name]["search_hours"] / own["wide"]["search_hours"],
                "known": own[name]["known"],
            }
            for name in own
            if name != "sync"
        }
        found.append({"devices": devices, "known": sync["known"], **saved})
    return found


def table(report: dict[str, Any]) -> list[str]:
    """The report's rows for people."""
    hours = report["device_hours"]
    lines = [
        f"{report['study']}: {report['trainings']} trainings, {hours:,.4g} device-hours, by "
        f"{report['source']}",
        f"  {'devices':>7} {'rounds':<6}{'hours':>10}{'search':>10}{'busy':>6}{'preempted':>10}"
        f"{'lost dev-h':>11}{'delay':>7}{'known':>7}",
    ]
    for row in report["rows"]:
        known = "-" if row["known"] is None else f"{row['known']:.0f}"
        lines.append(
            f"  {row['devices']:>7,} {row['rounds']:<6}{row['hours']:>10,.4g}"
            f"{row['search_hours']:>10,.4g}{row['utilisation']:>6.0%}{row['preemptions']:>10,.0f}"
            f"{row['lost_device_hours']:>11,.4g}{row['delay']:>7.1%}{known:>7}"
        )
    return lines


def sentences(report: dict[str, Any]) -> list[str]:
    """The report's answers in words."""
    lines = []
    for name, found in report["scaling"].items():
        stops = found["stops"]
        last = max(row["devices"] for row in report["rows"])
        lines.append(
            f"{name}: "
            + (
                f"stops scaling at {stops:,} devices (twice as many save less than {WORTH:.0%})"
                if stops
                else f"still scales at {last:,} devices"
            )
            + f"; devices train half of the time up to {found['half_busy'] or 0:,}"
        )
    for name in ("wide", "mixed", "async"):
        saved = {gain["devices"]: gain[name] for gain in report["gains"]}
        best = max(saved, key=lambda devices: saved[devices]["search"])
        many = [f"{n:,}" for n, gain in saved.items() if gain["search"] > WANTED]
        beyond = max(gain["over_wide"] for gain in saved.values())
        lines.append(
            f"{name}: saves up to {saved[best]['search']:.0%} of the search ({best:,} devices)"
            + (f", up to {beyond:.0%} of one in wide rounds" if name != "wide" else "")
            + (f"; more than {WANTED:.0%} with {' '.join(many)} devices" if many else "")
        )
    return lines
