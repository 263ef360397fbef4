"""Knobs as Optuna's distributions."""

from collections.abc import Sequence

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from jointnas_jax.space import Knob


def distributions(knobs: Sequence[Knob]) -> dict[str, BaseDistribution]:
    """The knobs as Optuna's distributions: ranges as numbers with a step, all else as choices."""
    return {knob.name: _distribution(knob) for knob in knobs}


def _distribution(knob: Knob) -> BaseDistribution:
    choices = CategoricalDistribution(knob.values)
    if not knob.ordinal or len(knob.values) < 2:
        return choices
    low, high = knob.values[0], knob.values[-1]
    step = (high - low) / (len(knob.values) - 1)
    if any(abs(v - low - i * step) > 1e-9 * abs(high) for i, v in enumerate(knob.values)):
        return choices
    if all(isinstance(v, int) for v in knob.values):
        return IntDistribution(low, high, step=round(step))
    number = FloatDistribution(low, high, step=float(f"{step:.12g}"))
    return number if all(_takes(number, value) for value in knob.values) else choices


def _takes(distribution: BaseDistribution, value: float) -> bool:
    """Whether Optuna takes a value for one of the distribution, which is a matter of rounding."""
    try:
        names = {"params": {"x": value}, "distributions": {"x": distribution}}
        optuna.trial.create_trial(value=0.0, **names)
    except ValueError:
        return False
    return True
