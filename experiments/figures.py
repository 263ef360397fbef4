"""Figures of the paper's claims, from the reports of the experiments."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from jointnas_jax.report.style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, YELLOW

_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, YELLOW, SKY)


def draw_claim(name: str, report: dict[str, Any], path: Path) -> Path:
    """Draws the figure of an experiment by its name; returns the path."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    FIGURES[name](axes, report)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path


def _pretraining(axes: Axes, report: dict[str, Any]) -> None:
    """Kendall's tau by number of samples; bars are standard errors of the difference."""
    names = dict.fromkeys(row["predictor"] for row in report["rows"])
    for name, colour in zip(names, _COLOURS, strict=False):
        rows = [row for row in report["rows"] if row["predictor"] == name]
        sizes = [row["N"] for row in rows]
        for which, style in (("with", "o-"), ("without", "o--")):
            errors = [row["difference"]["error"] or 0.0 for row in rows]
            axes.errorbar(
                sizes,
                [row["numbers"][which] for row in rows],
                errors if which == "with" else None,
                fmt=style,
                color=colour,
                mfc=colour if which == "with" else "white",
                capsize=3,
                label=f"{name} predictor, {which} pretraining",
            )
    if (ceiling := report["ceiling"]["kendall"]) is not None:
        axes.axhline(ceiling, color=GREY, linestyle=":", label="a second training")
    axes.set_xscale("log")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.set(
        xlabel="candidates learnt from (bars: standard error of the difference)",
        ylabel="Kendall's tau on the others",
        title=f"{report['dataset']}: pretraining on FLOPs and params",
    )
    axes.figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)


def _early_stop(axes: Axes, report: dict[str, Any]) -> None:
    """Correlation with the last epoch of all candidates, and what each first round chose."""
    curve = report["by_epoch"][report["correlation"]]
    epochs = range(1, len(curve) + 1)
    axes.plot(epochs, np.array(curve, float), color="black", marker=".", label="all candidates")
    rng = np.random.default_rng(0)
    for (m, rounds), colour in zip(report["rounds"].items(), _COLOURS, strict=False):
        stops, kept = np.ravel(rounds["epochs"]), np.ravel(rounds["kept"])
        # Apart from each other, since many coincide.
        stops = stops + rng.uniform(-0.2, 0.2, stops.size)
        axes.scatter(stops, kept, s=14, color=colour, alpha=0.6, label=f"m = {m}")
    threshold = report["threshold"]
    axes.axhline(threshold, color=ORANGE, linestyle=":", label=f"threshold {threshold:g}")
    if (ceiling := report["ceiling"]["spearman"]) and report["correlation"] == "spearman":
        axes.axhline(ceiling, color=GREY, linestyle=":", label="a second training")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(
        xlabel="epochs (dots: chosen by the rule from m candidates)",
        ylabel=f"{report['correlation']} correlation with the last epoch",
        title=f"{report['dataset']}: the early-stop rule",
    )
    axes.figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)


def _joint(axes: Axes, report: dict[str, Any]) -> None:
    """What each study reached, accuracy or the area of its front; seeds connected, and means."""
    modes, areas = list(report["studies"]), report.get("areas")
    names = modes if areas else [*modes, "default"]
    winners = [[s["test"] for s in report["studies"][mode]] for mode in modes]
    reached = [areas[mode] for mode in modes] if areas else [*winners, report["default"]]
    tests = np.array(reached, float)
    for seed in range(tests.shape[1]):
        axes.plot(names, tests[:, seed], color=GREY, marker="o", linewidth=1, alpha=0.7)
    axes.scatter(
        names, np.nanmean(tests, 1), marker="_", s=900, linewidth=2.5, color=ORANGE, label="mean"
    )
    axes.plot([], [], color=GREY, marker="o", label="a seed")
    axes.margins(x=0.15)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=1))
    trained = sorted({s["trained"] for studies in report["studies"].values() for s in studies})
    axes.set(
        xlabel="what was searched",
        ylabel="area under the front" if areas else "test accuracy of the winner",
        title=f"{report['dataset']}: {', '.join(map(str, trained))} trained candidates each",
    )
    axes.legend(frameon=False, fontsize=8)


def _swapped_recipes(axes: Axes, report: dict[str, Any]) -> None:
    """Test accuracy of each network with each recipe, all trainings and their means."""
    accuracies = np.array(report["accuracies"], float)
    count = len(accuracies)
    for recipe, colour in zip(range(count), _COLOURS, strict=False):
        places = np.arange(count) + 0.6 * ((recipe + 0.5) / count - 0.5)
        for place, values in zip(places, accuracies[:, recipe], strict=True):
            axes.scatter(np.full(len(values), place), values, s=18, color=colour, alpha=0.6)
        means = accuracies[:, recipe].mean(1)
        axes.scatter(places, means, marker="_", s=500, linewidth=2.5, color=colour)
        axes.scatter([], [], color=colour, label=f"recipe found with network {recipe + 1}")
    names = [
        f"network {i + 1}\n{network['flops'] / 1e6:.2g} M FLOPs"
        for i, network in enumerate(report["networks"])
    ]
    axes.set_xticks(range(count), names)
    axes.margins(x=0.1)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=1))
    axes.set(ylabel="test accuracy", title=f"{report['dataset']}: every network, every recipe")
    axes.figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)


FIGURES = {
    "pretraining": _pretraining,
    "early_stop": _early_stop,
    "joint": _joint,
    "swapped_recipes": _swapped_recipes,
}
