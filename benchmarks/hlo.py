"""What a compiled program does in each step, read from its optimized HLO text.

Counted are operations that a device starts one by one: fusions, convolutions, copies and the like,
those of a loop as often as it runs. On TPU the compiler has written its own estimate beside most of
them, in cycles; gathers, scatters, sorts, asynchronous copies and collectives have none. On GPU an
operation is a kernel, or a call of cuDNN or cuBLAS, and nothing says how long it takes.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_NAME = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r"^([\w\-]+)\(")
_ARRAY = re.compile(r"\b(pred|bf16|[fsuc]\d+)\w*\[([\d,]*)\]")
_OPERAND = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"(?:body|to_apply|calls)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}|(?:true|false)_computation=%?([\w.\-]+)")
_CYCLES = re.compile(r'"estimated_cycles":"?(\d+)')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONSTANT = re.compile(r"s32\[\]\S* constant\((\d+)\)")

# These start nothing on a device.
_FREE = (
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "iota"),
    *("opt-barrier", "partition-id", "replica-id"),
)
COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    shape: str
    opcode: str
    rest: str  # operands and attributes

    @property
    def bytes(self) -> int:
        """Bytes of the result."""
        return _bytes(self.shape)


@dataclasses.dataclass(frozen=True)
class Cost:
    """What computing takes once.

    Attributes:
      operations: operations with an estimate (TPU), or all that a device starts (GPU).
      calls: those of a library such as cuDNN among them.
      cycles: sum of the compiler's estimates.
      traffic: bytes of operands and results.
      unpriced: gathers, scatters, sorts and collectives, which have no estimate.
    """

    operations: float = 0.0
    calls: float = 0.0
    cycles: float = 0.0
    traffic: float = 0.0
    unpriced: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Cost(*(a + b for a, b in pairs))

    def times(self, count: float) -> "Cost":
        """Of so many rounds."""
        return Cost(*(count * value for value in dataclasses.astuple(self)))


class Program:
    """A compiled program's computations."""

    def __init__(self, text: str, platform: str):
        """Reads the text of an executable of a platform, `tpu` or `gpu`."""
        self._platform = platform
        self._computations: dict[str, list[Instruction]] = {}
        self._entry = ""
        current: list[Instruction] = []
        for line in text.splitlines():
            if header := _HEADER.match(line):
                current = self._computations.setdefault(header[2], [])
                self._entry = header[2] if header[1] else self._entry
            elif named := _NAME.match(line):
                current.append(_instruction(named[1], named[2]))
        self._costs: dict[str, Cost] = {}

    @property
    def whole(self) -> Cost:
        """Of all of the program; a loop whose length only the data say counts as one round."""
        return self._cost(self._entry)

    @property
    def step(self) -> Cost:
        """Of one round of the program's longest loop: a training step, or a generation."""
        loops = [i for i in self._computations[self._entry] if i.opcode == "while"]
        bodies = [self._cost(name) for loop in loops for name in _CALLED.findall(loop.rest)]
        return max(bodies, key=lambda cost: (cost.cycles, cost.operations), default=self.whole)

    def collectives(self) -> Iterator[Instruction]:
        """Yields operations that move data between devices."""
        for instructions in self._computations.values():
            for i in instructions:
                if i.opcode.startswith(COLLECTIVES) and not i.opcode.endswith("-done"):
                    yield i

    def _cost(self, name: str) -> Cost:
        if name not in self._costs:
            self._costs[name] = Cost()  # of a computation that calls itself, which none does
            instructions = self._computations.get(name, [])
            sizes = {i.name: i.bytes for i in instructions}
            self._costs[name] = sum((self._of(i, sizes) for i in instructions), Cost())
        return self._costs[name]

    def _of(self, i: Instruction, sizes: Mapping[str, int]) -> Cost:
        if i.opcode == "while":
            return self._cost(_CALLED.findall(i.rest)[0]).times(self._rounds(i))
        if i.opcode == "conditional":
            names = [n for pair in _BRANCHES.findall(i.rest) for n in _names(pair)]
            return max((self._cost(n) for n in names), key=lambda c: (c.cycles, c.operations))
        if i.opcode == "call":
            return self._cost(_CALLED.findall(i.rest)[0])
        if i.opcode in _FREE or i.opcode.endswith("-done") or '"AllocateBuffer"' in i.rest:
            return Cost()
        cycles = _CYCLES.search(i.rest)
        unpriced = i.opcode.startswith(("gather", "scatter", "sort", *COLLECTIVES))
        counts = bool(cycles) or self._platform != "tpu"
        operands = i.rest.partition(")")[0]
        moved = i.bytes + sum(sizes.get(name, 0) for name in set(_OPERAND.findall(operands)))
        return Cost(
            operations=float(counts),
            calls=float(i.opcode == "custom-call" and counts),
            cycles=float(cycles[1]) if cycles else 0.0,
            traffic=float(moved) if counts else 0.0,
            unpriced=float(unpriced and not cycles),
        )

    def _rounds(self, loop: Instruction) -> int:
        """Of a loop; 1 where the data say how many."""
        if known := _TRIPS.search(loop.rest):
            return int(known[1])
        condition = re.search(r"condition=%?([\w.\-]+)", loop.rest)
        lines = self._computations.get(condition[1], []) if condition else []
        limits = [
            int(found[1])
            for i in lines
            if (found := _CONSTANT.search(f"{i.shape} {i.opcode}{i.rest}"))
        ]
        return max(limits, default=1)


def _instruction(name: str, rest: str) -> Instruction:
    """Divides `SHAPE OPCODE(OPERANDS), ATTRIBUTES`."""
    end = _closing(rest) if rest.startswith("(") else rest.find(" ")
    shape, rest = rest[:end].strip(), rest[end:].strip()
    opcode = _OPCODE.match(rest)
    return Instruction(
        name, shape, opcode[1] if opcode else "", rest[opcode.end(1) :] if opcode else ""
    )


def _closing(text: str) -> int:
    """The position behind the bracket that closes the first one."""
    depth = 0
    for position, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return position + 1
    return len(text)


def _names(pair: tuple[str, str]) -> list[str]:
    listed, single = pair
    return [single] if single else [name.strip().lstrip("%") for name in listed.split(",")]


def _bytes(shape: str) -> int:
    """Bytes of all arrays of a shape, without padding."""
    return sum(
        _width(kind) * math.prod(map(int, filter(None, sizes.split(","))))
        for kind, sizes in _ARRAY.findall(shape)
    )


def _width(kind: str) -> int:
    bits = re.search(r"\d+", kind)
    return max(1, int(bits[0]) // 8) if bits else 1
