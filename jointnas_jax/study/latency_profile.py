"""Measures latencies on this device: of one network, and of all pieces of a space.

A space's table is checked: 30 random networks are timed whole, beside what the table says of them.
How much whole networks differ from their pieces is learnt from other random ones.
"""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from scipy.optimize import nnls
from scipy.stats import kendalltau, spearmanr

from jointnas_jax.config import Config
from jointnas_jax.errors import ConfigError, StudyError, one_line
from jointnas_jax.models.model import load_model
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
from jointnas_jax.problem.latency_table import Correction, Kept, digest_of
from jointnas_jax.problem.problem import open_space
from jointnas_jax.rules import duration
from jointnas_jax.space import ArchSpec, JointSpace
from jointnas_jax.strategy.pool import distinct
from jointnas_jax.study.study_forecast import print_lines

# Rank correlation with whole networks that a table should have.
TARGET = 0.9
# Networks that the correction is learnt from.
_FITTED = 12
# Pieces that are compiled, timed and stored together.
_GROUP = 64
# The repeats of one measurement end after this time.
_MOST_SECONDS = 10.0


# -- one network ----------------------------------------------------------------------------------


def find_network(name: str) -> ArchSpec:
    """A published network, the architecture of a candidate's file, or that of a folder's model."""
    return load_model(Path(name)).arch if Path(name).is_dir() else zoo.find(name)


def profile_network(
    name: str, batch: int, repeats: int, lowering: str = "conv", dtype: str = "float32"
) -> dict[str, Any]:
    """Measures how fast a network is on this device.

    Args:
      name: see `find_network`.
      batch: images at once, for the throughput.
      repeats: calls that are timed.
      lowering: `conv`, `matmul`, or `auto`: that of training.
      dtype: likewise.

    Returns:
      What is printed, ready for JSON; times in seconds.

    Raises:
      InputError: there is no such network, or the batch does not fit into memory.
    """
    arch, dtype = find_network(name), resolve_dtype(dtype)
    setting = Setting(jax.local_devices()[0], resolve_lowering(lowering, dtype), dtype)
    report = {"name": name, "setting": setting.name, "costs": dataclasses.asdict(count(arch))}
    for kind, images in (("latency", 1), ("throughput", batch)):
        start = time.perf_counter()
        try:
            call = network_call(arch, setting, images)
            compiled = time.perf_counter() - start
            seconds = seconds_of(call, repeats, _MOST_SECONDS)
        except (jax.errors.JaxRuntimeError, MemoryError) as error:
            raise ConfigError(
                f"`{name}` cannot run with {images} images at once: {one_line(error)}; "
                "give a smaller --batch"
            ) from error
        low, median, high = (float(q) for q in np.quantile(seconds, (0.1, 0.5, 0.9)))
        spread = {"median": median, "p10": low, "p90": high, "least": float(seconds.min())}
        sizes = {"batch": images, "repeats": len(seconds), "compile_seconds": compiled}
        report[kind] = sizes | spread
    report["throughput"]["images_per_second"] = batch / report["throughput"]["median"]
    return report


def print_profile(report: Mapping[str, Any], console: Console) -> None:
    """Prints what `profile_network` returned."""
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
    config: Config, console: Console, checked: int, minutes: float = 0.0, again: bool = False
) -> dict[str, Any]:
    """Times the pieces of a space on this device, keeps them in the cache and checks their sums.

    Args:
      config: of a study; its space, dataset and mode count.
      console: where progress goes.
      checked: networks to time whole, at most: small spaces have fewer.
      minutes: to spend on pieces, about; 0: until all are timed. What is timed is kept.
      again: time pieces that are known, too.

    Returns:
      A report, ready for JSON; without a `check` where pieces are left to time.

    Raises:
      InputError: the config's dataset or space cannot be used.
      StorageError: the cache cannot be written.
      StudyError: the timings cannot be right.
    """
    _, space, _ = open_space(config)
    setting = Setting(jax.local_devices()[0])
    kept, pieces = Kept.read(setting.name), pieces_of_space(space)
    missing = list(pieces.values()) if again else kept.missing(pieces)
    about = _minutes(expected_seconds(missing))
    lines = {
        "device": setting.name,
        "space": f"{space.arch_size:.3g} architectures of {len(pieces):,} distinct blocks, stems "
        "and heads",
        "to time": f"{len(missing):,} of them, about {about}",
    }
    print_lines(lines, console)
    kept.write()  # before an hour of measurements, not after it
    start = time.perf_counter()
    left = _time_all(missing, setting, kept, 60 * minutes, console)
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
    report |= _check(space, setting, kept, pieces, checked, console)
    kept.write()
    return report


