"""Networks as plain data: no JAX, no weights."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from jointnas_jax.errors import SpaceError, nearest, one_line, shown
from jointnas_jax.space.knobs import Value

ACTIVATIONS = ("hswish", "relu", "swish")
MOST_STAGES = 32
# The largest value of each integer field; the smallest is 1, for `trim` 0. They leave room for any
# sensible network, and the cost of a stage (`nets/cost.py`) fits 64 bits.
_LARGEST = {
    "resolution": 4096,
    "channels": 8192,
    "kernel": 31,
    "depth": 100,
    "expand": 32,
    "trim": 15,
    "classes": 1_000_000,
}


# Slot -> value; the type of a value is that of the field it fills.
SlotValues = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Stem:
    """The first convolution, followed by BN and the activation."""

    channels: int
    kernel: int = 3
    stride: int = 2
    activation: str = "hswish"


@dataclasses.dataclass(frozen=True)
class Stage:
    """A run of MBConv blocks. The first block has the stride; the others repeat at stride 1.

    `first` and `rest` apart, because the published FBNetV3 networks differ there. The padding of
    the first block's depthwise convolution is (k-1)/2 - `trim`; some of them trim where they halve
    the map.
    """

    channels: int
    depth: int
    kernel_first: int = 3
    kernel_rest: int = 3
    expand_first: int | float = 6
    expand_rest: int | float = 6
    stride: int = 1
    trim: int = 0
    se: bool = False
    activation: str = "hswish"


@dataclasses.dataclass(frozen=True)
class Head:
    """MBPool: 1x1 to `expand` times the last width, global pool, 1x1 to `channels`, classifier."""

    channels: int = 1984
    expand: int | float = 6
    activation: str = "hswish"


Part = TypeVar("Part", Stem, Stage, Head)


@dataclasses.dataclass(frozen=True)
class Block:
    """One MBConv block with every width worked out; see `ArchSpec.blocks`."""

    stage: int  # from 1
    index: int  # in its stage, from 0
    in_channels: int
    hidden: int  # width after expansion
    out_channels: int
    kernel: int
    stride: int
    trim: int
    se_channels: int  # 0: no squeeze-and-excitation
    activation: str
    expands: bool  # whether there is an expansion, with BN and activation
    residual: bool  # whether the input is added to the output

    @property
    def name(self) -> str:
        """Name of the block's variables."""
        return f"stage{self.stage}_block{self.index}"


