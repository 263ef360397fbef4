"""Envelopes: the shapes of one program for many architectures, and their differences as arrays.

An envelope has the largest width, depth and kernel of any architecture inside. An architecture
arrives as arrays: its variables, padded with zeros, and its `Switches`. Zeros stay
zeros: a padded channel has zero weights, BN scale and bias, so its values and all its gradients are
exactly zero, and no mask is needed. Switches say the rest: which blocks are present, expand, have a
residual or SE, and how large their kernel is.

B = blocks of the envelope.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.struct
import numpy as np

from jointnas_jax.space import ArchSpec, Block, Head, JointSpace, Knob, Stem
from jointnas_jax.space.arch import part_of, round8, se_width, stage_count

# Slot -> the values that an architecture of the envelope may have there.
Ranges = Mapping[str, tuple[Any, ...]]

# The slots that set a width, a depth or a kernel of a block: architectures of one envelope differ
# there only.
_FREE = ("channels", "depth", "kernel_first", "kernel_rest", "expand_first", "expand_rest", "se")


@dataclasses.dataclass(frozen=True)
class Envelope:
    """The largest shapes of a set of architectures; stands in for an `ArchSpec` in `Network`."""

    ranges: tuple[tuple[str, tuple[Any, ...]], ...]  # the set, as pairs of slot and values
    resolution: int
    image_channels: int
    num_classes: int
    stem: Stem  # the widest
    head: Head  # the widest
    head_hidden: int  # largest width of the head's expansion
    _blocks: tuple[Block, ...]

    @classmethod
    def of(cls, ranges: Ranges, image_channels: int, num_classes: int) -> "Envelope":
        """Builds the envelope of all architectures with every slot in its range.

        A slot has one value where `is_free` does not hold.
        """
        largest = {slot: max(values) for slot, values in ranges.items()}
        stages = stage_count(ranges)
        expanded = itertools.product(ranges[f"stage{stages}_channels"], ranges["head_expand"])
        return cls(
            ranges=tuple((slot, tuple(values)) for slot, values in ranges.items()),
            resolution=largest["resolution"],
            image_channels=image_channels,
            num_classes=num_classes,
            stem=part_of(largest, "stem", Stem),
            head=part_of(largest, "head", Head),
            head_hidden=max(round8(width * expand) for width, expand in expanded),
            _blocks=tuple(_blocks(ranges, stages)),
        )

    def blocks(self) -> Iterator[Block]:
        """Yields the largest blocks from input to output."""
        return iter(self._blocks)

    def holds(self, arch: ArchSpec) -> bool:
        """Whether an architecture is in the set."""
        slots = arch.to_slots()
        return (arch.image_channels, arch.num_classes, slots.keys()) == (
            self.image_channels,
            self.num_classes,
            dict(self.ranges).keys(),
        ) and all(slots[slot] in values for slot, values in self.ranges)


class Switches(flax.struct.PyTreeNode):
    """An architecture inside an envelope; `[B]` arrays, scalars for one block."""

    present: Any  # float32, 1 or 0
    expands: Any  # float32, 1 or 0
    residual: Any  # float32, 1 or 0; 1 for absent blocks, which pass their input on
    se: Any  # float32, 1 or 0
    kernel: Any  # int32, true kernel size
    hidden: Any  # int32, true width after expansion; 0 for absent blocks
    depth: Any  # float32, l / L for the l-th of L blocks

    @classmethod
    def of(cls, arch: ArchSpec, envelope: Envelope) -> "Switches":
        """The switches of an architecture that the envelope holds."""
        present = {block.name: block for block in arch.blocks()}
        depth = {name: number / len(present) for number, name in enumerate(present, start=1)}
        blocks = [(largest, present.get(largest.name)) for largest in envelope.blocks()]
        numbers = lambda values: np.array(list(values), np.float32)
        return cls(
            present=numbers(b is not None for _, b in blocks),
            expands=numbers(b is not None and b.expands for _, b in blocks),
            residual=numbers(b is None or b.residual for _, b in blocks),
            se=numbers(b is not None and b.se_channels > 0 for _, b in blocks),
            kernel=np.array([(b or largest).kernel for largest, b in blocks], np.int32),
            hidden=np.array([b.hidden if b else 0 for _, b in blocks], np.int32),
            depth=numbers(depth.get(largest.name, 0) for largest, _ in blocks),
        )


def pad_variables(variables: Any, template: Any) -> Any:
    """Pads Flax variables (NumPy arrays) with zeros to the shapes of an envelope's.

    Returns:
      Variables with the structure and shapes of `template`; absent blocks are zero.
    """

    def pad(leaf: Any, shape: tuple[int, ...]) -> np.ndarray:
        before = margins(leaf.shape, shape)
        widths = [(b, s - b - n) for b, n, s in zip(before, leaf.shape, shape, strict=True)]
        return np.pad(leaf, widths)

    def walk(node: Any, largest: Any) -> Any:
        if isinstance(largest, Mapping):
            return {k: walk(None if node is None else node.get(k), v) for k, v in largest.items()}
        return np.zeros_like(largest) if node is None else pad(node, largest.shape)

    return walk(variables, template)


def cut_variables(variables: Any, template: Any) -> Any:
    """Inverse of `pad_variables`: `template` has the shapes of the architecture's variables."""

    def cut(node: Any, largest: Any) -> Any:
        if isinstance(node, Mapping):
            return {k: cut(v, largest[k]) for k, v in node.items()}
        before = margins(node.shape, largest.shape)
        return largest[tuple(slice(b, b + n) for b, n in zip(before, node.shape, strict=True))]

    return cut(template, variables)


