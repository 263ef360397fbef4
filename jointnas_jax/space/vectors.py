"""Spaces of knobs, whatever a knob stands for: candidates as index vectors.

An index vector has one entry per knob, architecture knobs first: `int32[K]`, entry j in
`range(len(knobs[j].values))`.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jointnas_jax.errors import SpaceError, nearest, one_line, shown
from jointnas_jax.space.knobs import Knob, Value, parse_knob


class VectorSpace:
    """Base of all spaces; a subclass sets `arch_knobs` and `recipe_knobs` and has `canonical`."""

    arch_knobs: tuple[Knob, ...]
    recipe_knobs: tuple[Knob, ...]

    def canonical(self, vectors: Any) -> Any:
        """Maps vectors `int32[..., K]` of equal candidates to equal vectors, also under `jit`."""
        raise NotImplementedError

    @functools.cached_property
    def knobs(self) -> tuple[Knob, ...]:
        """All knobs, in vector order."""
        return self.arch_knobs + self.recipe_knobs

    @functools.cached_property
    def cardinalities(self) -> np.ndarray:
        """Number of values of each knob: `int32[K]`."""
        return np.array([len(knob.values) for knob in self.knobs], np.int32)

    @property
    def arch_size(self) -> int:
        """Number of architectures."""
        return math.prod(len(knob.values) for knob in self.arch_knobs)

    @property
    def recipe_size(self) -> int:
        """Number of recipes."""
        return math.prod(len(knob.values) for knob in self.recipe_knobs)

    @functools.cached_property
    def positions(self) -> dict[str, int]:
        """Name of each knob -> its position in a vector."""
        return {knob.name: j for j, knob in enumerate(self.knobs)}

    def vector_from_values(self, values: Mapping[str, Value]) -> np.ndarray:
        """Returns `int32[K]` from one value per knob name; raises `SpaceError` naming the knob."""
        for name in values:
            if name not in self.positions:
                raise SpaceError(
                    f"the space has no knob `{one_line(name)}`{nearest(name, self.positions)}"
                )
        missing = [name for name in self.positions if name not in values]
        if missing:
            raise SpaceError(f"a value is missing for the knobs {missing}")
        return np.array([knob.index(values[knob.name]) for knob in self.knobs], np.int32)

    def values(self, vector: np.ndarray) -> dict[str, Value]:
        """Returns the value of every knob by name, for one vector `int[K]`."""
        vector = self.check_one(vector)
        return {knob.name: knob.values[i] for knob, i in zip(self.knobs, vector, strict=True)}

    def check_one(self, vector: Any) -> np.ndarray:
        """Returns an index vector `int[K]` unchanged; raises `SpaceError` for anything else."""
        try:
            vector = np.asarray(vector)
        except ValueError as error:  # lists of different lengths
            raise SpaceError(
                f"an index vector has {len(self.knobs)} integers, got {shown(vector)}"
            ) from error
        if vector.ndim > 1:
            raise SpaceError(
                f"one index vector has {len(self.knobs)} integers, got the shape "
                f"{list(vector.shape)}"
            )
        return self.check(vector)

    def check(self, vectors: np.ndarray) -> np.ndarray:
        """Returns `vectors` (`int[..., K]`) unchanged; raises `SpaceError` if one lies outside."""
        if vectors.dtype.kind not in "iu" or vectors.shape[-1:] != (len(self.knobs),):
            raise SpaceError(
                f"an index vector has {len(self.knobs)} integers, got "
                f"{vectors.dtype}{list(vectors.shape)}"
            )
        bad = np.argwhere((vectors < 0) | (vectors >= self.cardinalities))
        if bad.size:
            knob = self.knobs[bad[0][-1]]
            raise SpaceError(
                f"knob `{knob.name}` has indices 0 to {len(knob.values) - 1} "
                f"for {shown(list(knob.values))}, got {vectors[tuple(bad[0])]}"
            )
        return vectors

    def from_unit(self, points: np.ndarray) -> np.ndarray:
        """Maps points of the unit cube, `float[N, K]` in [0, 1), to vectors `int32[N, K]`."""
        cells = (np.asarray(points) * self.cardinalities).astype(np.int32)
        return self.canonical(np.minimum(cells, self.cardinalities - 1))

    def sample(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Draws `count` candidates uniformly: `int32[count, K]`."""
        return self.from_unit(rng.random((count, len(self.knobs))))


def _unchanged(vectors: Any) -> Any:
    """Of no two equal candidates. With a name, for spaces to be pickled."""
    return vectors


@dataclasses.dataclass(frozen=True)
class PlainSpace(VectorSpace):
    """Categorical, integer and float knobs of a user's objective.

    Attributes:
      arch_knobs: knobs that costs depend on; the predictor's encoder is pretrained on them.
      recipe_knobs: all other knobs.
      equal: maps vectors `int32[..., K]` of equal candidates to equal vectors, NumPy or JAX.
    """

    arch_knobs: tuple[Knob, ...]
    recipe_knobs: tuple[Knob, ...]
    equal: Callable[[Any], Any] = _unchanged

    @classmethod
    def of(
        cls,
        arch: Mapping[str, Any],
        recipe: Mapping[str, Any] | None = None,
        equal: Callable[[Any], Any] = _unchanged,
    ) -> "PlainSpace":
        """Reads descriptions of knobs by name, as in the `space` section of a config.

        Raises `SpaceError` if a description has another form, or there is no knob.
        """
        arch_knobs, recipe_knobs = (
            tuple(k for n, d in part.items() if isinstance(k := parse_knob(n, d), Knob))
            for part in (arch, recipe or {})
        )
        if not any(len(knob.values) > 1 for knob in arch_knobs + recipe_knobs):
            raise SpaceError("a space needs a knob with more than one value")
        return cls(arch_knobs, recipe_knobs, equal)

    def canonical(self, vectors: Any) -> Any:
        """See `VectorSpace`."""
        return self.equal(vectors)
