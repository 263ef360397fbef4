"""Figure of a simulated study: time and use of the devices against their number."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator, PercentFormatter

from jointnas_jax.files import writing
from jointnas_jax.report.style import BLUE, GREEN, GREY, ORANGE, PURPLE

# Style and name of a line, by the way of asking.
_LINES = {
    "sync": (BLUE, "o-", "in rounds, as in the paper"),
    "wide": (PURPLE, "d-", "in rounds as wide as the fleet"),
    "mixed": (GREEN, "s--", "as they finish, after the first round"),
    "async": (ORANGE, "^:", "as they finish"),
}


def draw(report: dict[str, Any], path: Path) -> Path:
    """Draws the report of `simulation.sweep`; returns the path; raises `StorageError`."""
    figure, (time, use) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    rows = report["rows"]
    sizes = sorted({row["devices"] for row in rows})
    _lines(time, rows, "hours")
    first = next(row["hours"] for row in rows if row["rounds"] == "sync")
    ideal = [first * sizes[0] / size for size in sizes]
    time.plot(sizes, ideal, color=GREY, linestyle="-.", linewidth=1, label="ideal")
    low = min(row["hours"] for row in rows)
    time.set(yscale="log", ylabel="hours of the study", ylim=(low / 2, 2 * first))
    plain = FuncFormatter(lambda value, _: f"{value:,.10g}")
    time.yaxis.set_major_formatter(plain)
    time.yaxis.set_minor_formatter(plain)
    _lines(use, rows, "utilisation")
    use.set(ylabel="share of the time that devices train", ylim=(0, 1.02))
    use.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    for axes in (time, use):
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=45)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("devices")
        axes.spines[["top", "right"]].set_visible(False)
    time.tick_params(axis="y", which="minor", labelsize=7)
    time.legend(frameon=False, fontsize=8)
    figure.suptitle(f"{report['study']}: {report['trainings']} trainings, simulated")
    with writing(path):
        figure.savefig(path, dpi=150)
    plt.close(figure)
    return path


def _lines(axes: Axes, rows: list[dict[str, Any]], key: str) -> None:
    for name, (colour, style, label) in _LINES.items():
        line = [(row["devices"], row[key]) for row in rows if row["rounds"] == name]
        sizes, values = np.array(line, float).reshape(-1, 2).T
        axes.plot(sizes, values, style, color=colour, label=label, markersize=4)
