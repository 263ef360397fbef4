"""Figures of a front: accuracy against cost at the end, and the area along the search.

Each function draws on an empty figure, and returns the caption.
"""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator, PercentFormatter

from jointnas_jax.report.answer import COSTS, group_of
from jointnas_jax.report.record import StudyRecord
from jointnas_jax.report.style import ACCENT, INK, PAPER, SOFT
from jointnas_jax.report.words import amount
from jointnas_jax.rules import duration
from jointnas_jax.strategy.front import Reference, hypervolume

# Group -> label, marker, colour, whether it is filled.
_LOOKS = {
    "random": ("random search", "o", SOFT, True),
    "scaled_default": ("default candidate, scaled", "s", INK, False),
    "search": ("front of the search", "*", ACCENT, True),
}


def draw_front(figure: Figure, record: StudyRecord) -> str:
    """Test accuracy against cost: front, scaled default candidate, random search."""
    result = record.result
    assert result is not None
    cost, axes = result["front"]["cost"], figure.subplots()
    ends: list[float] = []
    for group, (label, marker, colour, filled) in _LOOKS.items():
        entries = [e for e in group_of(result, group) if e["test"]["mean"] is not None]
        entries.sort(key=lambda entry: entry["costs"][cost])
        if not entries:
            continue
        x = [entry["costs"][cost] for entry in entries]
        ends += x
        axes.errorbar(
            x,
            [entry["test"]["mean"] for entry in entries],
            [entry["test"]["std"] or 0.0 for entry in entries],
            fmt=f"{marker}-",
            ms=11 if marker == "*" else 5,
            lw=1.2 if group == "search" else 0.8,
            elinewidth=0.8,
            capsize=2,
            color=colour,
            mfc=colour if filled else PAPER,
            mec=INK if group == "search" else colour,
            mew=0.8,
            label=label,
        )
    axes.set_xscale("log")
    low, high = min(ends) / 1.15, max(ends) * 1.15
    axes.set_xlim(low, high)
    axes.set_xticks(np.geomspace(low * 1.1, high / 1.1, 4))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda v, _: duration(round(v), " ") if cost == "latency" else amount(v))
    )
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{round(100 * v, 3):g}%"))
    axes.set(xlabel=f"{COSTS[cost]}, logarithmic", ylabel=f"test {record.metric}")
    figure.legend(loc="outside lower center", ncols=2)
    return (
        "Networks trained on all training images; means over seeds, and bars of one standard "
        "deviation. Further left is cheaper, higher is more accurate."
    )


def draw_hypervolume(figure: Figure, record: StudyRecord) -> str:
    """Area under the front of what was trained so far, for search and random search."""
    axes, cost = figure.subplots(), record.config.front
    scored = {stage: record.scored(stage) for stage in ("coarse", "random")}
    everything = [pair for pairs in scored.values() for pair in pairs]
    logs = [float(np.log(trial["costs"][cost])) for trial, _ in everything]
    median = float(np.median([score for _, score in everything]))
    corner = Reference(max(logs) + 0.1, median)
    whole = 0.0
    for stage, label, colour in (
        ("random", "random search", SOFT),
        ("coarse", "coarse stage", ACCENT),
    ):
        if pairs := scored[stage]:
            costs = np.log([trial["costs"][cost] for trial, _ in pairs])
            scores = np.array([score for _, score in pairs])
            numbers = range(1, len(pairs) + 1)
            areas = [hypervolume(costs[:n], scores[:n], corner) for n in numbers]
            whole = max(whole, *areas)
            axes.step(numbers, areas, where="post", color=colour, label=label)
    for line in axes.lines:
        line.set_ydata(np.asarray(line.get_ydata()) / (whole or 1.0))
    axes.relim()
    axes.autoscale()
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set(xlabel="candidates trained", ylabel="area under the front")
    figure.legend(loc="outside lower center", ncols=2)
    return (
        f"The area between the front of the {record.score_label} of one training each and the "
        f"median of all, on a logarithmic axis of {COSTS[cost]}; the largest area is 100 %."
    )
