"""The figures of a study: one function each, which draws and says what to see.

The pictures go into files as PNG and SVG, with a white ground; `style.py` makes the SVG that stands
in the page, where text and colours follow the reader's.
"""

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from jointnas_jax.files import writing
from jointnas_jax.report.accuracy_figures import (
    draw_accuracy_flops,
    draw_history,
    draw_learning_curves,
    draw_predictor,
)
from jointnas_jax.report.architecture_figure import draw_architecture
from jointnas_jax.report.importance import Importance
from jointnas_jax.report.record import Record
from jointnas_jax.report.style import ACCENT, INK, PALE, STYLE
from jointnas_jax.report.words import count, percent, seconds

# Bars that a figure of importances has at most.
_BARS = 12


class Drawn(NamedTuple):
    """A figure.

    Attributes:
      name: of its files, without suffix.
      svg: as a file.
      caption: what to see in it.
    """

    name: str
    svg: str
    caption: str


def draw_figures(
    record: Record, important: Importance | None, folder: Path
) -> tuple[dict[str, Drawn], list[Path]]:
    """Draws all figures that a study has something for, into files.

    Args:
      record: the study.
      important: what its knobs do, if that is known.
      folder: exists.

    Returns:
      The figures by name, and the paths of their files.

    Raises:
      StorageError: they cannot be written.
    """
    drawings: dict[str, Callable[[Figure], str]] = {}
    if record.scored("coarse", "random"):
        drawings["accuracy_flops"] = lambda figure: draw_accuracy_flops(figure, record)
        drawings["history"] = lambda figure: draw_history(figure, record)
    if any(facts.ranked for facts in record.rounds):
        drawings["predictor"] = lambda figure: draw_predictor(figure, record)
    if len(record.first_curves):
        drawings["learning_curves"] = lambda figure: draw_learning_curves(figure, record)
    if important:
        drawings["importance"] = lambda figure: _importance(figure, important)
    if record.trials:
        drawings["time"] = lambda figure: _time(figure, record)
    archs = [arch for _, arch in record.archs]
    for name, arch in record.archs:
        drawings[f"network_{name}"] = lambda figure, arch=arch: draw_architecture(
            figure, arch, archs
        )
    figures, paths = {}, []
    for name, draw in drawings.items():
        with _figure(name) as figure:
            caption = draw(figure)
            figures[name] = Drawn(name, _save(figure, folder / name), caption)
            paths += [folder / f"{name}{end}" for end in (".png", ".svg")]
    return figures, paths


@contextlib.contextmanager
def _figure(name: str) -> Iterator[Figure]:
    with plt.rc_context(STYLE | {"svg.hashsalt": name}):
        figure = plt.figure(figsize=(4.4, 3.2), layout="constrained")
        try:
            yield figure
        finally:
            plt.close(figure)


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
        with writing(path):
            part = path.with_name(f".{path.name}.{kind}")
            part.write_bytes(content)
            part.replace(path.with_name(f"{path.name}.{kind}"))
    return contents["svg"].decode()


def _importance(figure: Figure, important: Importance) -> str:
    """Bars of the most important knobs, architecture and recipe told apart."""
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
    kinds = {}
    for bar, recipe in zip(bars, important.recipe[shown], strict=True):
        kinds.setdefault("recipe" if recipe else "architecture", bar)
    figure.legend(kinds.values(), kinds, loc="outside lower center", ncols=2)
    share = important.recipe_share
    return (
        f"The architecture's knobs have {percent(1 - share, 0)} of the effect, the recipe's "
        f"{percent(share, 0)}; thin lines are the standard deviation over resampled trials."
    )


def _time(figure: Figure, record: Record) -> str:
    """Wall time by stage; of an unfinished study, time of its trainings."""
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
    largest = max(spent, key=spent.get)
    return (
        f"The longest stage: {largest}. {count(compiling['programs'], 'program')} were "
        f"compiled or taken from the cache meanwhile, in {seconds(compiling['seconds'])} summed "
        "over threads."
    )


def time_by_stage(record: Record) -> dict[str, float]:
    """Seconds by stage: of the clock in a finished study, of trainings in an unfinished one."""
    if record.result:
        return dict(record.result["seconds"])
    spent: dict[str, float] = {}
    for trial in record.trials:
        spent[trial["stage"]] = spent.get(trial["stage"], 0.0) + trial["seconds"]
    return spent
