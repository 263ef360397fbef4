"""Figures of accuracies: against FLOPs, along the search, against predictions, by epoch.

Each function draws on an empty figure, and returns the caption.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from jointnas_jax.report.record import Row, StudyRecord
from jointnas_jax.report.style import ACCENT, INK, NOTE, PALE, PAPER, SOFT
from jointnas_jax.report.words import amount, correlation, count, percent

# Accuracies this far below the best are drawn at the bottom edge: they would flatten the rest.
_SHOWN = 0.15
# More marks than this become a picture inside the SVG, and more curves are not drawn.
_VECTORS, _CURVES = 500, 200


def draw_accuracy_flops(figure: Figure, record: StudyRecord) -> str:
    """Score against FLOPs of all candidates, with front, budgets, winner and references."""
    axes = figure.subplots()
    floor = _floor(record)
    for stage, colour, label in (
        ("random", SOFT, "random search"),
        ("coarse", ACCENT, "coarse stage"),
    ):
        rows = record.scored(stage)
        pairs = np.array([(trial["costs"]["flops"], score) for trial, score in rows], float)
        _dots(axes, pairs, floor=floor, colour=colour, label=label)
    line = np.array(front(record))
    if len(line) > 1:
        axes.step(line[:, 0], line[:, 1], where="post", color=INK, lw=0.9, label="front")
    if record.result:
        _contenders(axes, record.result)
    if limit := record.config.budget.limits().get("flops"):
        axes.axvline(limit, color=SOFT, linestyle="--", lw=1, label=f"budget {amount(limit)}")
    if record.budgets and (entries := record.budgets["budgets"]):
        axes.scatter(
            [entry["costs"]["flops"] for entry in entries],
            [max(floor, entry["predicted"]) for entry in entries],
            marker="P",
            s=26,
            color=PAPER,
            edgecolor=ACCENT,
            zorder=4,
            label="predicted for other budgets",
        )
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: amount(value)))
    axes.set_xlim(max(0.0, low), high)
    axes.set(xlabel="FLOPs", ylabel=record.score_label)
    _percent_axis(axes.yaxis)
    figure.legend(loc="outside lower center", ncols=2)
    below = sum(score < floor for _, score in record.scored("coarse", "random"))
    return (
        f"Dots are candidates after {count(record.epochs, 'epoch')}."
        + (" The line is their front: nothing left of it is as good." * (len(line) > 1))
        + (
            " Large marks are means over seeds after the final, longer training."
            if record.result
            else ""
        )
        + (f" {count(below, 'candidate')} of a lower score at the bottom edge (▾)." * bool(below))
    )


def _contenders(axes: Axes, result: Row) -> None:
    """Winner and references, with the spread of their seeds."""
    entries = [result["winners"][0], *result["references"].values()]
    for number, (entry, marker) in enumerate(zip(entries, "*sD", strict=False)):
        stats = entry.get("score") or entry["validation"]
        if stats["mean"] is not None:
            axes.errorbar(
                entry["costs"]["flops"],
                stats["mean"],
                stats["std"] or 0.0,
                fmt=marker,
                capsize=2,
                elinewidth=1,
                zorder=5,
                ms=6 if number else 13,
                mfc=PAPER if number else ACCENT,
                mec=INK,
                color=INK,
                label=entry["source"] if number else "winner",
            )


def front(record: StudyRecord) -> list[tuple[float, float]]:
    """Candidates than which no cheaper one is as accurate, by FLOPs."""
    line: list[tuple[float, float]] = []
    pairs = [(t["costs"]["flops"], score) for t, score in record.scored("coarse", "random")]
    for flops, score in sorted(pairs, key=lambda pair: (pair[0], -pair[1])):
        if not line or score > line[-1][1]:
            line.append((flops, score))
    return line


def draw_history(figure: Figure, record: StudyRecord) -> str:
    """Scores in the order of the search, the best so far, and that of random search."""
    axes = figure.subplots()
    floor = _floor(record)
    scores = np.array([record.score(trial) for trial in record.candidates("coarse")], float)
    pairs = np.column_stack([np.arange(1, len(scores) + 1), scores])[np.isfinite(scores)]
    _dots(axes, pairs, floor=floor, colour=ACCENT, label="coarse stage")
    for stage, colour, style, label in (
        ("random", SOFT, "--", "random search, best so far"),
        ("coarse", ACCENT, "-", "coarse stage, best so far"),
    ):
        scores = np.array([record.score(trial) for trial in record.candidates(stage)], float)
        if len(scores):
            best = np.maximum(np.fmax.accumulate(scores), floor)
            numbers = range(1, len(best) + 1)
            axes.step(numbers, best, where="post", color=colour, linestyle=style, label=label)
    _round_edges(axes, record)
    axes.set(xlabel="candidates trained", ylabel=record.score_label)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    _percent_axis(axes.yaxis)
    figure.legend(loc="outside lower center", ncols=2)
    reached = f"the best reaches {percent(record.best[1])}" if record.best else "none has a score"
    dashed = " The dashed line is what random search had found by then."
    return (
        f"Each dot is one training of the coarse stage, at {count(record.epochs, 'epoch')}; "
        f"{reached}.{dashed * bool(record.of_stage('random'))}"
    )


def _round_edges(axes: Axes, record: StudyRecord) -> None:
    """Thin lines where a round begins, unless there are many."""
    if len(record.rounds) > 30:
        return
    edges = np.cumsum([summary.trained for summary in record.rounds]) + 0.5
    for summary, edge in zip(record.rounds[1:], edges, strict=False):
        axes.axvline(edge, color=PALE, lw=0.8, zorder=0)
        if len(edges) <= 8:
            name, frame = f"round {summary.number}", ("data", "axes fraction")
            axes.annotate(name, (edge, 1), (2, 2), xycoords=frame, color=SOFT, **NOTE)


def draw_predictor(figure: Figure, record: StudyRecord) -> str:
    """Predicted against measured scores of candidates that the predictor had not seen."""
    axes = figure.subplots()
    rows = [(t, s) for t, s in record.scored("coarse") if t["predicted"] is not None]
    pairs = np.array([(trial["predicted"], score) for trial, score in rows], float)
    rounds = np.array([trial["round"] for trial, _ in rows])
    late = rounds == rounds.max()
    _dots(axes, pairs[~late], colour=SOFT, label="earlier rounds")
    _dots(axes, pairs[late], colour=ACCENT, label=f"round {rounds.max()}")
    ends = [pairs.min(), pairs.max()]
    axes.plot(ends, ends, color=PALE, lw=1, zorder=0)
    axes.set(xlabel=f"predicted {record.score_label}", ylabel=f"measured {record.score_label}")
    _percent_axis(axes.xaxis)
    _percent_axis(axes.yaxis)
    figure.legend(loc="outside lower center", ncols=2)
    marks = ", ".join(
        f"{correlation(summary.spearman)} in round {summary.number}"
        for summary in record.rounds[-6:]
        if summary.ranked
    )
    return (
        "Each dot was predicted before it was trained; on the line the prediction is right. "
        f"Spearman's rank correlation: {marks}."
    )


def draw_learning_curves(figure: Figure, record: StudyRecord) -> str:
    """Learning curves of the first round, and the correlation that the early-stop rule follows.

    With rungs those of all candidates.
    """
    if len(rungs := record.config.rung_epochs) > 1:
        return _draw_rungs(figure, record, rungs)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    curves, stop = record.first_curves, record.stop
    epochs = np.arange(1, curves.shape[1] + 1)
    lines = [np.column_stack([epochs, curve]) for curve in curves[:_CURVES]]
    above.add_collection(LineCollection(lines, colors=ACCENT, linewidths=0.9, alpha=0.6))
    above.autoscale()
    above.set(ylabel=record.score_label)
    _percent_axis(above.yaxis)
    below.set(xlabel="epoch", ylabel="rank correlation\nwith the last epoch")
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    if not stop:
        return "Learning curves of the first round; the early-stop rule has not decided yet."
    correlations = np.array(stop["by_epoch"], float)
    below.plot(range(1, len(correlations) + 1), correlations, color=INK, marker=".", lw=1)
    below.axhline(stop["threshold"], color=SOFT, linestyle="--", lw=1)
    name, frame = f"threshold {stop['threshold']:g}", ("axes fraction", "data")
    below.annotate(name, (0, stop["threshold"]), (4, -9), xycoords=frame, color=SOFT, **NOTE)
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


def _draw_rungs(figure: Figure, record: StudyRecord, rungs: Sequence[int]) -> str:
    """Learning curves of all candidates, and the rungs at which some of them stopped."""
    axes = figure.subplots()
    for ended, colour, label in ((False, SOFT, "stopped"), (True, ACCENT, "trained to the end")):
        curves = [c for c in record.curves if (len(c) == rungs[-1]) == ended][:_CURVES]
        lines = [np.column_stack([np.arange(1, len(c) + 1), c]) for c in curves]
        collection = LineCollection(lines, colors=colour, linewidths=0.9, alpha=0.6, label=label)
        axes.add_collection(collection)
    axes.autoscale()
    for epoch in rungs[:-1]:
        axes.axvline(epoch, color=SOFT, linestyle="--", lw=1)
    axes.set(xlabel="epoch", ylabel=record.score_label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _percent_axis(axes.yaxis)
    figure.legend(loc="outside lower center", ncols=2)
    to_the_end = sum(len(curve) == rungs[-1] for curve in record.curves)
    some = " and ".join(map(str, rungs[:-1]))
    return (
        f"Candidates stop after {some} epochs unless going on promises more for the epochs left "
        f"than a new candidate: {to_the_end} of {len(record.curves)} reached the end. Averaged "
        "weights are judged where they stop."
    )


def _floor(record: StudyRecord) -> float:
    scores = [score for _, score in record.scored("coarse", "random")]
    return max(max(scores) - _SHOWN, min(scores)) if scores else 0.0


def _dots(
    axes: Axes, pairs: np.ndarray, *, colour: str, label: str, floor: float = -np.inf
) -> None:
    """Dots at pairs of x and y, `float64[N, 2]`, those below the floor at it; many as a picture."""
    if not len(pairs):
        return
    many = len(pairs) > _VECTORS
    x, y = pairs.T
    high = y >= floor
    dots = [axes.scatter(x[high], y[high], label=label)]
    if not high.all():
        dots.append(axes.scatter(x[~high], np.full((~high).sum(), floor), marker="v"))
    for group in dots:
        group.set(color=colour, alpha=0.7, linewidths=0, rasterized=many, zorder=2)
        group.set_sizes([5 if many else 22])


def _percent_axis(axis: Axis) -> None:
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{round(100 * value, 3):g}%"))
