"""Latency as a cost: a network takes as long as its pieces together, each timed by itself.

Pieces are the stem, every MBConv block, and the head. The key of a piece has everything that
decides how long it takes: its input map, widths, kernel, stride and trim, the squeeze and the
activation. A space has far fewer distinct pieces than networks, and a table of their timings over
the knobs that each depends on joins the table of counted costs (`nets/cost.py`). Nothing here
measures; see `nets/timing.py`.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np

from jointnas_jax.nets.cost import CostTable, knob_strides
from jointnas_jax.space import ArchSpec, Block, Head, JointSpace, Knob, Stage, Stem
from jointnas_jax.space.arch import SlotValues, map_side, part_of, stage_count

LATENCY = "latency"
STEM, BLOCK, HEAD = "stem", "block", "head"

# Parts of the network of a piece that the piece does not depend on.
_ANY_STAGE, _ANY_HEAD = Stage(8, 1), Head(8)

Time = TypeVar("Time", int, float)  # nanoseconds


@dataclasses.dataclass(frozen=True)
class Piece:
    """A part of a network that is timed by itself: the stem, block or head of `arch`.

    The input of a block or a head is a map of `arch.resolution` x `arch.resolution` positions and
    the width of the stem.
    """

    kind: str  # STEM, BLOCK or HEAD
    arch: ArchSpec  # a network of one block

    @functools.cached_property
    def block(self) -> Block:
        """The network's only block."""
        (block,) = self.arch.blocks()
        return block

    @functools.cached_property
    def key(self) -> str:
        """Everything that decides how long it takes; pieces of one key are the same."""
        arch, block = self.arch, self.block
        size, head = f"{self.kind} {arch.resolution}", arch.head
        if self.kind == STEM:
            stem = arch.stem
            widths = f"{arch.image_channels}>{stem.channels}"
            return f"{size} {widths} k{stem.kernel} s{stem.stride} {stem.activation}"
        if self.kind == HEAD:
            widths = f"{block.out_channels}>{arch.head_hidden}>{head.channels}>{arch.num_classes}"
            return f"{size} {widths} {head.activation}"
        widths = f"{block.in_channels}>{block.hidden}>{block.out_channels}"
        shape = f"k{block.kernel} s{block.stride} t{block.trim} se{block.se_channels}"
        return f"{size} {widths} {shape} {block.activation}"


def pieces_of(arch: ArchSpec) -> Iterator[tuple[Piece, int]]:
    """Yields the pieces of a network, each with its number of times."""
    slots = arch.to_slots()
    for part in _parts(len(arch.stages), arch.image_channels, arch.num_classes):
        yield part.piece(slots), part.times(slots)


def latency_of(arch: ArchSpec, times: Mapping[str, Time]) -> Time:
    """Nanoseconds of a network, given those of pieces by their keys."""
    return sum(count * times[piece.key] for piece, count in pieces_of(arch) if count)


def pieces_of_space(space: JointSpace) -> dict[str, Piece]:
    """Returns the pieces of all networks of a space by their keys, in a fixed order."""
    pieces: dict[str, Piece] = {}
    for part in _parts_of(space):
        for values in part.rows(space):
            if part.times(values):
                piece = part.piece(values)
                pieces.setdefault(piece.key, piece)
    return pieces


def with_latency(costs: CostTable, space: JointSpace, times: Mapping[str, int]) -> CostTable:
    """Returns a table with one more cost, `latency`, given the nanoseconds of pieces by key."""
    knobs, tables = list(costs.knobs), [np.pad(table, ((0, 0), (0, 1))) for table in costs.tables]
    for part in _parts_of(space):
        rows = [
            part.times(values) and part.times(values) * times[part.piece(values).key]
            for values in part.rows(space)
        ]
        table = np.zeros((len(rows), len(costs.names) + 1), np.int64)
        table[:, -1] = rows
        knobs.append(knob_strides(space, part.knobs(space)))
        tables.append(table)
    return CostTable(tuple(knobs), tuple(tables), (*costs.names, LATENCY))


