"""A network as a drawing to scale: its blocks from input to output."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jointnas_jax.report.style import ACCENT, INK, NOTE, PALE, SOFT
from jointnas_jax.space import ArchSpec, Block


def draw_architecture(figure: Figure, arch: ArchSpec, beside: Sequence[ArchSpec]) -> str:
    """Draws widths, expansions, map sizes and kernels of all blocks; returns the caption.

    Args:
      figure: An empty figure.
      arch: The network.
      beside: Networks drawn at the same scale, this one among them.
    """
    wide, map_axes, kernels = figure.subplots(3, 1, sharex=True, height_ratios=(4, 1.6, 1.2))
    blocks = list(arch.blocks())
    # Stem and head stand apart where columns are narrow: their names and numbers need the room.
    apart = 0.06 * len(blocks) if len(blocks) > 8 else 0.0
    places = np.array([-apart, *range(1, len(blocks) + 1), len(blocks) + 1 + apart])
    outs = [arch.stem.channels, *(b.out_channels for b in blocks), arch.stages[-1].channels]
    hidden = [0, *(b.hidden for b in blocks), arch.head_hidden]
    most = max(_widest(other) for other in beside)
    _mirrored(wide, places, hidden, PALE)
    _mirrored(wide, places[:-1], outs[:-1], ACCENT)
    _name_widths(wide, places, arch, blocks, most)
    stage_sides = arch.sides()
    sides = [stage_sides[0], *(stage_sides[b.stage] for b in blocks), 1]
    _bars(map_axes, places, sides, "map side\n(pixels)")
    map_axes.set_ylim(0, max(other.sides()[0] for other in beside) * 1.25)
    _bars(kernels, places[:-1], [arch.stem.kernel, *(b.kernel for b in blocks)], "kernel")
    kernels.set_ylim(0, max(max(b.kernel for b in other.blocks()) for other in beside) * 1.4)
    _name_stages(kernels, places, arch)
    for axes in (wide, map_axes, kernels):
        axes.tick_params(axis="x", length=0)
        _separate(axes, [b.stage for b in blocks])
    return _caption(arch, first=arch is beside[0])


def _caption(arch: ArchSpec, first: bool) -> str:
    dots = " Dots: blocks with squeeze-and-excitation." * any(stage.se for stage in arch.stages)
    shape = f"For images of {arch.resolution} by {arch.resolution} pixels: "
    if not first:
        return f"{shape}drawn alike, at the same scale.{dots}"
    return (
        f"{shape}input on the left, one column for each block, to scale. Blue is the width of a "
        f"block's output, grey that inside it, after expansion (above: the most of a stage).{dots}"
    )


def _widest(arch: ArchSpec) -> int:
    return max(arch.head_hidden, arch.stem.channels, *(b.hidden for b in arch.blocks()))


def _mirrored(axes: Axes, places: np.ndarray, widths: Sequence[int], colour: str) -> None:
    """Bars on both sides of the middle."""
    axes.bar(places, widths, bottom=-np.asarray(widths) / 2, width=0.8, color=colour)


def _name_widths(
    axes: Axes, places: np.ndarray, arch: ArchSpec, blocks: Sequence[Block], most: int
) -> None:
    """Numbers of channels of stem, stages and head; a dot at blocks with SE."""
    axes.set(ylim=(-0.66 * most, 0.6 * most), ylabel="channels", yticks=[])
    axes.spines[["left", "bottom"]].set_visible(False)
    groups = [(places[0], 0, arch.stem.channels), (places[-1], arch.head_hidden, 0)]
    for number, stage in enumerate(arch.stages, start=1):
        within = [i for i, block in enumerate(blocks, start=1) if block.stage == number]
        hidden = max(blocks[i - 1].hidden for i in within)
        groups.append((sum(within) / len(within), hidden, stage.channels))
    for place, hidden, width in groups:
        if hidden:
            above = (place, hidden / 2)
            axes.annotate(f"{hidden:,}", above, (0, 2), ha="center", color=SOFT, **NOTE)
        if width:
            below = (place, -max(hidden, width) / 2)
            axes.annotate(f"{width:,}", below, (0, -9), ha="center", color=ACCENT, **NOTE)
    dots = [i for i, block in enumerate(blocks, start=1) if block.se_channels]
    axes.plot(dots, [-0.62 * most] * len(dots), "o", ms=3, color=INK)


def _bars(axes: Axes, places: np.ndarray, values: Sequence[int], label: str) -> None:
    """Bars, with the number wherever it changes."""
    axes.bar(places, values, width=0.8, color=SOFT)
    axes.set(ylabel=label)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    for place, value, before in zip(places, values, [None, *values], strict=False):
        if value != before:
            axes.annotate(str(value), (place, value), (0, 1), ha="center", color=INK, **NOTE)


def _name_stages(axes: Axes, places: np.ndarray, arch: ArchSpec) -> None:
    middles, first = [], 1
    for stage in arch.stages:
        middles.append(first + (stage.depth - 1) / 2)
        first += stage.depth
    names = [f"{s}" if len(arch.stages) > 4 else f"stage {s}" for s in range(1, len(middles) + 1)]
    axes.set_xticks([places[0], *middles, places[-1]], ["stem", *names, "head"])
    axes.set_xlim(places[0] - 0.6, places[-1] + 0.6)


def _separate(axes: Axes, stages: Sequence[int]) -> None:
    """Thin lines where a stage begins, and before the head."""
    starts = [i for i in range(len(stages)) if i == 0 or stages[i] != stages[i - 1]]
    for place in [*starts, len(stages)]:
        axes.axvline(place + 0.5, color=PALE, lw=0.6, zorder=0)
