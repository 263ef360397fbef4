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
    numbers = [v for v in knob.values if isinstance(v, int | float)]
    if not knob.ordinal or not 2 <= len(numbers) == len(knob.values):
        return choices
    low, high = numbers[0], numbers[-1]
    step = (high - low) / (len(numbers) - 1)
    if any(abs(v - low - i * step) > 1e-9 * abs(high) for i, v in enumerate(numbers)):
        return choices
    if isinstance(low, int) and isinstance(high, int) and all(isinstance(v, int) for v in numbers):
        return IntDistribution(low, high, step=round(step))
    number = FloatDistribution(low, high, step=float(f"{step:.12g}"))
    return number if all(_contains(number, value) for value in numbers) else choices


def _contains(distribution: BaseDistribution, value: float) -> bool:
    """Whether Optuna takes a value for one of the distribution, which is a matter of rounding."""
    try:
        optuna.trial.create_trial(value=0.0, params={"x": value}, distributions={"x": distribution})
    except ValueError:
        return False
    return True
