"""What compiling and training cost on a device: constants, scaled by a measurement of a second."""

import contextlib
import dataclasses
import functools
import json
import math
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jointnas_jax.nets.conv import resolve_lowering
from jointnas_jax.nets.init import zero_variables
from jointnas_jax.nets.network import Network
from jointnas_jax.runtime.chips import CHIPS, Chip
from jointnas_jax.runtime.compiler import compiler_options
from jointnas_jax.space import ArchSpec, Head, Stage, Stem


@dataclasses.dataclass(frozen=True)
class Speed:
    """What compiling and training in one kind of program cost.

    Attributes:
      compile_fixed: seconds to compile a program without blocks.
      compile_block: seconds for each block, see `CostModel.growth`.
      step_block: seconds per step and block that depend neither on its size nor on lanes.
      step_fixed: likewise for each step.
      value: seconds for each value of a map, over all passes of a step.
    """

    compile_fixed: float
    compile_block: float
    step_block: float
    step_fixed: float = 0.0
    value: float = 0.0


@dataclasses.dataclass(frozen=True)
class CostModel:
    """What compiling and training cost on a kind of device.

    Attributes:
      rate: operations per second and device in training.
      exact: programs of one architecture.
      envelope: programs of an envelope.
      growth: a block with maps of n million values takes n to this power as long to compile as one
        with a million.
      tile: channels of maps are padded to multiples of it.
      source: what the constants are of.
    """

    rate: float
    exact: Speed
    envelope: Speed
    growth: float = 0.0
    tile: int = 1
    source: str = ""

    def compiling_fast(self) -> "CostModel":
        """The model with `train.fast_compile`, which acts on exact programs.

        Measured on three candidates of the digits space: 3.4 CPU seconds for 6.0 to 6.6, steps of
        2.7 to 2.9 ms for 2.4.
        """
        exact = self.exact
        return dataclasses.replace(
            self,
            exact=Speed(exact.compile_fixed / 2, exact.compile_block / 2, 1.2 * exact.step_block),
        )

    def of_chip(self, chip: Chip, base: Chip) -> "CostModel":
        """The model of another chip than `base`, by the speed of its memory and matrix units."""
        slower = base.bandwidth / chip.bandwidth
        scale = lambda speed: dataclasses.replace(speed, value=speed.value * slower)
        return dataclasses.replace(
            self,
            rate=self.rate * chip.peak / base.peak,
            exact=scale(self.exact),
            envelope=scale(self.envelope),
        )

    def scaled(self, compiling: float, training: float) -> "CostModel":
        """The model of a device on which compiling and training take so many times as long."""

        def scale(s: Speed) -> Speed:
            return Speed(
                s.compile_fixed * compiling,
                s.compile_block * compiling,
                s.step_block * training,
                s.step_fixed * training,
                s.value * training,
            )

        return dataclasses.replace(
            self,
            rate=self.rate / training,
            exact=scale(self.exact),
            envelope=scale(self.envelope),
        )


# Fitted by eye to runs on two CPU cores.
CPU = CostModel(rate=6e10, exact=Speed(3.0, 1.0, 4e-4), envelope=Speed(2.0, 0.85, 8e-4))

# By the compilers of two chips that were not there (`benchmarks/accelerators.py`, whose numbers are
# in `benchmarks/data/accelerators/`). Seconds to compile are those of one core. Steps of a TPU are
# its compiler's estimates; on a GPU a kernel is taken to last 2 microseconds, which is a guess.
TPU = CostModel(
    rate=8e12,
    exact=Speed(3.0, 3.3, 2.5e-5, step_fixed=5e-5, value=5e-12),
    envelope=Speed(3.0, 7.0, 4e-5, step_fixed=1e-4, value=2.4e-11),
    growth=0.3,
    tile=128,
    source="libtpu 0.0.52 and jax 0.10.2, compiled for v5e",
)
GPU = CostModel(
    rate=1e14,
    exact=Speed(9.0, 1.3, 1e-4, step_fixed=7e-5, value=6e-12),
    envelope=Speed(9.0, 2.0, 1e-4, step_fixed=7e-5, value=6e-12),
    source="jax-cuda13-plugin 0.10.2 and cuDNN 9.28, compiled for h200",
)
# So many times the maps that training keeps are in memory at once, by platform.
MAP_COPIES = {"cpu": 2.0, "gpu": 1.24, "tpu": 0.8}

