"""Measures latencies on this device: of one network, and of all pieces of a space.

The table of a space is checked against the times of whole random networks. Other random networks
give the correction from pieces to whole networks.
"""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import scipy
from rich.console import Console

from jointnas_jax.config import Config
from jointnas_jax.errors import ConfigError, StudyError, one_line
from jointnas_jax.models.model import load
from jointnas_jax.nets import zoo
from jointnas_jax.nets.conv import resolve_dtype, resolve_lowering
from jointnas_jax.nets.cost import count
from jointnas_jax.nets.latency import Piece, latency_of, pieces_of_space
from jointnas_jax.nets.timing import (
    Setting,
    expected_seconds,
    network_call,
    seconds_of,
    time_networks,
    time_pieces,
)
from jointnas_jax.problem.latency_table import Correction, DeviceLatencies, digest_of
from jointnas_jax.problem.problem import open_space
from jointnas_jax.report.words import seconds
from jointnas_jax.rules import duration
from jointnas_jax.space import ArchSpec, JointSpace
from jointnas_jax.strategy.pool import distinct
from jointnas_jax.telemetry.console import print_lines

# Rank correlation with whole networks that a table should have.
TARGET = 0.9
# Networks for the correction.
_FITTED = 12
# Pieces that are compiled, timed and stored together.
_GROUP = 64
# Seconds after which the repeats of one measurement end.
_MOST_SECONDS = 10.0


# -- one network ----------------------------------------------------------------------------------


def find_network(name: str) -> ArchSpec:
    """A published network, the architecture of a candidate's file, or that of a folder's model."""
    return load(Path(name)).arch if Path(name).is_dir() else zoo.find(name)


def profile_network(
    name: str, *, batch: int, repeats: int, lowering: str = "conv", dtype: str = "float32"
) -> dict[str, Any]:
    """Measures latency and throughput of a network on this device.

    Args:
      name: See `find_network`.
      batch: Images at once, for the throughput.
      repeats: Number of timed calls.
      lowering: `conv`, `matmul`, or `auto`: that of training.
      dtype: `float32`, `bfloat16`, or `auto`.

    Returns:
      The report as JSON; times in seconds.

    Raises:
      InputError: There is no such network, or the batch does not fit into memory.
    """
    arch, resolved = find_network(name), resolve_dtype(dtype)
    setting = Setting(jax.local_devices()[0], resolve_lowering(lowering, resolved), resolved)
    report: dict[str, Any] = {
        "name": name,
        "setting": setting.name,
        "costs": dataclasses.asdict(count(arch)),
    }
    for kind, images in (("latency", 1), ("throughput", batch)):
        start = time.perf_counter()
        try:
            call = network_call(arch, setting, images)
            compiled = time.perf_counter() - start
            times = seconds_of(call, repeats, _MOST_SECONDS)
        except (jax.errors.JaxRuntimeError, MemoryError) as error:
            raise ConfigError(
                f"`{name}` cannot run with {images} images at once: {one_line(error)}; "
                "give a smaller --batch"
            ) from error
        low, median, high = (float(q) for q in np.quantile(times, (0.1, 0.5, 0.9)))
        report[kind] = {
            "batch": images,
            "repeats": len(times),
            "compile_seconds": compiled,
            "median": median,
            "p10": low,
            "p90": high,
            "least": float(times.min()),
        }
    report["throughput"]["images_per_second"] = batch / report["throughput"]["median"]
    return report


def print_profile(report: Mapping[str, Any], console: Console) -> None:
    """Prints the report of `profile_network`."""
    one, many = report["latency"], report["throughput"]
    lines = {
        "device": report["setting"],
        "latency": f"{_time(one['median'])}, the median of {one['repeats']} images one by one; "
        f"{_time(one['p10'])} to {_time(one['p90'])} for four in five, least {_time(one['least'])}",
        "throughput": f"{many['images_per_second']:,.0f} images per second, {many['batch']} at "
        f"once; {_time(many['p10'])} to {_time(many['p90'])} each time",
        "compiling": f"{one['compile_seconds']:.1f} s and {many['compile_seconds']:.1f} s",
    }
    console.print(report["name"], highlight=False)
    print_lines(lines, console)


# -- a space --------------------------------------------------------------------------------------


def profile_space(
    config: Config,
    console: Console,
    checked: int,
    *,
    minutes: float = 0.0,
    again: bool = False,
) -> dict[str, Any]:
    """Times the pieces of a space on this device into the cache, and checks their sums.

    Args:
      config: Config of a study; its space, dataset and mode count.
      console: Console for the progress.
      checked: Most networks to time whole; small spaces have fewer.
      minutes: Approximate time for pieces, all of which stay in the cache; 0: no limit.
      again: Time pieces in the cache, too.

    Returns:
      The report as JSON; without `check` where pieces are left to time.

    Raises:
      InputError: Dataset or space of the config cannot be used.
      StorageError: The cache cannot be written.
      StudyError: The times cannot be right.
    """
    _, space, _ = open_space(config)
    setting = Setting(jax.local_devices()[0])
    stored, pieces = DeviceLatencies.read(setting.name), pieces_of_space(space)
    missing = list(pieces.values()) if again else stored.missing(pieces)
    lines = {
        "device": setting.name,
        "space": f"{space.arch_size:.3g} architectures of {len(pieces):,} distinct blocks, stems "
        "and heads",
        "to time": f"{len(missing):,} of them, about {seconds(expected_seconds(missing), ' ')}",
    }
    print_lines(lines, console)
    stored.write()  # before an hour of measurements, not after it
    start = time.perf_counter()
    left = _time_all(missing, setting, stored, limit=60 * minutes, console=console)
    report = {
        "setting": setting.name,
        "architectures": space.arch_size,
        "pieces": len(pieces),
        "timed": len(missing) - left,
        "left": left,
        "seconds": round(time.perf_counter() - start, 1),
    }
    if left:
        print_lines({"left": f"{left:,}; the same command goes on"}, console)
        return report
    report |= _check(space, setting, stored, pieces=pieces, checked=checked, console=console)
    stored.write()
    return report


