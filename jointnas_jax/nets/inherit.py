"""Weights of one network for another: what has the same name and place is taken over."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jointnas_jax.nets.envelope import margins

CLASSIFIER, STEM = "classifier", "stem"


def inherit(initial: Any, given: Any, *, classes: bool) -> Any:
    """Replaces initial values by given ones as far as they go.

    Of channels the first ones, of kernels the middle. A stem for another number of image channels
    gets the mean over the given ones, divided so that grey images give what they gave.

    Args:
      initial: Flax variables of the network, NumPy arrays.
      given: those of another one.
      classes: whether both tell the same classes apart: else the classifier stays as it is.

    Returns:
      Variables of the shapes of `initial`.
    """
    params = {name: leaf for name, leaf in given["params"].items() if classes or name != CLASSIFIER}
    stem, ours = params[STEM], initial["params"][STEM].shape[2]
    if stem.shape[2] != ours:
        params[STEM] = np.repeat(stem.sum(2, keepdims=True) / ours, ours, axis=2)
    return _overlaid(initial, {**given, "params": params})


def _overlaid(initial: Any, given: Any) -> Any:
    if isinstance(initial, Mapping):
        both = isinstance(given, Mapping)
        return {
            name: _overlaid(value, given[name]) if both and name in given else value
            for name, value in initial.items()
        }
    if isinstance(given, Mapping):
        return initial
    values, given = np.array(initial), np.asarray(given)
    into, out_of = _common(values.shape, given.shape)
    values[into] = given[out_of]
    return values


def _common(
    ours: tuple[int, ...], theirs: tuple[int, ...]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """The parts of two arrays that lie on each other."""
    sizes = tuple(map(min, ours, theirs))
    cut = lambda shape: tuple(
        slice(b, b + n) for b, n in zip(margins(sizes, shape), sizes, strict=True)
    )
    return cut(ours), cut(theirs)
