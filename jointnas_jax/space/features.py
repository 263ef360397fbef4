"""Feature vectors of candidates, by comparisons and products that any array library can do.

A one-hot vector for a choice, one number in [0, 1] for an ordinal knob (paper section 3.2).
"""

import dataclasses
from typing import Any

import numpy as np

from jointnas_jax.space.expected import ExpectedFeatures
from jointnas_jax.space.vectors import VectorSpace

# NumPy's or JAX's, which is not imported here.
Array = Any


@dataclasses.dataclass(frozen=True)
class FeatureTable:
    """From index vectors to the F features of a space, those of the architecture first.

    A space with a fixed architecture has one constant feature there, so that the encoder has an
    input.
    """

    groups: Array  # int32[F], the knob of each feature
    values: Array  # int32[F], the index that a one-hot feature stands for, -1 for an ordinal knob
    factors: Array  # float32[F], factor from the index of an ordinal knob to its number; else 0
    arch_width: int  # number of features of the architecture
    # float32[F], at which two values of a choice, or the ends of an ordinal knob, are 1 apart.
    scales: Array
    # Before any training; None where nothing is.
    expected: ExpectedFeatures | None = None

    @classmethod
    def of(cls, space: VectorSpace) -> "FeatureTable":
        """Builds the table of a space."""
        widths = [1 if knob.ordinal else len(knob.values) for knob in space.knobs]
        values = [[-1] if knob.ordinal else range(len(knob.values)) for knob in space.knobs]
        factors = [1 / max(len(k.values) - 1, 1) if k.ordinal else 0.0 for k in space.knobs]
        scales = [1.0 if width == 1 else 2**-0.5 for width in widths]
        arch_width = sum(widths[: len(space.arch_knobs)])
        # A constant feature belongs to the first knob, which it cannot disturb.
        constant = [] if arch_width else [0]
        groups = np.concatenate([constant, np.repeat(np.arange(len(widths)), widths)])
        return cls(
            groups=groups.astype(np.int32),
            values=np.concatenate([[-1] * len(constant), *values]).astype(np.int32),
            factors=np.concatenate([constant, np.repeat(factors, widths)]).astype(np.float32),
            arch_width=max(arch_width, 1),
            scales=np.concatenate([[1.0] * len(constant), np.repeat(scales, widths)]).astype(
                np.float32
            ),
            expected=ExpectedFeatures.of(space, first=len(constant)),
        )

    def __call__(self, vectors: Array) -> tuple[Array, Array]:
        """Features of vectors `int32[..., K]`, NumPy or JAX, also under `jit`.

        `float32[..., A]` of architectures and `float32[..., R]` of recipes.
        """
        xp = vectors.__array_namespace__()
        index = vectors[..., self.groups]
        numbers = index.astype(np.float32) * self.factors
        features = xp.where(self.values >= 0, (index == self.values).astype(np.float32), numbers)
        return features[..., : self.arch_width], features[..., self.arch_width :]
