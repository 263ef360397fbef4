"""Figures from a workdir: accuracy against cost, predicted against measured, learning curves."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, PercentFormatter

from jointnas_jax.files import writing

FIGURES = ("accuracy_flops.png", "predictor.png", "learning_curves.png")
# Accuracies this far below the best are drawn at the bottom edge: they would flatten the rest.
_SHOWN = 0.15
# Okabe-Ito colours: told apart with any colour vision.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#999999"


def draw_figures(
    workdir: Path, result: dict[str, Any], trials: Sequence[dict[str, Any]]
) -> list[Path]:
    """Draws all figures of a finished study into `workdir/figures`.

    Args:
      workdir: of the study.
      result: content of its `result.json`.
      trials: all of them, as dicts of `study.store.Trial`.

    Returns:
      Their paths.

    Raises:
      StorageError: they cannot be written.
    """
    folder, paths = workdir / "figures", []
    drawn = zip(FIGURES, (_accuracy_flops, _predictor, _learning_curves), strict=True)
    with writing(folder):
        folder.mkdir(exist_ok=True)
        for name, draw in drawn:
            figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
            draw(axes, result, trials)
            axes.spines[["top", "right"]].set_visible(False)
            # Under another name first, so that a figure that is there is whole.
            part = folder / f".{name}"
            figure.savefig(part, dpi=150, format="png")
            plt.close(figure)
            paths.append(part.replace(folder / name))
    return paths


def _accuracy_flops(axes: Axes, result: dict[str, Any], trials: list[dict[str, Any]]) -> None:
    """Validation accuracy against FLOPs of all trials, with winner, references and budget."""
    scores = [t["score"] for t in trials if t["score"] is not None]
    floor = max(scores) - _SHOWN if scores else 0.0
    for stage, colour, label in (
        ("random", GREY, "random candidates"),
        ("coarse", BLUE, "coarse stage"),
    ):
        done = [t for t in trials if t["stage"] == stage and t["score"] is not None]
        for marker, rows in (
            ("o", [t for t in done if t["score"] >= floor]),
            ("v", [t for t in done if t["score"] < floor]),
        ):
            axes.scatter(
                [t["costs"]["flops"] for t in rows],
                [max(t["score"], floor) for t in rows],
                s=22,
                color=colour,
                alpha=0.7,
                marker=marker,
                label=label if marker == "o" else None,
            )
    if any(score < floor for score in scores):
        axes.annotate("▾ below", (0.01, 0.01), xycoords="axes fraction", color=GREY, fontsize=8)
    marks = [(w, "*", ORANGE, "winner") for w in result["winners"]]
    marks += [
        (r, m, GREEN, r["source"])
        for r, m in zip(result["references"].values(), "sD", strict=False)
    ]
    for entry, marker, colour, label in marks:
        seeds = entry["validation"]
        if seeds["mean"] is not None:
            axes.errorbar(
                entry["costs"]["flops"],
                seeds["mean"],
                seeds["std"] or 0.0,
                fmt=marker,
                markersize=14 if marker == "*" else 8,
                color=colour,
                capsize=3,
                label=f"{label}, mean of seeds",
            )
    if "flops" in result["budget"]:
        axes.axvline(result["budget"]["flops"], color="black", linestyle=":", label="budget")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v / 1e6:g} M"))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set(
        xlabel="FLOPs", ylabel="validation accuracy", title=f"{result['name']}: what was trained"
    )
    axes.figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)


def _predictor(axes: Axes, result: dict[str, Any], trials: list[dict[str, Any]]) -> None:
    """Predicted against measured accuracy, one colour a round, on candidates not seen before."""
    rounds = [r for r in result["rounds"] if r["spearman"] is not None]
    epoch = result["early_stop"]["epochs"] - 1
    low, high = 1.0, 0.0
    for entry, colour in zip(
        rounds, plt.cm.viridis([i / max(len(rounds), 2) for i in range(len(rounds))]), strict=True
    ):
        done = [t for t in trials if t["round"] == entry["round"] and t["score"] is not None]
        predicted = [t["predicted"] for t in done]
        measured = [t["accuracies"][epoch] for t in done]
        axes.scatter(
            predicted,
            measured,
            s=26,
            color=colour,
            label=f"round {entry['round']}, Spearman {entry['spearman']:.2f}",
        )
        low, high = min(low, *predicted, *measured), max(high, *predicted, *measured)
    if rounds:
        axes.plot([low, high], [low, high], color=GREY, linestyle="--", linewidth=1)
        axes.legend(frameon=False, fontsize=8)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set(
        xlabel="predicted accuracy",
        ylabel="measured accuracy",
        title="Predictor on candidates it had not seen",
    )


def _learning_curves(axes: Axes, result: dict[str, Any], trials: list[dict[str, Any]]) -> None:
    """Accuracy by epoch in the first round, and the rank correlation behind the early-stop rule."""
    curves = [t["accuracies"] for t in trials if t["round"] == 1 and t["score"] is not None]
    epochs = range(1, result["early_stop"]["of"] + 1)
    for curve in curves:
        axes.plot(epochs, curve, color=BLUE, alpha=0.5, linewidth=1)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set(
        xlabel="epoch",
        ylabel="validation accuracy (blue)",
        title=f"Round 1, and the early-stop rule: {result['early_stop']['epochs']} of "
        f"{result['early_stop']['of']} epochs",
    )
    right = axes.twinx()
    stop = result["early_stop"]
    correlations = [float("nan") if c is None else c for c in stop["by_epoch"]]
    right.plot(epochs, correlations, color=ORANGE, marker=".")
    right.axhline(stop["threshold"], color=ORANGE, linestyle=":", linewidth=1)
    right.axvline(stop["epochs"], color="black", linestyle=":", linewidth=1)
    right.set(
        ylabel=f"{stop['correlation']} correlation with the last epoch (orange)",
        ylim=(min([0.0, *(c for c in correlations if c == c)]) - 0.05, 1.05),
    )
    right.spines["top"].set_visible(False)
