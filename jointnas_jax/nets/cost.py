"""Exact costs of architectures: one network, or many index vectors through a table.

The rule of the official FBNetV3 implementation, which reproduces its published figures: FLOPs are
the weights of each convolution times its output positions, plus the number of inputs of every
adaptive average pool (each SE, the head's, and the 1x1 pool before the classifier). Params are the
weights of convolutions and of the classifier, without biases and BN.

A network's cost is a sum of parts: stem, stages, head. A part depends on few slots, so a table of
its costs over the values of those slots is small, and costs of vectors are gathers and sums.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jointnas_jax.errors import SpaceError
from jointnas_jax.space import ArchSpec, JointSpace, Knob
from jointnas_jax.space.arch import SlotValues, map_side, round8, se_width, side, stage_count

# The costs, in the order of the last axis of every cost array.
COSTS = ("flops", "params", "macs", "params_total")
_FLOPS, _PARAMS, _MACS, _TOTAL = range(4)

# A larger cost does not fit two limbs; see `to_limbs`.
_LARGEST = 2**46
_LIMB = 16


@dataclasses.dataclass(frozen=True)
class Costs:
    """Costs of one network."""

    flops: int  # by the official rule, one per multiply-add
    params: int  # weights of convolutions and classifier
    macs: int  # multiply-adds of convolutions and classifier only
    params_total: int  # all trainable numbers, with biases and BN scale and shift


def count(arch: ArchSpec) -> Costs:
    """Returns the exact costs of one network."""
    columns = zip(COSTS, by_part(arch).T, strict=True)
    return Costs(**{name: sum(map(int, column)) for name, column in columns})


def by_part(arch: ArchSpec) -> np.ndarray:
    """Returns the exact costs of stem, each stage and head, `int64[stages + 2, 4]`."""
    values = {slot: np.asarray(v) for slot, v in arch.to_slots().items() if not isinstance(v, str)}
    parts = _parts(len(arch.stages), arch.image_channels, arch.num_classes)
    return np.array([part(values) for part in parts])


@dataclasses.dataclass(frozen=True)
class CostTable:
    """P costs of all architectures of a space, by gathers."""

    # Positions of the knobs that each part depends on, and their strides in its table.
    knobs: tuple[tuple[np.ndarray, np.ndarray], ...]
    tables: tuple[np.ndarray, ...]  # each int64[rows, P], costs in the order of `names`
    names: tuple[str, ...] = COSTS  # and others added to them (`nets/latency.py`)

    def __post_init__(self) -> None:
        """Raises `SpaceError` if a cost of the largest network is above 2^46."""
        tops = zip(*(table.max(axis=0) for table in self.tables), strict=True)
        largest = max(sum(map(int, cost)) for cost in tops)  # which 64 bits need not hold
        if largest > _LARGEST:
            raise SpaceError(
                f"the largest network of the space costs {largest:,}; no cost may be above 2^46"
            )

    @classmethod
    def of(cls, space: JointSpace) -> "CostTable":
        """Tabulates a space; the FBNetV3 space has under 200,000 rows in all."""
        knobs, tables = [], []
        stages = stage_count(space.arch_slots)
        for part in _parts(stages, space.image_channels, space.num_classes):
            used = _slots_used(part, space)
            sources = {s.name: s for s in used.values() if isinstance(s, Knob)}
            cards = [len(s.values) for s in sources.values()]
            axes = {name: axis for axis, name in enumerate(sources)}
            values = {}
            for slot, source in used.items():
                shape = [1] * len(cards)
                if isinstance(source, Knob):
                    shape[axes[source.name]] = -1
                    values[slot] = np.array(source.values).reshape(shape)
                else:
                    values[slot] = np.array(source).reshape(shape)
            costs = np.broadcast_to(part(values), (len(COSTS), *cards))
            tables.append(costs.reshape(len(COSTS), -1).T.copy())
            knobs.append(knob_strides(space, sources.values()))
        return cls(tuple(knobs), tuple(tables))

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Returns exact costs `int64[N, P]`, in the order of `names`, of vectors `int32[N, K]`."""
        costs = np.zeros((len(vectors), len(self.names)), np.int64)
        for (positions, strides), table in zip(self.knobs, self.tables, strict=True):
            costs += table[vectors[:, positions] @ strides]
        return costs

    def logs(self, names: Sequence[str]) -> Callable[[Any], Any]:
        """Returns the logarithms of some costs as features, for use under `jit`.

        A function from `int32[N, K]`, NumPy or JAX, to `float32[N, len(names)]`.
        """
        parts = [(*part, table.astype(np.float32)) for *part, table in self._parts(names)]

        def logs(vectors: Any) -> Any:
            xp = vectors.__array_namespace__()
            total = xp.zeros((vectors.shape[0], len(names)), xp.float32)
            for positions, strides, table in parts:
                rows = (vectors[:, positions] * strides).sum(axis=-1)
                total = total + xp.asarray(table)[rows]
            return xp.log(total)

        return logs

    def within(self, budget: Mapping[str, int]) -> Callable[[Any], Any]:
        """Returns the exact test of a budget such as `{"flops": 1_500_000}`, under `jit`, too.

        A function from `int32[N, K]`, NumPy or JAX, to `bool[N]`.
        """
        exact = self.limbs(tuple(budget))
        limits = limit_limbs([budget], tuple(budget))[0]
        return lambda vectors: at_most(exact(vectors), limits)

    def limbs(self, names: Sequence[str]) -> Callable[[Any], Any]:
        """Returns some exact costs for use under `jit`, where JAX has no int64 by default.

        A function from `int32[N, K]`, NumPy or JAX, to limbs `int32[N, len(names), 2]`.
        """
        parts = [(*part, to_limbs(table)) for *part, table in self._parts(names)]

        def limbs(vectors: Any) -> Any:
            xp = vectors.__array_namespace__()
            total = xp.zeros((vectors.shape[0], len(names), 2), xp.int32)
            for positions, strides, table in parts:
                rows = (vectors[:, positions] * strides).sum(axis=-1)
                total = total + xp.asarray(table)[rows]
            high, low = total[..., 0], total[..., 1]
            return xp.stack([high + (low >> _LIMB), low & (2**_LIMB - 1)], axis=-1)

        return limbs

    def shrink(self, names: Sequence[str]) -> Callable[[Any, Any], Any]:
        """Returns a repair of children over a budget on some costs that their parents satisfy.

        Where a larger index of a knob never costs less, a child keeps the smaller of its index and
        its parent's, and vice versa; where neither holds, it gets the parent's. So it costs no more
        than the parent. A function from children and parents to `int32[C, K]`, NumPy or JAX.
        """
        parts = self._parts(names)
        width = 1 + max((int(used.max()) for used, _, _ in parts if len(used)), default=0)
        never_less, never_more = np.ones(width, bool), np.ones(width, bool)
        for positions, strides, table in parts:
            cards = [n // m for n, m in zip([len(table), *strides], strides, strict=False)]
            grid = table.reshape(*cards, len(names))
            for axis, position in enumerate(positions):
                steps = np.diff(grid, axis=axis)
                never_less[position] &= bool((steps >= 0).all())
                never_more[position] &= bool((steps <= 0).all())

        def shrink(children: Any, parents: Any) -> Any:
            xp = children.__array_namespace__()
            # Recipe knobs come last, and are in no table.
            free = children.shape[1] - width
            less = np.concatenate([never_less, np.ones(free, bool)])
            more = np.concatenate([never_more, np.ones(free, bool)])
            capped = xp.where(~more, xp.minimum(children, parents), children)
            return xp.where(~less, xp.maximum(capped, parents), capped)

        return shrink

    def _parts(self, names: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Knobs, strides and `int64[rows, names]` of each part that adds to one of some costs."""
        columns = [self.names.index(name) for name in names]
        parts = zip(self.knobs, self.tables, strict=True)
        chosen = [(*knobs, table[:, columns]) for knobs, table in parts]
        return [part for part in chosen if part[2].any()]


def knob_strides(space: JointSpace, knobs: Iterable[Knob]) -> tuple[np.ndarray, np.ndarray]:
    """Positions of knobs in a vector, and strides in a table of their values, `int32[n]` each."""
    knobs = list(knobs)
    strides = [math.prod(len(k.values) for k in knobs[a + 1 :]) for a in range(len(knobs))]
    positions = [space.positions[knob.name] for knob in knobs]
    return np.array(positions, np.int32), np.array(strides, np.int32)


def map_values(arch: Any, tile: int = 1) -> int:
    """Values of the maps of an `ArchSpec` or envelope that training keeps, per image.

    Channels are padded to multiples of `tile`.
    """
    padded = lambda channels: -(-channels // tile) * tile
    size = side(arch.resolution, arch.stem.stride)
    values = padded(arch.stem.channels) * size**2
    for block in arch.blocks():
        before, size = size, side(size, block.stride, block.trim)
        values += 2 * padded(block.hidden) * (before**2 + size**2)
        values += padded(block.out_channels) * size**2
    return values


def training_bytes(arch: Any, batch: int, value_bytes: int = 4, copies: float = 2.0) -> int:
    """Memory of training an `ArchSpec` or envelope, roughly: maps for the gradient, and weights.

    The backward pass needs more than the maps that are kept for it; `copies` times as much in all.
    """
    weights = 0
    for block in arch.blocks():
        weights += block.hidden * (block.in_channels + block.out_channels)
    weights += arch.head_hidden * (block.out_channels + arch.head.channels)
    weights += arch.head.channels * arch.num_classes
    # Weights, gradients, two optimizer states, the average and a copy, all float32.
    return int(value_bytes * copies * map_values(arch) * batch) + 4 * 6 * weights


def inference_bytes(arch: ArchSpec, batch: int, value_bytes: int = 4) -> int:
    """Memory of a forward pass, roughly: all weights, and the maps of the largest block."""
    size = side(arch.resolution, arch.stem.stride)
    largest = 0
    for block in arch.blocks():
        before, size = size, side(size, block.stride, block.trim)
        maps = (block.in_channels + block.hidden) * before**2
        largest = max(largest, maps + (block.hidden + block.out_channels) * size**2)
    return value_bytes * largest * batch + 4 * count(arch).params_total


def to_limbs(costs: Any) -> np.ndarray:
    """Cuts costs `int[...]` up to 2^46 into a high and a low limb of 16 bits: `int32[..., 2]`.

    Sums of low limbs of a few parts do not overflow, so int32 arithmetic stays exact.
    """
    costs = np.asarray(costs, np.int64)
    return np.stack([costs >> _LIMB, costs & (2**_LIMB - 1)], axis=-1).astype(np.int32)


def limit_limbs(budgets: Sequence[Mapping[str, int]], names: Sequence[str]) -> np.ndarray:
    """Limits for `at_most`, `int32[budgets, names, 2]`; a cost without a limit gets 2^46."""
    return to_limbs([[min(b.get(n, _LARGEST), _LARGEST) for n in names] for b in budgets])


def at_most(costs: Any, limits: Any) -> Any:
    """Compares limbs: whether every cost `int32[N, P, 2]` is at most its limit `int32[P, 2]`."""
    high, low = costs[..., 0], costs[..., 1]
    return ((high < limits[:, 0]) | ((high == limits[:, 0]) & (low <= limits[:, 1]))).all(axis=-1)


# The rules of the networks, on arrays.
_round8 = np.vectorize(round8, otypes=[np.int64])
_se_width = np.vectorize(se_width, otypes=[np.int64])


# -- the counting rule ----------------------------------------------------------------------------
# Every function maps slots to `int64[4, ...]`: numbers of one network, or arrays of many values.


def _parts(
    stages: int, image_channels: int, num_classes: int
) -> list[Callable[[SlotValues], np.ndarray]]:
    stem = lambda v: _stem(v, image_channels)
    middle = [lambda v, s=s: _stage(v, s) for s in range(1, stages + 1)]
    return [stem, *middle, lambda v: _head(v, stages, num_classes)]


def _stem(v: SlotValues, image_channels: int) -> np.ndarray:
    weights = v["stem_kernel"] ** 2 * image_channels * v["stem_channels"]
    return conv_cost(weights, map_side(v, 0) ** 2, v["stem_channels"])


def _stage(v: SlotValues, s: int) -> np.ndarray:
    name = f"stage{s}"
    before = v["stem_channels"] if s == 1 else v[f"stage{s - 1}_channels"]
    width = v[f"{name}_channels"]
    after = dict(size_out=map_side(v, s), se=v[f"{name}_se"])
    first = block_cost(
        before,
        width,
        kernel=v[f"{name}_kernel_first"],
        expand=v[f"{name}_expand_first"],
        size_in=map_side(v, s - 1),
        **after,
    )
    rest = block_cost(
        width,
        width,
        kernel=v[f"{name}_kernel_rest"],
        expand=v[f"{name}_expand_rest"],
        size_in=after["size_out"],
        **after,
    )
    return first + (v[f"{name}_depth"] - 1) * rest


def block_cost(
    c_in: Any, c_out: Any, *, kernel: Any, expand: Any, size_in: Any, size_out: Any, se: Any
) -> np.ndarray:
    """Costs `int64[4, ...]` of an MBConv block on a map of `size_in` x `size_in` positions."""
    hidden = _round8(c_in * expand)
    positions = size_out**2
    costs = np.where(hidden == c_in, 0, conv_cost(c_in * hidden, size_in**2, hidden))
    costs = costs + conv_cost(kernel**2 * hidden, positions, hidden)
    costs = costs + conv_cost(hidden * c_out, positions, c_out)
    squeeze = _se_width(hidden, expand)
    weights, biases = 2 * hidden * squeeze, hidden + squeeze
    gate = _stack(
        flops=weights + positions * hidden,
        params=weights,
        macs=weights,
        params_total=weights + biases,
    )
    return costs + np.where(se, gate, 0)


def _head(v: SlotValues, stages: int, num_classes: int) -> np.ndarray:
    width, channels = v[f"stage{stages}_channels"], v["head_channels"]
    hidden, positions = _round8(width * v["head_expand"]), map_side(v, stages) ** 2
    weights, pools = hidden * channels, positions * hidden + channels
    costs = conv_cost(width * hidden, positions, hidden) + _stack(
        flops=weights + pools, params=weights, macs=weights, params_total=weights
    )
    return costs + dense_cost(channels, num_classes)


def dense_cost(inputs: Any, outputs: Any) -> np.ndarray:
    """Costs `int64[4, ...]` of a dense layer with biases."""
    weights = inputs * outputs
    return _stack(flops=weights, params=weights, macs=weights, params_total=weights + outputs)


def conv_cost(weights: Any, positions: Any, c_out: Any) -> np.ndarray:
    """Costs `int64[4, ...]` of a convolution without bias, with BN behind it."""
    macs = weights * positions
    return _stack(flops=macs, params=weights, macs=macs, params_total=weights + 2 * c_out)


def _stack(**costs: Any) -> np.ndarray:
    arrays = [np.asarray(costs[name], np.int64) for name in COSTS]
    return np.stack(np.broadcast_arrays(*arrays))


def _slots_used(part: Callable[[SlotValues], np.ndarray], space: JointSpace) -> dict[str, Any]:
    """The slots that a part reads, by watching it read one network."""
    sample = {
        slot: source.values[0] if isinstance(source, Knob) else source
        for slot, source in space.arch_slots.items()
    }

    class Watch(dict):
        def __missing__(self, slot: str) -> np.ndarray:
            self[slot] = np.asarray(sample[slot])
            return self[slot]

    seen = Watch()
    part(seen)
    return {slot: space.arch_slots[slot] for slot in seen}
