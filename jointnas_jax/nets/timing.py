"""Times networks, and their pieces, on a device: one compiled forward pass, as it is deployed.

A piece is timed inside a loop of one program, so that neither a call's overhead nor the clock's
resolution matters. The inputs of a turn depend on the turn before: nothing moves out of the loop,
where a piece would seem cheaper than it is in a network. The cost of loop and call is timed without
a piece, and subtracted.

Other work on the machine can only make a call longer. So the least of many calls counts, spread
over rounds through all programs of a group: a disturbance hits all of them alike.
"""

import concurrent.futures
import dataclasses
import functools
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jointnas_jax.nets import conv
from jointnas_jax.nets.cost import COSTS, by_part
from jointnas_jax.nets.init import initial_variables
from jointnas_jax.nets.latency import BLOCK, STEM, Piece
from jointnas_jax.nets.network import Network, NetworkPart
from jointnas_jax.space import ArchSpec

# Rounds through the programs of a group, and calls of each program in a round.
_ROUNDS, _CALLS = 12, 8
# Target seconds and most turns of the loop over a piece. Short loops are disturbed less often: all
# threads of all turns must find a free core.
_LOOP_SECONDS, _MOST_TURNS = 5e-4, 32
# Guesses for the number of turns: seconds of the smallest piece, multiply-adds in a second; and
# seconds to compile a piece.
_FIXED_SECONDS, _RATE, _COMPILE_SECONDS = 1e-5, 2e9, 0.3

Call = Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class Setting:
    """Where and how a network runs.

    A trained model uses the lowering `conv` on every device: images come one by one, and the
    lowering of training on CPU is for many.
    """

    device: jax.Device
    lowering: str = "conv"  # see `nets/conv.py`
    dtype: str = "float32"  # dtype of feature maps

    @property
    def name(self) -> str:
        """Everything that timings depend on besides the network."""
        kind = self.device.device_kind
        return f"{kind}, jax {jax.__version__}, {self.dtype}, {self.lowering}"


def network_call(arch: ArchSpec, setting: Setting, batch: int) -> Call:
    """Compiles a network and puts weights and images on the device; a call waits for the logits."""
    network = Network(arch, setting.lowering, dtype=setting.dtype)
    program = jax.jit(network.apply)
    variables = jax.device_put(initial_variables(arch, jax.random.key(0)), setting.device)
    images = jax.device_put(_noise(arch, arch.image_channels, batch), setting.device)
    call = lambda: jax.block_until_ready(program(variables, images))
    call()
    return call


def seconds_of(call: Call, repeats: int, most_seconds: float) -> np.ndarray:
    """Seconds of each of `repeats` calls, `float64[n]`; from five on only up to `most_seconds`."""
    times: list[float] = []
    call()  # the first call after other programs takes longer
    while len(times) < repeats and (len(times) < 5 or sum(times) < most_seconds):
        times.append(_seconds(call))
    return np.array(times)


def least_seconds(
    calls: Sequence[Call], rounds: int = _ROUNDS, in_a_round: int = _CALLS
) -> np.ndarray:
    """Least seconds of each of C calls, `float64[C]`."""
    best = np.full(len(calls), np.inf)
    for _ in range(rounds):
        for i, call in enumerate(calls):
            call()  # the caches hold another program's data
            best[i] = min(best[i], *(_seconds(call) for _ in range(in_a_round)))
    return best


def time_networks(archs: Sequence[ArchSpec], setting: Setting) -> np.ndarray:
    """Nanoseconds of networks at batch 1, `float64[N]`."""
    calls = _side_by_side(lambda arch: network_call(arch, setting, batch=1), archs)
    return 1e9 * least_seconds(calls, in_a_round=16)


def time_pieces(pieces: Sequence[Piece], setting: Setting) -> np.ndarray:
    """Nanoseconds of pieces at batch 1, `float64[N]`, in a network; at least 1."""
    turns = [_turns(piece) for piece in pieces]
    lengths = sorted(set(turns))
    calls = _side_by_side(lambda i: _piece_call(pieces[i], turns[i], setting), range(len(pieces)))
    nothing: tuple[np.ndarray, dict] = (np.zeros((1, 8), np.float32), {})
    empty = [_loop_call(lambda x, _: x, nothing, turns=n, device=setting.device) for n in lengths]
    best = least_seconds([*calls, *empty])
    overhead = dict(zip(lengths, best[len(pieces) :], strict=True))
    spent = [(best[i] - overhead[n]) / n for i, n in enumerate(turns)]
    return np.maximum(1e9 * np.array(spent), 1.0)


def expected_seconds(pieces: Sequence[Piece]) -> float:
    """How long `time_pieces` takes, roughly."""
    cores = os.cpu_count() or 1
    looped = sum(max(_LOOP_SECONDS, _guess(piece)) for piece in pieces)
    return len(pieces) * _COMPILE_SECONDS * min(1.0, 2 / cores) + _ROUNDS * (_CALLS + 1) * looped


def _piece_call(piece: Piece, turns: int, setting: Setting) -> Call:
    arch, low = piece.arch, setting.lowering
    module = NetworkPart(arch, low, dtype=setting.dtype, part=piece.kind)
    x = _noise(arch, arch.image_channels if piece.kind == STEM else arch.stem.channels, 1)
    if piece.kind != STEM:
        x = np.asarray(conv.to_map(jnp.asarray(x, setting.dtype), low))
    arguments = (x, initial_variables(arch, jax.random.key(0)))
    apply: Callable[[jax.Array, Any], Any] = lambda x, weights: module.apply(weights, x)
    return _loop_call(apply, arguments, turns=turns, device=setting.device)


def _loop_call(
    function: Callable[[jax.Array, Any], Any],
    arguments: tuple[Any, Any],
    *,
    turns: int,
    device: jax.Device,
) -> Call:
    """Compiles a loop whose turns all call a function of a map and weights with the same values.

    The compiler cannot see that they are the same: a turn adds to each value the product of a
    number from the turn before and a number that is zero at run time only.
    """

    def program(arguments: Any, zero: jax.Array) -> jax.Array:
        def turn(_: int, before: jax.Array) -> jax.Array:
            nothing = before.reshape(-1)[0].astype(jnp.float32) * zero
            x, weights = jax.tree.map(lambda v: v + nothing.astype(v.dtype), arguments)
            return function(x, weights)

        x, weights = arguments
        result = jax.eval_shape(function, x, weights)
        return lax.fori_loop(0, turns, turn, jnp.zeros(result.shape, result.dtype))

    compiled = jax.jit(program)
    placed, zero = jax.device_put((arguments, np.float32(0)), device)
    call = lambda: jax.block_until_ready(compiled(placed, zero))
    call()
    return call


def _side_by_side(function: Callable[[Any], Call], items: Sequence[Any]) -> list[Call]:
    """Compiles on all cores."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(function, items))


def _turns(piece: Piece) -> int:
    """Turns of the loop over a piece: a power of two, so that few empty loops serve all."""
    return 2 ** int(np.log2(np.clip(_LOOP_SECONDS / _guess(piece), 2, _MOST_TURNS)))


@functools.lru_cache(maxsize=2**16)
def _guess(piece: Piece) -> float:
    part = {STEM: 0, BLOCK: 1}.get(piece.kind, 2)
    return _FIXED_SECONDS + float(by_part(piece.arch)[part, COSTS.index("macs")]) / _RATE


def _noise(arch: ArchSpec, channels: int, batch: int) -> np.ndarray:
    """`float32[batch, R, R, channels]`: zeros could be a special case for the hardware."""
    shape = (batch, arch.resolution, arch.resolution, channels)
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def _seconds(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
