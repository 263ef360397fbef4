"""Accelerators that a schedule can be for, by what their makers say."""

import dataclasses

_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """A kind of accelerator.

    Attributes:
      kind: how the name begins that JAX has for it (`jax.Device.device_kind`).
      platform: platform of its devices in JAX, `tpu` or `gpu`.
      memory: bytes that a program may use.
      peak: bfloat16 operations per second in matmuls, without sparsity.
      bandwidth: bytes per second to and from its memory.

    Of a v4 chip, which JAX without its megacores takes for two devices, they are those of one.
    """

    kind: str
    platform: str
    memory: int
    peak: float
    bandwidth: float


CHIPS = {
    "v4": Chip("TPU v4", "tpu", int(15.25 * _GIB), 137.5e12, 6e11),
    "v5e": Chip("TPU v5 lite", "tpu", int(15.75 * _GIB), 197e12, 8.19e11),
    "v6e": Chip("TPU v6 lite", "tpu", int(31.25 * _GIB), 918e12, 1.64e12),
    "a100": Chip("NVIDIA A100", "gpu", 80 * 10**9, 312e12, 2.04e12),
    "h200": Chip("NVIDIA H200", "gpu", 141 * 10**9, 989e12, 4.8e12),
}


def chip_of(device_kind: str) -> str | None:
    """The name of a device's chip in `CHIPS`; None where it is none of them."""
    return next((name for name, c in CHIPS.items() if device_kind.startswith(c.kind)), None)
