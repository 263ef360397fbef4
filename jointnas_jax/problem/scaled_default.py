"""The default candidate made larger and smaller by hand, inside of the space.

What a front has to beat. Width, depth and resolution grow together, in EfficientNet's proportions
(`nets/scaling.py`), each to the nearest value of its knob; everything else, and the recipe, stays.
"""

import numpy as np

from jointnas_jax.nets.scaling import DEPTH, RESOLUTION, WIDTH
from jointnas_jax.problem.problem import Problem
from jointnas_jax.space import Candidate, Knob
from jointnas_jax.strategy.pool import distinct

# Compound coefficients, from 1/1,000 of the FLOPs to 1,000 times.
_STEPS = np.linspace(-10.0, 10.0, 401)


def scaled_default(problem: Problem, costs: list[int]) -> list[Candidate]:
    """The scaled default candidates whose costs are nearest to given ones.

    Args:
      problem: the problem of a study that searches a front.
      costs: of the front, in no order.

    Returns:
      One for each cost, within the budget; each once, by descending cost, and without the default
      candidate itself.
    """
    vector, column = problem.default.vector, problem.costs.names.index(problem.config.front)
    assert vector is not None
    scaled = np.array([_scaled(problem, vector, step) for step in _STEPS])
    scaled = distinct(problem.space.canonical(scaled.astype(np.int32)))
    scaled = scaled[problem.budget_test()(scaled) & (scaled != vector).any(axis=1)]
    if not len(scaled):  # none of its knobs can be scaled
        return []
    logs = np.log(problem.costs(scaled)[:, column])
    nearest = {int(np.abs(logs - np.log(cost)).argmin()) for cost in costs}
    return [problem.candidate(scaled[i]) for i in sorted(nearest, key=lambda i: -logs[i])]


def _scaled(problem: Problem, vector: np.ndarray, step: float) -> np.ndarray:
    """The vector `int[K]` of the default candidate, so many steps larger."""
    scaled = vector.copy()
    for knob in problem.space.arch_knobs:
        position = problem.space.positions[knob.name]
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