@dataclasses.dataclass(frozen=True)
class ArchSpec:
    """A network for images of `resolution` x `resolution` x `image_channels`."""

    resolution: int
    image_channels: int
    num_classes: int
    stem: Stem
    stages: tuple[Stage, ...]
    head: Head

    def blocks(self) -> Iterator[Block]:
        """Yields all blocks from input to output, widths by the rules of the official networks."""
        width = self.stem.channels
        for s, stage in enumerate(self.stages, start=1):
            for b in range(stage.depth):
                first = b == 0
                expand = stage.expand_first if first else stage.expand_rest
                stride, trim = (stage.stride, stage.trim) if first else (1, 0)
                hidden = round8(width * expand)
                yield Block(
                    stage=s,
                    index=b,
                    in_channels=width,
                    hidden=hidden,
                    out_channels=stage.channels,
                    kernel=stage.kernel_first if first else stage.kernel_rest,
                    stride=stride,
                    trim=trim,
                    se_channels=se_width(hidden, expand) if stage.se else 0,
                    activation=stage.activation,
                    expands=hidden != width,
                    residual=stride == 1 and not trim and width == stage.channels,
                )
                width = stage.channels

    def sides(self) -> list[int]:
        """Positions along one side of the map after the stem and after each stage."""
        sides = [side(self.resolution, self.stem.stride)]
        for stage in self.stages:
            sides.append(side(sides[-1], stage.stride, stage.trim))
        return sides

    @property
    def head_hidden(self) -> int:
        """Width of the head's expansion."""
        return round8(self.stages[-1].channels * self.head.expand)

    @property
    def stride(self) -> int:
        """Input pixels per pixel of the last feature map, along one side."""
        return math.prod((self.stem.stride, *(s.stride for s in self.stages)))

    def to_slots(self) -> dict[str, Value]:
        """Returns the network as one flat dict, `stage2_kernel_first` and so on."""
        slots: dict[str, Value] = {"resolution": self.resolution}
        parts: dict[str, Stem | Stage | Head] = {"stem": self.stem, "head": self.head}
        parts |= {f"stage{s}": stage for s, stage in enumerate(self.stages, start=1)}
        for part, spec in parts.items():
            slots |= {f"{part}_{k}": v for k, v in dataclasses.asdict(spec).items()}
        return slots

    @classmethod
    def from_slots(cls, slots: SlotValues, image_channels: int, num_classes: int) -> "ArchSpec":
        """Inverse of `to_slots`, for the images and classes of a dataset."""
        stages = range(1, stage_count(slots) + 1)
        return cls(
            resolution=slots["resolution"],
            image_channels=image_channels,
            num_classes=num_classes,
            stem=part_of(slots, "stem", Stem),
            stages=tuple(part_of(slots, f"stage{s}", Stage) for s in stages),
            head=part_of(slots, "head", Head),
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns plain, nested data, ready for JSON."""
        return dataclasses.asdict(self) | {"stages": [dataclasses.asdict(s) for s in self.stages]}

    @classmethod
    def from_dict(cls, data: Any) -> "ArchSpec":
        """Inverse of `to_dict`; raises `SpaceError` naming the field that breaks a rule."""
        fields = _fields(cls, data, "architecture")
        stages = fields["stages"]
        if not isinstance(stages, list) or not 0 < len(stages) <= MOST_STAGES:
            raise SpaceError(
                f"`stages` must be a non-empty list of up to {MOST_STAGES} stages, got "
                f"{shown(stages)}"
            )
        fields["stem"] = Stem(**_fields(Stem, fields["stem"], "stem"))
        fields["head"] = Head(**_fields(Head, fields["head"], "head"))
        fields["stages"] = tuple(
            Stage(**_fields(Stage, stage, f"stage{s}")) for s, stage in enumerate(stages, start=1)
        )
        arch = cls(**fields)
        arch.check()
        return arch

    def check(self) -> None:
        """Raises `SpaceError` naming the field that breaks a rule."""
        for slot, value in self.to_slots().items():
            check_slot(slot, value)
        for name in ("image_channels", "num_classes"):
            check_slot(name, getattr(self, name))
        for s, size in enumerate(self.sides()):
            if size < 1:
                raise SpaceError(
                    f"`resolution` = {self.resolution} leaves nothing of the map after stage {s}, "
                    "whose convolution is not padded fully (`trim`)"
                )


def stage_count(slots: Iterable[str]) -> int:
    """Number of stages of a network, given the names of its slots."""
    return sum(1 for slot in slots if slot.startswith("stage") and slot.endswith("_depth"))


def part_of(slots: SlotValues, name: str, kind: type[Part]) -> Part:
    """Builds the stem, the head or a stage (`stage2`) from slots of a network."""
    return kind(**{f.name: slots[f"{name}_{f.name}"] for f in dataclasses.fields(kind)})


def map_side(slots: SlotValues, stage: int) -> Any:
    """Positions along one side of the map after a stage (0: the stem), of numbers or arrays."""
    size = side(slots["resolution"], slots["stem_stride"])
    for s in range(1, stage + 1):
        size = side(size, slots[f"stage{s}_stride"], slots[f"stage{s}_trim"])
    return size


def side(size: Any, stride: Any, trim: Any = 0) -> Any:
    """Positions along one side after a convolution with padding (k-1)/2 - trim, for any k."""
    return (size - 1 - 2 * trim) // stride + 1


def round8(width: float) -> int:
    """Rounds a width to the nearest multiple of 8, never below 95 % of it (official networks)."""
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.95 * width else rounded


def se_width(hidden: int, expand: float) -> int:
    """Width of the squeeze, about a quarter of the block's input (official networks)."""
    return round8(int(hidden * 0.25 / expand))


def check_slot(slot: str, value: Any) -> None:
    """Raises `SpaceError` if `value` can never stand in `slot`, whatever the space."""
    field = slot.removesuffix("_first").removesuffix("_rest").rpartition("_")[2]
    if field == "activation":
        rule, good = f"one of {list(ACTIVATIONS)}", value in ACTIVATIONS
    elif field == "se":
        rule, good = "true or false", isinstance(value, bool)
    elif field == "stride":
        rule, good = "1 or 2", _is_int(value) and value in (1, 2)
    else:
        low, high = int(field != "trim"), _LARGEST[field]
        kind = {"expand": "a number", "kernel": "an odd integer"}.get(field, "an integer")
        rule = f"{kind} from {low} to {high:,}"
        number = _is_int(value) or (field == "expand" and isinstance(value, float))
        good = number and low <= value <= high and (field != "kernel" or value % 2 == 1)
    if not good:
        raise SpaceError(f"`{slot}` must be {rule}, got {shown(value)}")


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _fields(kind: type, data: Any, where: str) -> dict[str, Any]:
    names = [f.name for f in dataclasses.fields(kind)]
    if not isinstance(data, dict):
        raise SpaceError(f"{where} must be an object with the fields {names}, got {shown(data)}")
    for name in data:
        if name not in names:
            raise SpaceError(f"{where} has no field `{one_line(name)}`{nearest(name, names)}")
    missing = [
        f.name
        for f in dataclasses.fields(kind)
        if f.name not in data and f.default is dataclasses.MISSING
    ]
    if missing:
        raise SpaceError(f"{where} lacks the fields {missing}; it has {list(data)}")
    return dict(data)