# A small network, to compile and train for comparison, and what it takes where the constants are
# from: seconds to compile, seconds of a step. For accelerators a guess that fits the other one.
_PROBE = ArchSpec(16, 3, 10, Stem(16), (Stage(24, 2, 5, 3, 3, 3),), Head(channels=64, expand=2))
_PROBE_BATCH = 64
# Whatever else a machine does makes a measurement longer, never shorter: the shortest of a few is
# nearest to what it can do, and comes out the same next time.
_PROBES = 2
_PROBED_STEPS = 8  # in one call
_PROBE_CALLS = 8
_CPU_PROBE = (0.57, 0.0038)
_ACCELERATOR_PROBE = (13.0, 1.0)


def cost_model_of(
    kind: str, speed_factors: tuple[float, float], *, fast_compile: bool
) -> CostModel:
    """The cost model of a kind of device.

    Args:
      kind: chip of `CHIPS`, or the platform of another device.
      speed_factors: see `measured_speed_factors`.
      fast_compile: `config.train.fast_compile`, which acts on CPU.
    """
    if kind == "cpu":
        model = CPU.scaled(*speed_factors)
        return model.compiling_fast() if fast_compile else model
    on_tpu = (CHIPS[kind].platform if kind in CHIPS else kind) == "tpu"
    model, base = (TPU, CHIPS["v5e"]) if on_tpu else (GPU, CHIPS["h200"])
    return model.of_chip(CHIPS.get(kind, base), base).scaled(*speed_factors)


def measured_speed_factors(device: jax.Device, folder: Path) -> tuple[float, float]:
    """How many times as long as by the constants compiling and training take on a device.

    Measured once on each machine and kept in a file, in whole powers of two, so that a study has
    the same programs whenever it runs there.

    Args:
      device: device of the candidates.
      folder: for the file.
    """
    on_cpu = device.platform == "cpu"
    file = folder / "machine.json"
    name = f"{device.device_kind}, jax {jax.__version__}"
    stored = _read(file)
    if name not in stored:
        compiling, training = (
            2.0 ** round(math.log2(seconds / usual))
            for seconds, usual in zip(
                _probe(device), _CPU_PROBE if on_cpu else _ACCELERATOR_PROBE, strict=True
            )
        )
        # So small a network says nothing about the speed of an accelerator.
        stored[name] = (compiling, training if on_cpu else 1.0)
        with contextlib.suppress(OSError):  # then the next study measures again
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            file.write_text(json.dumps(stored), encoding="utf-8")
    return stored[name]


def _read(file: Path) -> dict[str, tuple[float, float]]:
    """Stored measurements; none where there is no such file, or not in this form."""
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        speed_factors = {str(k): (float(c), float(t)) for k, (c, t) in stored.items()}
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return {}
    return {k: v for k, v in speed_factors.items() if all(0 < s < math.inf for s in v)}


def _probe(device: jax.Device) -> tuple[float, float]:
    """Seconds to compile a small network, and seconds of a training step of it."""
    network = Network(_PROBE, resolve_lowering("auto"))

    def steps(variables: dict, images: jax.Array, number: float) -> dict:
        def step(_: int, params: dict) -> dict:
            def loss(params: dict) -> jax.Array:
                kept = variables | {"params": params}
                logits, _ = network.apply(
                    kept,
                    images,
                    train=True,
                    rngs={n: jax.random.key(0) for n in ("dropout", "stochastic_depth")},
                    mutable=["batch_stats"],
                )
                return jnp.square(logits).mean() * number

            return jax.tree.map(jnp.subtract, params, jax.grad(loss)(params))

        return jax.lax.fori_loop(0, _PROBED_STEPS, step, variables["params"])

    options = compiler_options("light", "old_fusion")  # compiles in half the time
    compiling, training = [], []
    with jax.default_device(device):
        args = (zero_variables(_PROBE), np.ones((_PROBE_BATCH, 16, 16, 3), np.float32))
        # A number of its own in each program, so that no cache of compiled programs knows it.
        first = time.time_ns() % 10_000_019
        for number in range(first, first + _PROBES):
            start = time.perf_counter()
            lowered = jax.jit(functools.partial(steps, number=float(number))).lower(*args)
            program = lowered.compile(compiler_options=options)
            compiling.append(time.perf_counter() - start)
            for _ in range(_PROBE_CALLS):
                start = time.perf_counter()
                jax.block_until_ready(program(*args))
                training.append((time.perf_counter() - start) / _PROBED_STEPS)
    return min(compiling), min(training)
