"""Spaces of any knobs; candidates <-> index vectors of any space."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jointnas_jax.arguments import check_candidates
from jointnas_jax.errors import SpaceError, shown
from jointnas_jax.space import Candidate, JointSpace, Knob, PlainSpace
from jointnas_jax.space.knobs import Value
from jointnas_jax.space.vectors import VectorSpace

# As users see a candidate: the value of each knob, or of the joint space an architecture and a
# recipe.
Decoded = dict[str, Value] | Candidate


class Space(PlainSpace):
    """A search space of your own knobs.

    A candidate is a dict: name of each knob -> value. ::

        space = jn.Space(
            jn.Knob.choice("optimizer", ["sgd", "adam"]),
            jn.Knob.integer("layers", 1, 8),
            jn.Knob.real("lr", 1e-4, 1e-1, log=True),
        )
    """

    def __init__(self, *knobs: Knob):
        """Makes a space.

        Args:
          *knobs: at least one, see `Knob`.

        Raises:
          SpaceError: something is no knob, two have one name, or no knob has two values.
        """
        if wrong := [knob for knob in knobs if not isinstance(knob, Knob)]:
            raise SpaceError(
                f'a space is made of knobs, such as Knob.integer("layers", 1, 8), got '
                f"{shown(wrong[0])}"
            )
        name, times = next(iter(Counter(k.name for k in knobs).most_common(1)), ("", 0))
        if times > 1:
            raise SpaceError(f"names of knobs must differ, got `{name}` {times} times; rename one")
        if not any(len(knob.values) > 1 for knob in knobs):
            raise SpaceError(
                f"a space needs a knob with more than one value, got {[k.name for k in knobs]}"
            )
        super().__init__(knobs, ())

    def decode(self, vector: np.ndarray) -> dict[str, Value]:
        """The candidate of an index vector `int[K]`."""
        return self.values(vector)

    def encode(self, candidate: Mapping[str, Value]) -> np.ndarray:
        """The index vector `int32[K]` of a candidate; raises `SpaceError` naming a wrong knob."""
        if not isinstance(candidate, Mapping):
            raise SpaceError(
                f"a candidate must be a dict, name of each knob -> value, got {shown(candidate)}"
            )
        return self.vector_from_values(candidate)


AnySpace = Space | JointSpace


def check_space(space: Any) -> AnySpace:
    """Returns a space; raises `SpaceError` for anything else, and for one without a choice."""
    if not isinstance(space, Space | JointSpace):
        raise SpaceError(
            f"`space` must be a jn.Space of knobs or a jn.JointSpace, got {shown(space)}"
        )
    if not len(space.knobs):
        raise SpaceError("`space` has no knob to search; give one more than one value")
    return space


def columns(space: VectorSpace, vectors: np.ndarray) -> dict[str, np.ndarray]:
    """Name of each knob -> its values in candidates `int32[N, K]`, an array of N each."""
    return {knob.name: as_array(knob.values)[vectors[:, j]] for j, knob in enumerate(space.knobs)}


def encode_all(space: AnySpace, candidates: Iterable[Decoded]) -> np.ndarray:
    """Index vectors `int32[N, K]` of candidates."""
    candidates = check_candidates("candidates", candidates)
    vectors = [_encode(space, candidate) for candidate in candidates]
    return np.array(vectors, np.int32).reshape(len(vectors), len(space.knobs))


def _encode(space: AnySpace, candidate: Decoded) -> np.ndarray:
    if isinstance(space, JointSpace) and isinstance(candidate, Candidate):
        return space.encode(candidate)
    if isinstance(space, Space) and not isinstance(candidate, Candidate):
        return space.encode(candidate)
    raise SpaceError(
        "a candidate must be a dict of a jn.Space, or a jn.Candidate of a jn.JointSpace, got "
        f"{shown(candidate)}"
    )


def as_array(values: Sequence[Any]) -> np.ndarray:
    """Values as an array; of several types as objects, so that 1 and "1" stay what they are."""
    kinds = {type(value) for value in values}
    return np.array(values, None if len(kinds) == 1 or kinds <= {int, float} else object)
