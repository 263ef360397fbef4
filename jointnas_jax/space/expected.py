"""What is expected of a knob before anything is trained, next to its costs.

It is knowledge of networks and of the short trainings of a search; `docs/predictor.rst` has the
evidence.
"""

from typing import NamedTuple

import numpy as np

from jointnas_jax.space.knobs import Knob
from jointnas_jax.space.vectors import VectorSpace


class Expected(NamedTuple):
    """What is expected of the values of a knob.

    Attributes:
      centre: where in its range a number is best, in [0, 1].
      share: how much the distance from there matters, beside that of a number of an architecture.
      rise: how much better the largest value is than the smallest, in standard deviations of the
        scores.
    """

    centre: float
    share: float
    rise: float

    @classmethod
    def of(cls, knob: Knob, *, recipe: bool) -> "Expected":
        """What is expected of a knob of the recipe or of the architecture."""
        # People set ranges wide enough; what can be 0 can be off, such as a drop rate.
        centre = 0.125 if knob.ordinal and knob.values[0] == 0 else 0.5
        name = knob.name.removesuffix("_first").removesuffix("_rest")
        if name.startswith("stage") and name.endswith("_kernel"):
            # A depthwise kernel costs little.
            return cls(centre, 1.0, 0.35)
        if not recipe:
            return cls(centre, 1.0, 0.0)
        if name == "lr":
            return cls(0.65, 4.0, 0.0)
        if name == "mixup":
            return cls(0.0, 4.0, 0.0)
        return cls(centre, 1.5, 0.3 if name == "weight_decay" else 0.0)


class ExpectedFeatures(NamedTuple):
    """What is expected of the F features of a space, see `Expected`.

    Attributes:
      centres, shares: `float64[F]`, of no meaning for choices.
      rises: `float64[F]`, what is expected of a feature of 1 beside one of 0; of a choice 0 in the
        mean.
    """

    centres: np.ndarray
    shares: np.ndarray
    rises: np.ndarray

    @classmethod
    def of(cls, space: VectorSpace, *, first: int = 0) -> "ExpectedFeatures":
        """Of the features of a space, behind so many constant ones."""
        rows = [(0.5, 0.0, 0.0)] * first
        for i, knob in enumerate(space.knobs):
            centre, share, rise = Expected.of(knob, recipe=i >= len(space.arch_knobs))
            rises = [rise] if knob.ordinal else rise * (_ranks(knob) - 0.5)
            rows += [(centre, share, float(rise)) for rise in rises]
        return cls(*np.array(rows).T)


def _ranks(knob: Knob) -> np.ndarray:
    """Places of the values of a choice by size, `float64[V]` from 0 to 1.

    Where they are no numbers .5 each.
    """
    values = knob.values
    if len(values) == 1 or any(isinstance(value, str | bool) for value in values):
        return np.full(len(values), 0.5)
    return np.argsort(np.argsort(values)) / (len(values) - 1)
