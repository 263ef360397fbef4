"""Figure of which classes a winner takes for which others."""

from collections.abc import Sequence

import numpy as np
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from jointnas_jax.report.record import Row
from jointnas_jax.report.style import ACCENT, INK, PAPER
from jointnas_jax.report.words import percent

# Names of more classes, and numbers in their cells, could not be read.
_NAMED, _NUMBERED = 40, 12
# More classes become a picture inside the SVG.
_VECTORS = 40
# Smaller shares are not drawn.
_LEAST = 0.005
# Longest name at an axis.
_LETTERS = 14


def draw_confusion(figure: Figure, entry: Row, labels: Sequence[str]) -> str:
    """Draws the shares of each class's test images by answer.

    Args:
      figure: an empty figure.
      entry: a winner of `result.json`.
      labels: name of each class.

    Returns:
      The caption.
    """
    shares, count = confusion_shares(entry), len(labels)
    axes = figure.subplots()
    cells = np.argwhere(shares >= _LEAST)
    # Transparent, so that the ground of the page shows.
    axes.add_collection(
        PatchCollection(
            [Rectangle((j - 0.5, i - 0.5), 1, 1) for i, j in cells],
            facecolor=ACCENT,
            edgecolor="none",
            alpha=shares[tuple(cells.T)],
            rasterized=count > _VECTORS,
        )
    )
    axes.set(
        xlabel="answer",
        ylabel="class",
        xlim=(-0.5, count - 0.5),
        ylim=(count - 0.5, -0.5),
        aspect="equal",
    )
    axes.tick_params(length=0)
    if count <= _NAMED:
        names = [n if len(n) <= _LETTERS else f"{n[: _LETTERS - 1]}…" for n in labels]
        axes.set_xticks(range(count), names, rotation=90 if max(map(len, names)) > 2 else 0)
        axes.set_yticks(range(count), names)
    if count <= _NUMBERED:
        for i, j in cells:
            share = shares[i, j]
            colour = PAPER if share > 0.5 else INK
            text = f"{100 * share:.0f}"
            axes.text(j, i, text, ha="center", va="center", color=colour, fontsize=6)
    worst, name = min(
        (accuracy, name)
        for accuracy, name in zip(entry["classes"]["accuracy"], labels, strict=True)
        if accuracy is not None
    )
    return (
        "Of the test images of a class (row) the share that got each answer (column), in percent, "
        f"over all trainings. The hardest class is {name}: {percent(worst, 1)} right."
    )


def confusion_shares(entry: Row) -> np.ndarray:
    """Share of each class's images (row) by answer (column) of a winner, `float64[L, L]`."""
    classes = entry["classes"]
    images = np.array(classes["images"])
    shares = np.diag([accuracy or 0.0 for accuracy in classes["accuracy"]])
    for true, answer, wrong in classes["confusions"]:
        shares[true, answer] = wrong / images[true]
    return shares
