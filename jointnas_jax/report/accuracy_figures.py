"""Figures of accuracies: against FLOPs, along the search, against predictions, by epoch.

Each function draws one on an empty figure, and returns what to see in it.
"""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from jointnas_jax.report.record import Record
from jointnas_jax.report.style import ACCENT, INK, PALE, PAPER, SOFT
from jointnas_jax.report.words import amount, correlation, count, percent

# Accuracies this far below the best are drawn at the bottom edge: they would flatten the rest.
_SHOWN = 0.15
# More marks than this become a picture inside the SVG, and more curves are not drawn.
_VECTORS, _CURVES = 500, 200


def draw_accuracy_flops(figure: Figure, record: Record) -> str:
    """Score against FLOPs of all candidates, with front, budgets, winner and references."""
    axes = figure.subplots()
    floor = _floor(record)
    for stage, colour, label in (
        ("random", SOFT, "random search"),
        ("coarse", ACCENT, "coarse stage"),
    ):
        rows = record.scored(stage)
        flops = [trial["costs"]["flops"] for trial, _ in rows]
        _dots(axes, flops, [score for _, score in rows], floor, colour, label)
    line = front(record)
    if len(line) > 1:
        axes.step(*zip(*line, strict=True), where="post", color=INK, lw=0.9, label="front")
    trained = _contenders(axes, record)
    if limit := record.config.budget.limits().get("flops"):
        axes.axvline(limit, color=SOFT, linestyle="--", lw=1, label=f"budget {amount(limit)}")
    found = record.budgets["budgets"] if record.budgets else []
    if found:
        axes.scatter(
            [entry["costs"]["flops"] for entry in found],
            [max(floor, entry["predicted"]) for entry in found],
            **dict(marker="P", s=26, color=PAPER, edgecolor=ACCENT, zorder=4),
            label="predicted for other budgets",
        )
    _scale_flops(axes)
    axes.set(xlabel="FLOPs", ylabel="validation accuracy")
    _percent_axis(axes.yaxis)
    figure.legend(loc="outside lower center", ncols=2)
    below = sum(score < floor for _, score in record.scored("coarse", "random"))
    return (
        f"Dots are candidates after {count(record.epochs, 'epoch')}."
        + (" The line is their front: nothing left of it is as accurate." * (len(line) > 1))
        + (" Large marks are means over seeds after the final, longer training." if trained else "")
        + (f" {count(below, 'candidate')} of lower accuracy at the bottom edge (▾)." * bool(below))
    )


def _contenders(axes: Axes, record: Record) -> bool:
    """Winner and references, with the spread of their seeds; whether there are any."""
    if not record.result:
        return False
    look = dict(linestyle="none", capsize=2, elinewidth=1, zorder=5)
    marks = [("winner", record.result["winners"][0], dict(marker="*", ms=13, mfc=ACCENT))]
    for entry, marker in zip(record.result["references"].values(), "sD", strict=False):
        marks.append((entry["source"], entry, dict(marker=marker, ms=6, mfc=PAPER)))
    for label, entry, mark in marks:
        stats = entry["validation"]
        if stats["mean"] is not None:
            place = (entry["costs"]["flops"], stats["mean"], stats["std"] or 0.0)
            axes.errorbar(*place, **look, **mark, mec=INK, ecolor=INK, color=INK, label=label)
    return True


def front(record: Record) -> list[tuple[float, float]]:
    """Candidates than which no cheaper one is as accurate, by FLOPs."""
    found: list[tuple[float, float]] = []
    pairs = [(t["costs"]["flops"], score) for t, score in record.scored("coarse", "random")]
    for flops, score in sorted(pairs, key=lambda pair: (pair[0], -pair[1])):
        if not found or score > found[-1][1]:
            found.append((flops, score))
    return found


def draw_history(figure: Figure, record: Record) -> str:
    """Scores in the order of the search, the best so far, and that of random search."""
    axes = figure.subplots()
    floor = _floor(record)
    rows = record.of_stage("coarse")
    scores = np.array([record.score(trial) for trial in rows], float)
    numbers = np.arange(1, len(rows) + 1)
    known = np.isfinite(scores)
    _dots(axes, numbers[known], scores[known], floor, ACCENT, "coarse stage")
    for stage, colour, style, label in (
        ("random", SOFT, "--", "random search, best so far"),
        ("coarse", ACCENT, "-", "coarse stage, best so far"),
    ):
        best = [record.score(trial) for trial in record.of_stage(stage)]
        if best:
            best = np.maximum(np.fmax.accumulate(np.array(best, float)), floor)
            places = range(1, len(best) + 1)
            axes.step(places, best, where="post", color=colour, linestyle=style, label=label)
    _round_edges(axes, record)
    axes.set(xlabel="candidates trained", ylabel="validation accuracy")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    _percent_axis(axes.yaxis)
    figure.legend(loc="outside lower center", ncols=2)
    best = f"the best reaches {percent(record.best[1])}" if record.best else "none has a score"
    return (
        f"Each dot is one training of the coarse stage, at {count(record.epochs, 'epoch')}; {best}."
        + (
            " The dashed line is what random search had found by then."
            * bool(record.of_stage("random"))
        )
    )