class _Part(NamedTuple):
    """A part of all networks of a space."""

    slots: tuple[str, ...]  # the slots that it depends on
    piece: Callable[[SlotValues], Piece]
    times: Callable[[SlotValues], int] = lambda values: 1  # number of such pieces in a network

    def knobs(self, space: JointSpace) -> tuple[Knob, ...]:
        """The knobs that fill its slots."""
        sources = (space.arch_slots[slot] for slot in self.slots)
        return tuple({s.name: s for s in sources if isinstance(s, Knob)}.values())

    def rows(self, space: JointSpace) -> Iterator[dict[str, Any]]:
        """Yields the slots' values for all values of its knobs; the last knob runs fastest."""
        sources = {slot: space.arch_slots[slot] for slot in self.slots}
        knobs = self.knobs(space)
        for chosen in itertools.product(*(knob.values for knob in knobs)):
            now = {knob.name: value for knob, value in zip(knobs, chosen, strict=True)}
            yield {s: now[k.name] if isinstance(k, Knob) else k for s, k in sources.items()}


def _parts_of(space: JointSpace) -> list[_Part]:
    return _parts(stage_count(space.arch_slots), space.image_channels, space.num_classes)


def _parts(stages: int, image_channels: int, num_classes: int) -> list[_Part]:
    """Stem, first and other blocks of each stage, head."""
    middle = [part for s in range(1, stages + 1) for part in _stage_parts(s)]
    return [_stem_part(image_channels), *middle, _head_part(stages, num_classes)]


def _stem_part(image_channels: int) -> _Part:
    slots = ("resolution", *(f"stem_{f.name}" for f in dataclasses.fields(Stem)))

    def piece(v: SlotValues) -> Piece:
        stem = part_of(v, "stem", Stem)
        return _piece(STEM, v["resolution"], stem, image_channels=image_channels)

    return _Part(slots, piece)


def _stage_parts(s: int) -> list[_Part]:
    """The first block of a stage, and the others."""
    name, before = f"stage{s}", f"stage{s - 1}_channels" if s > 1 else "stem_channels"
    shared = (f"{name}_channels", f"{name}_se", f"{name}_activation")

    def piece(v: SlotValues, half: str) -> Piece:
        first = half == "first"
        stage = Stage(
            channels=v[f"{name}_channels"],
            depth=1,
            kernel_first=v[f"{name}_kernel_{half}"],
            expand_first=v[f"{name}_expand_{half}"],
            stride=v[f"{name}_stride"] if first else 1,
            trim=v[f"{name}_trim"] if first else 0,
            se=v[f"{name}_se"],
            activation=v[f"{name}_activation"],
        )
        size = map_side(v, s - 1 if first else s)
        width = v[before] if first else stage.channels
        return _piece(BLOCK, size, Stem(width, kernel=1, stride=1), stage=stage)

    def part(half: str, slot: str, times: Callable[[SlotValues], int]) -> _Part:
        slots = (*_size_slots(s), slot, f"{name}_kernel_{half}", f"{name}_expand_{half}", *shared)
        return _Part(slots, functools.partial(piece, half=half), times)

    others = lambda v: v[f"{name}_depth"] - 1
    return [part("first", before, lambda v: 1), part("rest", f"{name}_depth", others)]


def _head_part(stages: int, num_classes: int) -> _Part:
    last = f"stage{stages}_channels"
    slots = (last, *_size_slots(stages), *(f"head_{f.name}" for f in dataclasses.fields(Head)))

    def piece(v: SlotValues) -> Piece:
        return _piece(
            HEAD,
            map_side(v, stages),
            Stem(v[last], kernel=1, stride=1),
            stage=Stage(v[last], 1, expand_first=1),
            head=part_of(v, "head", Head),
            num_classes=num_classes,
        )

    return _Part(slots, piece)


def _piece(
    kind: str,
    size: int,
    stem: Stem,
    *,
    stage: Stage = _ANY_STAGE,
    head: Head = _ANY_HEAD,
    image_channels: int = 1,
    num_classes: int = 2,
) -> Piece:
    """A piece; what it does not depend on has a default, so that equal pieces are equal."""
    arch = ArchSpec(
        resolution=size,
        image_channels=image_channels,
        num_classes=num_classes,
        stem=stem,
        stages=(stage,),
        head=head,
    )
    return Piece(kind, arch)


def _size_slots(stage: int) -> tuple[str, ...]:
    """The slots that the side of the map after a stage depends on."""
    strides = (f"stage{s}_{field}" for s in range(1, stage + 1) for field in ("stride", "trim"))
    return ("resolution", "stem_stride", *strides)
