"""What compiling and training cost on a device: constants, scaled by a measurement of a second."""

import contextlib
import dataclasses
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
from jointnas_jax.space import ArchSpec, Head, Stage, Stem


@dataclasses.dataclass(frozen=True)
class Speed:
    """What compiling and training in one kind of program cost.

    Attributes:
      compile_fixed: seconds to compile a program without blocks.
      compile_block: seconds for each block.
      step_block: seconds per step and block that do not depend on its size.
    """

    compile_fixed: float
    compile_block: float
    step_block: float


@dataclasses.dataclass(frozen=True)
class Machine:
    """What compiling and training cost on a kind of device.

    Attributes:
      rate: operations per second and device in training.
      exact: programs of one architecture.
      envelope: programs of an envelope.
    """

    rate: float
    exact: Speed
    envelope: Speed

    def compiling_fast(self) -> "Machine":
        """The machine with `train.fast_compile`, which acts on exact programs.

        Measured on three candidates of the digits space: 3.4 CPU seconds for 6.0 to 6.6, steps of
        2.7 to 2.9 ms for 2.4.
        """
        exact = self.exact
        return dataclasses.replace(
            self,
            exact=Speed(exact.compile_fixed / 2, exact.compile_block / 2, 1.2 * exact.step_block),
        )

    def scaled(self, compiling: float, training: float) -> "Machine":
        """A machine on which compiling and training take so many times as long."""
        scale = lambda s: Speed(
            s.compile_fixed * compiling, s.compile_block * compiling, s.step_block * training
        )
        return Machine(self.rate / training, scale(self.exact), scale(self.envelope))


# Fitted by eye to runs on two CPU cores. For accelerators a guess on the safe side.
CPU = Machine(rate=3e10, exact=Speed(3.0, 1.2, 8e-4), envelope=Speed(2.5, 1.2, 1e-3))
ACCELERATOR = Machine(rate=2e12, exact=Speed(10.0, 1.5, 1e-4), envelope=Speed(10.0, 1.5, 1e-4))

# A small network, to compile and train for comparison, and what it takes where the constants are
# from: seconds to compile, seconds of a step. For accelerators a guess that fits the other one.
_PROBE = ArchSpec(16, 3, 10, Stem(16), (Stage(24, 2, 5, 3, 3, 3),), Head(channels=64, expand=2))
_PROBE_BATCH = 64
_CPU_PROBE = (1.6, 0.018)
_ACCELERATOR_PROBE = (13.0, 1.0)


def machine_of(device: jax.Device, scales: tuple[float, float]) -> Machine:
    """What compiling and training cost on a device, given its `measured_scales`."""
    return (CPU if device.platform == "cpu" else ACCELERATOR).scaled(*scales)


def measured_scales(device: jax.Device, folder: Path) -> tuple[float, float]:
    """How many times as long as by the constants compiling and training take on a device.

    Measured once on each machine and kept in a file, in whole powers of two: so a study plans the
    same whenever it runs there, whatever else the machine does.

    Args:
      device: of the candidates.
      folder: for the file.
    """
    on_cpu = device.platform == "cpu"
    file = folder / "machine.json"
    name = f"{device.device_kind}, jax {jax.__version__}"
    known = _read(file)
    if name not in known:
        compiling, training = (
            2.0 ** round(math.log2(seconds / usual))
            for seconds, usual in zip(
                _probe(device), _CPU_PROBE if on_cpu else _ACCELERATOR_PROBE, strict=True
            )
        )
        # So small a network says nothing about the speed of an accelerator.
        known[name] = [compiling, training if on_cpu else 1.0]
        with contextlib.suppress(OSError):  # then the next study measures again
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            file.write_text(json.dumps(known), encoding="utf-8")
    compiling, training = known[name]
    return compiling, training


def _read(file: Path) -> dict[str, list[float]]:
    """What was measured before; nothing if there is no such file, or not in this form."""
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
        scales = {str(k): [float(c), float(t)] for k, (c, t) in known.items()}
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return {}
    return {k: v for k, v in scales.items() if all(0 < s < math.inf for s in v)}


def _probe(device: jax.Device) -> tuple[float, float]:
    """Seconds to compile a small network, and seconds of a training step of it."""
    network = Network(_PROBE, resolve_lowering("auto"))
    # A number of its own, so that no cache of compiled programs knows it.
    number = float(np.float32(time.time_ns() % 10_000_019))

    def steps(variables: dict, images: jax.Array) -> dict:
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

        return jax.lax.fori_loop(0, 8, step, variables["params"])

    with jax.default_device(device):
        args = (zero_variables(_PROBE), np.ones((_PROBE_BATCH, 16, 16, 3), np.float32))
        start = time.perf_counter()
        program = jax.jit(steps).lower(*args).compile()
        compiled = time.perf_counter()
        jax.block_until_ready(program(*args))
        return compiled - start, (time.perf_counter() - compiled) / 8
