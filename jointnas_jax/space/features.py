"""Feature vectors of candidates, as a table that any array library can gather from.

Each knob value owns one row: a one-hot vector for a choice, one number in [0, 1] for an ordinal
knob (paper section 3.2). The features of a candidate are the sum of the rows of its values.
"""

import dataclasses
from typing import Any

import numpy as np

from jointnas_jax.space.joint import JointSpace
from jointnas_jax.space.knobs import Knob


@dataclasses.dataclass(frozen=True)
class FeatureTable:
    """Rows of all knob values of a space.

    Attributes:
      offsets: `int32[K]`, the first row of each knob.
      rows: `float32[S, F]`, S = number of values of all knobs.
      arch_width: the first `arch_width` of the F features describe the architecture. A space with a
        fixed architecture has one constant feature there, so that the encoder has an input.
      groups: `int32[F]`, the knob of each feature.
      scales: `float32[F]`, factors at which two values of a choice, or the ends of an ordinal knob,
        are at distance 1.
    """

    offsets: np.ndarray
    rows: np.ndarray
    arch_width: int
    groups: np.ndarray
    scales: np.ndarray

    @classmethod
    def of(cls, space: JointSpace) -> "FeatureTable":
        """Builds the table of a space."""
        widths = [1 if knob.ordinal else len(knob.values) for knob in space.knobs]
        arch_width = sum(widths[: len(space.arch_knobs)])
        padding = 0 if arch_width else 1
        rows = np.zeros((int(space.cardinalities.sum()), sum(widths) + padding), np.float32)
        row, column = 0, padding
        for knob, width in zip(space.knobs, widths, strict=True):
            rows[row : row + len(knob.values), column : column + width] = _knob_rows(knob)
            row, column = row + len(knob.values), column + width
        offsets = np.concatenate([[0], np.cumsum(space.cardinalities)[:-1]]).astype(np.int32)
        # A constant feature belongs to the first knob, which it cannot disturb.
        groups = np.repeat(np.arange(len(widths)), widths)
        groups = np.concatenate([np.zeros(padding, int), groups]).astype(np.int32)
        scales = np.repeat([1.0 if w == 1 else 2**-0.5 for w in widths], widths)
        scales = np.concatenate([np.ones(padding), scales]).astype(np.float32)
        return cls(offsets, rows, arch_width + padding, groups, scales)

    def __call__(self, vectors: Any) -> tuple[Any, Any]:
        """Features of index vectors `int32[..., K]`, NumPy or JAX, also under `jit`.

        Returns:
          `float32[..., A]` for the architecture and `float32[..., R]` for the recipe.
        """
        xp = vectors.__array_namespace__()
        features = xp.asarray(self.rows)[vectors + self.offsets].sum(axis=-2)
        return features[..., : self.arch_width], features[..., self.arch_width :]


def _knob_rows(knob: Knob) -> np.ndarray:
    if not knob.ordinal:
        return np.eye(len(knob.values), dtype=np.float32)
    values = np.array(knob.values, np.float64)
    return ((values - values[0]) / (values[-1] - values[0]))[:, None].astype(np.float32)