def _time_all(
    pieces: Sequence[Piece],
    setting: Setting,
    stored: DeviceLatencies,
    *,
    limit: float,
    console: Console,
) -> int:
    """Times and stores pieces in groups, until a limit in seconds; returns how many are left."""
    start = time.perf_counter()
    for first in range(0, len(pieces), _GROUP):
        if limit and first and time.perf_counter() - start > limit:
            return len(pieces) - first
        group = pieces[first : first + _GROUP]
        times = time_pieces(group, setting)
        stored.times |= {p.key: float(t) for p, t in zip(group, times, strict=True)}
        stored.write()
        done = first + len(group)
        rest = (time.perf_counter() - start) / done * (len(pieces) - done)
        more = f", about {seconds(rest, ' ')} left" if done < len(pieces) else ""
        console.print(f"  timed {done:,} of {len(pieces):,}{more}", highlight=False)
    return 0


def _check(
    space: JointSpace,
    setting: Setting,
    stored: DeviceLatencies,
    *,
    pieces: Mapping[str, Piece],
    checked: int,
    console: Console,
) -> dict[str, Any]:
    """Fits the correction to some random networks, and tries the table on others."""
    archs = random_archs(space, _FITTED + checked)
    # A small space has networks for both.
    fitted = min(_FITTED, -(-len(archs) // 3))
    console.print(f"  times {len(archs)} whole networks", highlight=False)
    whole = time_networks(archs, setting)
    sums = np.array([latency_of(arch, stored.times) for arch in archs])
    stored.corrections[digest_of(pieces)] = correction = fit(sums[:fitted], whole[:fitted])
    times = correction.applied(pieces, stored.times)
    predicted = [latency_of(arch, times) for arch in archs]
    comparison = compare(predicted[fitted:], whole[fitted:])
    drawn = [latency_of(arch, times) for arch in random_archs(space, 1000)]
    low, median, high = (int(q) for q in np.quantile(drawn, (0.05, 0.5, 0.95)))
    lines = {
        "correction": f"{duration(round(correction.overhead), ' ')} + {correction.factor:.3f} x "
        f"the sum, by {fitted} networks",
        "check": _in_words(comparison),
        "latencies": f"half of the space up to {_time(median / 1e9)}, five in a hundred up to "
        f"{_time(low / 1e9)} or from {_time(high / 1e9)} on",
    }
    print_lines(lines, console)
    return {
        "correction": dataclasses.asdict(correction) | {"networks": fitted},
        "check": comparison,
        "latencies": {"p5": low, "p50": median, "p95": high},
    }


def random_archs(space: JointSpace, count: int) -> list[ArchSpec]:
    """The first of an endless row of distinct random architectures, or all of a small space."""
    rng, knobs = np.random.default_rng(0), len(space.arch_knobs)
    vectors = space.sample(rng, 8)
    rows = distinct(vectors[:, :knobs])
    for _ in range(10 * count):
        if len(rows) >= min(count, space.arch_size):
            break
        drawn = space.sample(rng, 8)
        rows = distinct(np.concatenate([rows, drawn[:, :knobs]]))
    rest = vectors[0, knobs:]
    return [space.decode(np.concatenate([row, rest])).arch for row in rows[:count]]


def fit(sums: np.ndarray, whole: np.ndarray) -> Correction:
    """Fits the correction to networks, with equal weights for fast and slow ones.

    Args:
      sums: `float64[N]`, nanoseconds of all pieces of a network.
      whole: `float64[N]`, nanoseconds of the network.

    Raises:
      StudyError: Whole networks do not take longer where their pieces do.
    """
    if len(sums) < 3:
        return Correction(0.0, float((whole / sums).mean()))
    (overhead, factor), _ = scipy.optimize.nnls(
        np.stack([1 / whole, sums / whole], axis=1), np.ones(len(sums))
    )
    if not factor > 0:
        raise StudyError(
            "whole networks do not take longer where their blocks do: something else kept the "
            "machine busy; measure again with --again when it is idle"
        )
    return Correction(float(overhead), float(factor))


def compare(predicted: Sequence[int], whole: np.ndarray) -> dict[str, Any]:
    """Compares latencies by a table with measured ones, both in nanoseconds.

    The correlations are None for fewer than three networks.
    """
    errors = np.abs(np.array(predicted) / whole - 1) if len(whole) else np.array([])
    enough = len(whole) > 2
    return {
        "networks": len(whole),
        "kendall": float(scipy.stats.kendalltau(predicted, whole).statistic) if enough else None,
        "spearman": float(scipy.stats.spearmanr(predicted, whole).statistic) if enough else None,
        "median_error": float(np.median(errors)) if len(errors) else None,
        "predicted": [int(p) for p in predicted],
        "whole": [round(float(w)) for w in whole],
    }


def _in_words(comparison: Mapping[str, Any]) -> str:
    if comparison["kendall"] is None:
        return "too few networks to compare"
    text = (
        f"{comparison['networks']} other networks: Kendall {comparison['kendall']:.2f}, Spearman "
        f"{comparison['spearman']:.2f}, half of the errors below {comparison['median_error']:.1%}"
    )
    if comparison["spearman"] < TARGET:
        text += f"; below {TARGET}: measure again with --again when the machine is idle"
    return text


def _time(value: float) -> str:
    """A measured time in seconds, to three digits."""
    return duration(int(float(f"{1e9 * value:.3g}")), " ")
