"""`jn.evolve`: the fine stage alone."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jointnas_jax.arguments import check_candidates, check_function, check_seed
from jointnas_jax.config import EvolutionConfig, check_settings
from jointnas_jax.errors import InputError, SpaceError, one_line, shown
from jointnas_jax.library.costs import Budget, CostFn, Costs, unwrapped_errors
from jointnas_jax.library.predictor import Predictor
from jointnas_jax.library.space import AnySpace, Decoded, check_space, columns, encode_all
from jointnas_jax.strategy import evolution
from jointnas_jax.strategy.constraints import on_host

# Knobs (name -> values of N candidates) -> N scores.
ScoreFn = Callable[[dict[str, np.ndarray]], Any]


class Evolved(NamedTuple):
    """The last population of an evolution, best first.

    Attributes:
      candidates: different ones, all within the budget.
      scores: `float64[len(candidates)]`.
      generations: generations run.
    """

    candidates: list[Decoded]
    scores: np.ndarray
    generations: int


def evolve(
    space: AnySpace,
    score: Predictor | ScoreFn,
    *,
    start: Sequence[Decoded] = (),
    costs: CostFn | None = None,
    budget: Budget | None = None,
    seed: int = 0,
    settings: EvolutionConfig | None = None,
) -> Evolved:
    """Evolves candidates to the highest score, in one compiled program.

    For scores that cost little: a whole generation is scored at once. For an objective that is
    expensive there is `search`.

    Args:
      space: a `Space` or a `JointSpace`.
      score: a `Predictor`, or a function from knobs (name -> array of the values in N candidates)
        to N scores, higher is better; a candidate whose score is not finite cannot win.
      start: candidates to begin with, besides an even sample of the space.
      costs: costs of candidates, see `search`.
      budget: name of a cost -> limit; no candidate over it survives.
      seed: seed of everything random.
      settings: sizes and rates.

    Raises:
      InputError: an argument breaks a rule, the predictor is of another space, or no candidate is
        within the budget.
    """
    space, seed = check_space(space), check_seed(seed)
    settings = check_settings("settings", settings, EvolutionConfig)
    first = encode_all(space, check_candidates("start", start))
    if isinstance(score, Predictor):
        _check_same_space(space, score.space)
    else:
        check_function("score", score)
    priced = Costs.read(space, costs, budget)
    constraints = priced.constraints(space)
    pool = constraints.pool(settings.population, seed)
    first = np.concatenate([first, pool])
    if isinstance(score, Predictor):
        called: Any = score.score_fn
        marks: Callable[[Any], Any] = called
    else:
        called = _Scores(space, score)
        marks = on_host(called, np.float32)
        marks(first)  # where all calls fail, before anything is compiled

    def program(first: jax.Array, key: jax.Array) -> evolution.Evolution:
        return evolution.evolve(
            first,
            key,
            marks,
            feasible=constraints.feasible,
            canonical=space.canonical,
            cardinalities=space.cardinalities,
            config=settings,
            repair=priced.repair,
        )

    with unwrapped_errors(priced.of, called):
        evolved = jax.tree.map(np.asarray, jax.jit(program)(first, jax.random.key(seed)))
    alive = np.isfinite(evolved.scores)
    vectors, scores = evolved.population[alive], evolved.scores[alive].astype(np.float64)
    return Evolved([space.decode(v) for v in vectors], scores, int(evolved.generations))


class _Scores:
    """A user's scores as an array.

    Attributes:
      broken: the error of a call that failed.
    """

    def __init__(self, space: AnySpace, score: ScoreFn):
        self._space = space
        self._score = score
        self.broken: InputError | None = None

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Scores `float64[N]` of `int32[N, K]`, -inf where they are not finite."""
        try:
            return self._checked(vectors)
        except InputError as error:
            self.broken = error
            raise

    def _checked(self, vectors: np.ndarray) -> np.ndarray:
        try:
            scores = np.asarray(self._score(columns(self._space, vectors)), np.float64)
        except Exception as error:  # it is the user's code
            raise InputError(
                f"`score` failed on arrays of {len(vectors)} candidates: {one_line(error)}; each "
                "knob is an array: use numpy.where instead of `if`, or numpy.vectorize"
            ) from error
        if scores.shape != (len(vectors),):
            raise InputError(
                f"`score` must return a number for each of {len(vectors)} candidates, got the "
                f"shape {shown(list(scores.shape))}; each knob is an array of their values"
            )
        # A score above all numbers of 32 bits is good all the same.
        largest = float(np.finfo(np.float32).max)
        return np.where(np.isfinite(scores), np.clip(scores, -largest, largest), -np.inf)


def _check_same_space(space: AnySpace, learnt: AnySpace) -> None:
    """Raises `SpaceError` if a predictor's space is another one: its scores had no meaning."""
    if space != learnt:
        raise SpaceError(
            f"the predictor is of another space: it learnt {_described(learnt, space)}, but "
            f"`space` has {_described(space, learnt)}; fit one with jn.Predictor.fit(space, ...)"
        )


def _described(space: AnySpace, other: AnySpace) -> str:
    """A space in words, by what another one has not."""
    names = [knob.name for knob in space.knobs]
    if names != [knob.name for knob in other.knobs]:
        return f"the knobs {shown(names)}"
    different = [knob for knob in space.knobs if knob not in other.knobs]
    if not different:  # joint spaces
        return "other fixed values, image channels or classes"
    return f"`{different[0].name}` in {shown(list(different[0].values))}"
