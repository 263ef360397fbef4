"""The figures of a study: one function each, which draws and returns the caption.

Files are PNG and SVG with a white ground; `style.py` makes the SVG of the page, whose text and
colours follow the reader's.
"""

import functools
import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from jointnas_jax.files import write_whole
from jointnas_jax.report.accuracy_figures import (
    draw_accuracy_flops,
    draw_history,
    draw_learning_curves,
    draw_predictor,
)
from jointnas_jax.report.architecture_figure import draw_architecture
from jointnas_jax.report.confusion_figure import draw_confusion
from jointnas_jax.report.front_figures import draw_front, draw_hypervolume
from jointnas_jax.report.importance import Importance
from jointnas_jax.report.record import StudyRecord
from jointnas_jax.report.style import ACCENT, INK, PALE, STYLE
from jointnas_jax.report.words import count, percent, seconds

# Most bars of a figure of importances.
_BARS = 12


class Drawn(NamedTuple):
    """SVG file of a figure, and the caption."""

    svg: str
    caption: str


def draw_figures(
    record: StudyRecord, important: Importance | None, folder: Path
) -> dict[str, Drawn]:
    """Draws all figures that a study has data for, into `NAME.png` and `NAME.svg`, by name.

    Raises `StorageError` where a file cannot be written.
    """
    drawings: dict[str, Callable[[Figure], str]] = {}
    if record.result and (front := record.result.get("front")) and front["hypervolume"]:
        drawings["front"] = functools.partial(draw_front, record=record)
    if record.config.front and record.scored("coarse", "random"):
        drawings["hypervolume"] = functools.partial(draw_hypervolume, record=record)
    if record.scored("coarse", "random"):
        drawings["accuracy_flops"] = functools.partial(draw_accuracy_flops, record=record)
        drawings["history"] = functools.partial(draw_history, record=record)
    if any(summary.ranked for summary in record.rounds):
        drawings["predictor"] = functools.partial(draw_predictor, record=record)
    if len(record.first_curves):
        drawings["learning_curves"] = functools.partial(draw_learning_curves, record=record)
    if important:
        drawings["importance"] = functools.partial(_importance, important=important)
    if record.trials:
        drawings["time"] = functools.partial(_time, record=record)
    archs = [arch for _, arch in record.archs]
    for name, arch in record.archs:
        drawing = functools.partial(draw_architecture, arch=arch, beside=archs)
        drawings[f"network_{name}"] = drawing
    for rank, (entry, labels) in enumerate(record.winners_by_class):
        drawings[f"confusion{rank}"] = functools.partial(draw_confusion, entry=entry, labels=labels)
    figures = {}
    for name, draw in drawings.items():
        with plt.rc_context(STYLE | {"svg.hashsalt": name}):
            figure = plt.figure(figsize=(4.4, 3.2), layout="constrained")
            try:
                caption = draw(figure)
                figures[name] = Drawn(_save(figure, folder / name), caption)
            finally:
                plt.close(figure)
    return figures


def _save(figure: Figure, path: Path) -> str:
    """Writes both files, each whole or not at all; returns the SVG."""
    contents = {}
    for kind in ("svg", "png"):
        stream = io.BytesIO()
        figure.savefig(
            stream, format=kind, dpi=200, metadata={"Date": None} if kind == "svg" else {}
        )
        contents[kind] = stream.getvalue()
        figure.set_layout_engine("none")  # it is laid out now
    for kind, content in contents.items():
        write_whole(path.with_name(f"{path.name}.{kind}"), content)
    return contents["svg"].decode()


def _importance(figure: Figure, important: Importance) -> str:
    """Bars of the most important knobs, in two colours for architecture and recipe."""
    axes = figure.subplots()
    shown = slice(0, _BARS)
    names, shares = important.knobs[shown], important.shares[shown]
    colours = [PALE if recipe else ACCENT for recipe in important.recipe[shown]]
    bars = axes.barh(
        names,
        shares,
        xerr=important.spreads[shown],
        color=colours,
        error_kw=dict(ecolor=INK, elinewidth=0.8, capsize=2),
    )
    axes.invert_yaxis()
    axes.set(xlabel="share of the effect on accuracy", xlim=(0, None))
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    kinds: dict[str, Artist] = {}
    for bar, recipe in zip(bars, important.recipe[shown], strict=True):
        kinds.setdefault("recipe" if recipe else "architecture", bar)
    figure.legend([*kinds.values()], [*kinds], loc="outside lower center", ncols=2)
    share = important.recipe_share
    return (
        f"The architecture's knobs have {percent(1 - share, 0)} of the effect, the recipe's "
        f"{percent(share, 0)}; thin lines are the standard deviation over resampled trials."
    )


def _time(figure: Figure, record: StudyRecord) -> str:
    """Bars of `time_by_stage`."""
    axes = figure.subplots()
    spent = time_by_stage(record)
    bars = axes.barh(list(spent), list(spent.values()), color=ACCENT)
    axes.bar_label(bars, [seconds(value) for value in spent.values()], padding=3, color=INK)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="both", length=0, labelbottom=False)
    if not record.result:
        return (
            "Time of the trainings that are stored, summed; they run side by side, so less time "
            "has passed."
        )
    compiling = record.result["compilations"]
    largest = max(spent, key=lambda stage: spent[stage])
    return (
        f"The longest stage: {largest}. {count(compiling['programs'], 'program')} were "
        f"compiled or taken from the cache meanwhile, in {seconds(compiling['seconds'])} summed "
        "over threads."
    )


def time_by_stage(record: StudyRecord) -> dict[str, float]:
    """Seconds by stage: wall time in a finished study, sum of trainings in an unfinished one."""
    if record.result:
        return dict(record.result["seconds"])
    spent: dict[str, float] = {}
    for trial in record.trials:
        spent[trial["stage"]] = spent.get(trial["stage"], 0.0) + trial["seconds"]
    return spent