def _time_all(
    pieces: Sequence[Piece], setting: Setting, kept: Kept, most_seconds: float, console: Console
) -> int:
    """Times pieces in groups, keeping each group; returns how many are left."""
    start = time.perf_counter()
    for first in range(0, len(pieces), _GROUP):
        spent = time.perf_counter() - start
        if most_seconds and first and spent > most_seconds:
            return len(pieces) - first
        group = pieces[first : first + _GROUP]
        times = time_pieces(group, setting)
        kept.times |= {p.key: float(t) for p, t in zip(group, times, strict=True)}
        kept.write()
        done = first + len(group)
        rest = (time.perf_counter() - start) / done * (len(pieces) - done)
        more = f", about {_minutes(rest)} left" if done < len(pieces) else ""
        console.print(f"  timed {done:,} of {len(pieces):,}{more}", highlight=False)
    return 0


def _check(
    space: JointSpace,
    setting: Setting,
    kept: Kept,
    pieces: Mapping[str, Piece],
    checked: int,
    console: Console,
) -> dict[str, Any]:
    """Learns the correction from some random networks, and tries the table on others."""
    archs = random_archs(space, _FITTED + checked)
    # Of a small space both get a part.
    fitted = min(_FITTED, -(-len(archs) // 3))
    console.print(f"  times {len(archs)} whole networks", highlight=False)
    whole = time_networks(archs, setting)
    sums = np.array([latency_of(arch, kept.times) for arch in archs])
    kept.corrections[digest_of(pieces)] = correction = fit(sums[:fitted], whole[:fitted])
    times = kept.table(pieces).times
    predicted = [latency_of(arch, times) for arch in archs]
    told = compare(predicted[fitted:], whole[fitted:])
    drawn = [latency_of(arch, times) for arch in random_archs(space, 1000)]
    low, median, high = (int(q) for q in np.quantile(drawn, (0.05, 0.5, 0.95)))
    lines = {
        "correction": f"{duration(round(correction.overhead), ' ')} + {correction.factor:.3f} x "
        f"the sum, by {fitted} networks",
        "check": _in_words(told),
        "latencies": f"half of the space up to {_time(median / 1e9)}, five in a hundred up to "
        f"{_time(low / 1e9)} or from {_time(high / 1e9)} on",
    }
    print_lines(lines, console)
    return {
        "correction": dataclasses.asdict(correction) | {"networks": fitted},
        "check": told,
        "latencies": {"p5": low, "p50": median, "p95": high},
    }


def random_archs(space: JointSpace, wanted: int) -> list[ArchSpec]:
    """Distinct random architectures; fewer where the space has fewer. More start with the same."""
    rng, knobs = np.random.default_rng(0), len(space.arch_knobs)
    vectors = space.sample(rng, 8)
    found = distinct(vectors[:, :knobs])
    for _ in range(10 * wanted):
        if len(found) >= min(wanted, space.arch_size):
            break
        drawn = space.sample(rng, 8)
        found = distinct(np.concatenate([found, drawn[:, :knobs]]))
    rest = vectors[0, knobs:]
    return [space.decode(np.concatenate([row, rest])).arch for row in found[:wanted]]


def fit(sums: np.ndarray, whole: np.ndarray) -> Correction:
    """Learns the correction from networks, all of equal weight whatever they take.

    Args:
      sums: `float64[N]`, nanoseconds of all pieces of each.
      whole: `float64[N]`, nanoseconds of each.

    Raises:
      StudyError: whole networks do not take longer where their pieces do.
    """
    if len(sums) < 3:
        return Correction(0.0, float((whole / sums).mean()))
    (overhead, factor), _ = nnls(np.stack([1 / whole, sums / whole], axis=1), np.ones(len(sums)))
    if not factor > 0:
        raise StudyError(
            "whole networks do not take longer where their blocks do: something else kept the "
            "machine busy; measure again with --again when it is idle"
        )
    return Correction(float(overhead), float(factor))


def compare(predicted: Sequence[int], whole: np.ndarray) -> dict[str, Any]:
    """Compares what a table says of networks, in nanoseconds, with what they take.

    The correlations are None for fewer than three.
    """
    errors = np.abs(np.array(predicted) / whole - 1) if len(whole) else np.array([])
    enough = len(whole) > 2
    return {
        "networks": len(whole),
        "kendall": float(kendalltau(predicted, whole).statistic) if enough else None,
        "spearman": float(spearmanr(predicted, whole).statistic) if enough else None,
        "median_error": float(np.median(errors)) if len(errors) else None,
        "predicted": [int(p) for p in predicted],
        "whole": [round(float(w)) for w in whole],
    }


def _in_words(told: Mapping[str, Any]) -> str:
    if told["kendall"] is None:
        return "too few networks to compare"
    text = (
        f"{told['networks']} other networks: Kendall {told['kendall']:.2f}, Spearman "
        f"{told['spearman']:.2f}, half of the errors below {told['median_error']:.1%}"
    )
    if told["spearman"] < TARGET:
        text += f"; below {TARGET}: measure again with --again when the machine is idle"
    return text


def _time(seconds: float) -> str:
    """A measured time, to three digits."""
    for size, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{1e9 * seconds:.0f} ns"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
