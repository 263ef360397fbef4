"""A training that stopped after some of its epochs, and that can go on from there."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jointnas_jax.nets.envelope import cut_variables, pad_variables
from jointnas_jax.train.optimizer import initial_optimizer
from jointnas_jax.train.step import TrainState, flat, unflat

# Of a training state, as vectors.
Arrays = Mapping[str, np.ndarray]


class Paused(NamedTuple):
    """The training of one candidate between two epochs.

    Attributes:
      epochs: that it has trained.
      arrays: its state on the host, in the shapes of the candidate's own network, so that it can go
        on in any program that holds the candidate: `int32[]` `step`, and `float32` vectors. None
        where only the epochs matter.
    """

    epochs: int
    arrays: Arrays | None = None


def to_arrays(state: TrainState, padded: Any, own: Any) -> Arrays:
    """Takes a candidate's state out of that of a program.

    Args:
      state: in the shapes of the program, on the host.
      padded: variables in these shapes.
      own: variables in the candidate's shapes.
    """

    def cut(vector: np.ndarray, part: Callable[[Any], Any]) -> np.ndarray:
        return flat(cut_variables(unflat(vector, part(padded)), part(own)))

    moments = [cut(np.asarray(leaf), _params) for leaf in jax.tree.leaves(state.optimizer)]
    return {
        "step": np.asarray(state.step),
        "variables": cut(np.asarray(state.variables), _all),
        "averaged": cut(np.asarray(state.averaged), _all),
        **{f"optimizer{i}": moment for i, moment in enumerate(moments)},
    }


def to_state(arrays: Arrays, padded: Any, own: Any) -> TrainState:
    """Inverse of `to_arrays`; padding is zero, as it is in training."""

    def pad(vector: np.ndarray, part: Callable[[Any], Any]) -> Any:
        return pad_variables(unflat(vector, part(own)), part(padded))

    empty = initial_optimizer(flat(_params(padded)).size)
    leaves, structure = jax.tree.flatten(empty)
    moments = [flat(pad(arrays[f"optimizer{i}"], _params)) for i in range(len(leaves))]
    return TrainState(
        step=np.asarray(arrays["step"]),
        variables=flat(pad(arrays["variables"], _all)),
        averaged=flat(pad(arrays["averaged"], _all)),
        optimizer=jax.tree.unflatten(structure, moments),
    )


def _all(variables: Any) -> Any:
    return variables


def _params(variables: Any) -> Any:
    return variables["params"]