def margins(shape: tuple[int, ...], envelope: tuple[int, ...]) -> list[int]:
    """Where an array starts in its envelope: kernels of convolutions in the middle."""
    taps = range(2) if len(shape) >= 3 else ()
    return [(envelope[a] - n) // 2 if a in taps else 0 for a, n in enumerate(shape)]


def is_free(slot: str) -> bool:
    """Whether architectures of one envelope may differ in a slot."""
    name = slot.partition("_")[2]
    return slot.startswith("stage") and name in _FREE or slot in ("stem_channels", "head_channels")


def ranges_of(space: JointSpace, arch: ArchSpec) -> dict[str, tuple[Any, ...]]:
    """The values of every slot in a space; the value in `arch` where `is_free` does not hold."""
    slots = arch.to_slots()
    values: Callable[[Any], tuple] = lambda s: s.values if isinstance(s, Knob) else (s,)
    return {
        slot: values(source) if is_free(slot) else (slots[slot],)
        for slot, source in space.arch_slots.items()
    }


def _blocks(ranges: Ranges, stages: int) -> Iterator[Block]:
    """The largest blocks of each stage, over all combinations of input width and expansion."""
    before = ranges["stem_channels"]
    for s in range(1, stages + 1):
        width = ranges[f"stage{s}_channels"]
        for index in range(max(ranges[f"stage{s}_depth"])):
            kind = "rest" if index else "first"
            first = (ranges[f"stage{s}_stride"][0], ranges[f"stage{s}_trim"][0])
            stride, trim = (1, 0) if index else first
            expansions = ranges[f"stage{s}_expand_{kind}"]
            hidden, squeezed, expands = _widths(tuple(before), tuple(expansions))
            yield Block(
                stage=s,
                index=index,
                in_channels=max(before),
                hidden=hidden,
                out_channels=max(width),
                kernel=max(ranges[f"stage{s}_kernel_{kind}"]),
                stride=stride,
                trim=trim,
                se_channels=squeezed if any(ranges[f"stage{s}_se"]) else 0,
                activation=ranges[f"stage{s}_activation"][0],
                expands=expands,
                residual=stride == 1 and not trim and not set(before).isdisjoint(width),
            )
            before = width


@functools.lru_cache(maxsize=2**14)
def _widths(before: tuple[int, ...], expansions: tuple[float, ...]) -> tuple[int, int, bool]:
    """The largest hidden width and SE width of a block, and whether it can expand at all."""
    hidden = [(w, e, round8(w * e)) for w, e in itertools.product(before, expansions)]
    return (
        max(h for _, _, h in hidden),
        max(se_width(h, e) for _, e, h in hidden),
        any(h != w for w, _, h in hidden),
    )
