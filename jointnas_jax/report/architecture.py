"""A network as tables for people."""

from typing import Any

from rich.console import Console
from rich.table import Table

from jointnas_jax.nets.cost import COSTS, by_part, count
from jointnas_jax.space import ArchSpec, Stage

COLUMNS = ("", "operator", "kernel", "expand", "channels", "blocks", "stride", "SE", "map")


def part_rows(arch: ArchSpec) -> list[tuple[str, ...]]:
    """Stem, stages and head as rows of `COLUMNS`, then FLOPs and params, as in the paper."""
    costs = by_part(arch)[:, [COSTS.index("flops"), COSTS.index("params")]]
    return [
        (*map(str, row), *(f"{int(c):,}" for c in cost))
        for row, cost in zip(arch_rows(arch), costs, strict=True)
    ]


def print_arch(name: str, arch: ArchSpec, console: Console) -> None:
    """Prints the stages of a network as the paper's table does, with the costs of each."""
    table = Table(title=name, title_justify="left")
    for column in (*COLUMNS, "FLOPs", "params"):
        table.add_column(column, justify="left" if column in COLUMNS[:2] else "right")
    for row in part_rows(arch):
        table.add_row(*row)
    console.print(table)
    costs = count(arch)
    lines = {
        "input": f"{arch.resolution} x {arch.resolution} x {arch.image_channels}, "
        f"{arch.num_classes} classes",
        "FLOPs": f"{costs.flops:,} by the official rule; {costs.macs:,} multiply-adds of "
        "convolutions and dense layers",
        "params": f"{costs.params:,} weights; {costs.params_total:,} with biases and BN",
    }
    for what, text in lines.items():
        console.print(f"  {what:<7} {text}", highlight=False)


def arch_rows(arch: ArchSpec) -> list[tuple[Any, ...]]:
    """Stem, stages and head as rows of `COLUMNS`."""
    stem, head, sides = arch.stem, arch.head, arch.sides()
    rows = [("stem", "conv", stem.kernel, "", stem.channels, 1, stem.stride, "", sides[0])]
    for number, stage in enumerate(arch.stages, start=1):
        rows.append((f"stage {number}", "MBConv", *_stage(stage), sides[number]))
    return [*rows, ("head", "MBPool, dense", "", head.expand, head.channels, 1, "", "", 1)]


def _stage(stage: Stage) -> tuple[Any, ...]:
    """Kernel, expansion, channels, blocks, stride and SE of a stage."""

    def both(first: float, rest: float) -> str:
        return f"{first}" if first == rest or stage.depth == 1 else f"{first} / {rest}"

    stride = f"{stage.stride}, padding -{stage.trim}" if stage.trim else f"{stage.stride}"
    return (
        both(stage.kernel_first, stage.kernel_rest),
        both(stage.expand_first, stage.expand_rest),
        stage.channels,
        stage.depth,
        stride,
        "yes" if stage.se else "no",
    )