def _round_edges(axes: Axes, record: Record) -> None:
    """Thin lines where a round begins, unless there are many."""
    if len(record.rounds) > 30:
        return
    edges = np.cumsum([facts.trained for facts in record.rounds]) + 0.5
    for facts, edge in zip(record.rounds[1:], edges, strict=False):
        axes.axvline(edge, color=PALE, lw=0.8, zorder=0)
        if len(edges) <= 8:
            axes.annotate(
                f"round {facts.number}",
                (edge, 1),
                (2, 2),
                **dict(xycoords=("data", "axes fraction"), textcoords="offset points"),
                **dict(color=SOFT, fontsize=7),
            )


def draw_predictor(figure: Figure, record: Record) -> str:
    """Predicted against measured scores of candidates that the predictor had not seen."""
    axes = figure.subplots()
    rows = [(t, s) for t, s in record.scored("coarse") if t["predicted"] is not None]
    last = max(trial["round"] for trial, _ in rows)
    for late, colour, label in ((False, SOFT, "earlier rounds"), (True, ACCENT, f"round {last}")):
        some = [(t["predicted"], s) for t, s in rows if (t["round"] == last) is late]
        if some:
            _dots(axes, *np.array(some).T, -np.inf, colour, label)
    ends = [value for t, s in rows for value in (t["predicted"], s)]
    ends = (min(ends), max(ends))
    axes.plot(ends, ends, color=PALE, lw=1, zorder=0)
    axes.set(xlabel="predicted accuracy", ylabel="measured accuracy")
    _percent_axis(axes.xaxis)
    _percent_axis(axes.yaxis)
    figure.legend(loc="outside lower center", ncols=2)
    marks = ", ".join(
        f"{correlation(facts.spearman)} in round {facts.number}"
        for facts in record.rounds[-6:]
        if facts.ranked
    )
    return (
        "Each dot was predicted before it was trained; on the line the prediction is right. "
        f"Spearman's rank correlation: {marks}."
    )


def draw_learning_curves(figure: Figure, record: Record) -> str:
    """Learning curves of the first round, and the correlation that the early-stop rule follows."""
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    curves, stop = record.first_curves, record.stop
    epochs = np.arange(1, curves.shape[1] + 1)
    lines = [np.column_stack([epochs, curve]) for curve in curves[:_CURVES]]
    above.add_collection(LineCollection(lines, colors=ACCENT, linewidths=0.9, alpha=0.6))
    above.autoscale()
    above.set(ylabel="validation accuracy")
    _percent_axis(above.yaxis)
    below.set(xlabel="epoch", ylabel="rank correlation\nwith the last epoch")
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    if not stop:
        return "Learning curves of the first round; the early-stop rule has not decided yet."
    correlations = np.array(stop["by_epoch"], float)
    below.plot(range(1, len(correlations) + 1), correlations, color=INK, marker=".", lw=1)
    below.axhline(stop["threshold"], color=SOFT, linestyle="--", lw=1)
    below.annotate(
        f"threshold {stop['threshold']:g}",
        (0, stop["threshold"]),
        (4, -9),
        **dict(xycoords=("axes fraction", "data"), textcoords="offset points"),
        **dict(color=SOFT, fontsize=7),
    )
    for axes in (above, below):
        axes.axvline(stop["epochs"], color=ACCENT, lw=1)
    kind = stop["correlation"].capitalize()
    if stop["epochs"] == stop["of"]:
        return (
            f"Round 1: no epoch before the last ranks the candidates as the last one does ({kind} "
            f"above {stop['threshold']:g}), so later candidates train all {stop['of']} epochs."
        )
    reached = correlation(correlations[stop["epochs"] - 1])
    return (
        f"Round 1: after {stop['epochs']} of {stop['of']} epochs the candidates rank as at the end "
        f"({kind} {reached}, threshold {stop['threshold']:g}), so later ones stop there."
    )


def _floor(record: Record) -> float:
    scores = [score for _, score in record.scored("coarse", "random")]
    return max(max(scores) - _SHOWN, min(scores)) if scores else 0.0


def _dots(
    axes: Axes, x: Sequence[float], y: Sequence[float], floor: float, colour: str, label: str
) -> None:
    """Dots, those below the floor at it; very many of them as a picture."""
    if not len(y):
        return
    x, y = np.asarray(x, float), np.asarray(y, float)
    look = dict(color=colour, alpha=0.7, linewidths=0, rasterized=len(y) > _VECTORS, zorder=2)
    size = 22 if len(y) <= _VECTORS else 5
    high = y >= floor
    axes.scatter(x[high], y[high], s=size, label=label, **look)
    if not high.all():
        axes.scatter(x[~high], np.full((~high).sum(), floor), s=size, marker="v", **look)


def _scale_flops(axes: Axes) -> None:
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: amount(value)))
    axes.set_xlim(max(0.0, low), high)


def _percent_axis(axis: matplotlib.axis.Axis) -> None:
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{round(100 * value, 3):g}%"))
