"""A candidate made larger and smaller by hand, inside of its space.

Width, depth and resolution grow together, in EfficientNet's proportions (`nets/scaling.py`), each
to the nearest value of its knob; everything else, and the recipe, stays.
"""

import numpy as np

from jointnas_jax.nets.scaling import DEPTH, RESOLUTION, WIDTH
from jointnas_jax.space import JointSpace, Knob
from jointnas_jax.strategy.pool import distinct

# Compound coefficients, from 1/1,000 of the FLOPs to 1,000 times.
_STEPS = np.linspace(-10.0, 10.0, 401)


def scaled_vectors(space: JointSpace, vector: np.ndarray) -> np.ndarray:
    """All sizes of a candidate `int32[K]` but its own, `int32[N, K]`."""
    scaled = np.array([_scaled(space, vector, step) for step in _STEPS], np.int32)
    scaled = distinct(space.canonical(scaled))
    return scaled[(scaled != vector).any(axis=1)]


def _scaled(space: JointSpace, vector: np.ndarray, step: float) -> np.ndarray:
    """The vector of a candidate, so many steps larger."""
    scaled = vector.copy()
    for knob in space.arch_knobs:
        position = space.positions[knob.name]
        value = knob.values[vector[position]]
        if knob.name == "resolution":
            scaled[position] = _nearest(knob, value * RESOLUTION**step)
        elif knob.name.endswith("_depth") and value > 1:  # as `nets/scaling.py` leaves them
            scaled[position] = _nearest(knob, value * DEPTH**step)
        elif knob.name.endswith("_channels") and not knob.name.startswith("head"):
            scaled[position] = _nearest(knob, value * WIDTH**step)
    return scaled


def _nearest(knob: Knob, value: float) -> int:
    """Index of the value of a knob that is nearest, as a ratio."""
    return int(np.abs(np.log(np.array(knob.values, float)) - np.log(value)).argmin())
