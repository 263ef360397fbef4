"""`jn.search`: both stages of the search on any objective."""

import copy
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jointnas_jax.arguments import check_flag, check_function, check_integer, check_seed
from jointnas_jax.config import PredictorConfig, SearchConfig, check_settings
from jointnas_jax.errors import InputError, StudyError, one_line, shown
from jointnas_jax.library.costs import Budget, CostFn, Costs, unwrapped_errors
from jointnas_jax.library.predictor import Parts, Predictor
from jointnas_jax.library.space import AnySpace, Decoded, Space, check_space
from jointnas_jax.strategy.front import nondominated
from jointnas_jax.strategy.report_card import ReportCard
from jointnas_jax.strategy.searcher import Searcher


@dataclasses.dataclass(frozen=True)
class Trial:
    """One evaluation of a candidate; its text is a line.

    Attributes:
      number: position in the order of evaluation, from 1.
      candidate: the value of each knob, or a `Candidate` of the joint space.
      score: result of `evaluate`, nan where it failed.
      reason: reason of a failure; None: the candidate has a score.
      costs: name of each cost -> number.
      best: the highest score up to this trial, nan where all failed.
    """

    number: int
    candidate: Decoded
    score: float
    reason: str | None
    costs: Mapping[str, float]
    best: float

    def __str__(self) -> str:
        outcome = f"{self.score:.6g}" if self.reason is None else f"failed ({self.reason})"
        costs = "".join(f", {name} {cost:,.6g}" for name, cost in self.costs.items())
        return f"trial {self.number}: {outcome}, best so far {self.best:.6g}{costs}"


@dataclasses.dataclass(frozen=True)
class Result:
    """Result of a search.

    Attributes:
      best: the trial to take: that of the highest score, or under noise the one that is predicted
        best of all evaluated candidates.
      trials: all trials, in order.
      predictor: predictor fitted to all trials.
      report_card: marks of the predictor by cross-validation; `report_card.verdict()` says in words
        how far to trust it.
      front: trials than which no cheaper one is as good, by ascending cost; under noise by
        predicted scores. Empty unless `front` was asked for.
    """

    best: Trial
    trials: tuple[Trial, ...] = dataclasses.field(repr=False)
    predictor: Predictor = dataclasses.field(repr=False)
    report_card: ReportCard
    front: tuple[Trial, ...] = ()

    @property
    def candidate(self) -> Decoded:
        """The best candidate, a copy."""
        return copy.deepcopy(self.best.candidate)

    @property
    def score(self) -> float:
        """Its score."""
        return self.best.score


def search(
    space: AnySpace,
    evaluate: Callable[[list[Any]], Sequence[float]],
    *,
    evaluations: int = 50,
    per_round: int = 1,
    costs: CostFn | None = None,
    budget: Budget | None = None,
    front: str | None = None,
    noisy: bool = False,
    seed: int = 0,
    progress: Callable[[Trial], Any] | None = None,
    settings: SearchConfig | None = None,
    predictor: PredictorConfig | None = None,
) -> Result:
    """Searches the candidate of the highest score.

    Candidates are proposed in rounds: by an evolution on a predictor that is fitted to all trials
    so far. No candidate is evaluated twice, and none over the budget. The last one is what the
    predictor believes to be best of all.

    Args:
      space: a `Space`, or a `JointSpace` of networks and recipes.
      evaluate: a function from a list of candidates (dicts, or a `Candidate` each from a
        `JointSpace`) to a score for each, higher is better. A score that is None or not finite is a
        failed trial, and so is an exception (with several candidates, each is tried again alone):
        it is recorded with the reason, and cannot win. The candidates are copies, to do with as it
        likes.
      evaluations: number of candidates, at most; fewer where the space has no more.
      per_round: candidates of a round, for one call of `evaluate`: more train side by side, but
        are chosen with fewer scores.
      costs: costs of candidates, without an evaluation: a function from knobs (name -> array of the
        values in N candidates) to costs (name -> array of N numbers); they help the predictor.
        None: `flops`, `params` and more in a joint space, no costs in others.
      budget: name of a cost -> limit, such as `{"flops": 1e6}` or `{"flops": "1.5M"}`.
      front: name of a cost: search the best score at each of these costs instead of the best score,
        by the expected hypervolume improvement of a known cost (`predictor/front.py`); the result
        has a `front`. Of the joint space `flops` or `params`.
      noisy: whether a second evaluation of a candidate can give another score.
      seed: seed of everything random; the same seed gives the same search.
      progress: called after each trial, with a copy of it; `print` prints a line.
      settings: settings of both stages, but for `rounds`, `per_round` and `front`.
      predictor: settings of the predictor.

    Raises:
      InputError: an argument breaks a rule, `evaluate` does not return a score for each candidate,
        or no candidate is within the budget.
      StudyError: every candidate failed.
    """
    space = check_space(space)
    check_function("evaluate", evaluate)
    check_function("progress", progress, optional=True)
    evaluations = check_integer("evaluations", evaluations, 1, 100_000)
    per_round = check_integer("per_round", per_round, 1, 100_000)
    noisy, seed = check_flag("noisy", noisy), check_seed(seed)
    if settings is None:
        settings = SearchConfig(pool_size=1024)
    settings = check_settings("settings", settings, SearchConfig)
    settings = dataclasses.replace(settings, per_round=per_round)
    predictor = check_settings("predictor", predictor, PredictorConfig)
    priced = Costs.read(space, costs, budget)
    column = priced.front(front)
    _check_explores(front, settings, predictor)
    # A joint space holds dicts.
    prepare = _prepare if isinstance(space, Space) else _prepare.__wrapped__
    priced, searcher = prepare(space, priced, evaluations, settings, predictor, noisy, column)
    log = _Log(space, evaluate, priced, progress)
    with unwrapped_errors(priced.of):
        trace = searcher.run(log.evaluate, seed)
    if not np.isfinite(trace.state.scores).any():
        reasons = sorted({str(trial.reason) for trial in log.trials})
        raise StudyError(f"every candidate failed: {'; '.join(reasons[:3])}")
    state = searcher.fit(trace.state, networks=True)
    assert state.fitted is not None
    return Result(
        best=log.trials[trace.best[-1]],
        trials=tuple(log.trials),
        predictor=Predictor(
            space, searcher.predictor, state.fitted, Parts(costs, predictor, evaluations)
        ),
        report_card=searcher.report_card(state),
        front=_front(log.trials, searcher.marks(state, state.fitted), front) if front else (),
    )


def _check_explores(front: str | None, settings: SearchConfig, predictor: PredictorConfig) -> None:
    """Raises `InputError` where a front is wanted of a search that does not explore."""
    if settings.front:
        raise InputError(
            f"`SearchConfig.front` = {shown(settings.front)} is for studies; give `front` to "
            "`search`"
        )
    if front is not None and not (predictor.process and settings.acquisition == "improvement"):
        raise InputError(
            "`front` needs the Gaussian process and the expected improvement; leave "
            "`PredictorConfig.process` and `SearchConfig.acquisition` as they are"
        )


def _front(trials: Sequence[Trial], marks: np.ndarray, cost: str) -> tuple[Trial, ...]:
    """The front of trials by their marks `float[T]`, not finite for those that failed."""
    costs = np.array([trial.costs[cost] for trial in trials])
    marks = np.where(np.isfinite(marks), marks, np.nan)
    return tuple(trials[i] for i in nondominated(costs, marks))


# Searches that differ in their seed alone compile once. A hit returns the earlier costs, too: the
# compiled programs call them.
@functools.lru_cache(maxsize=4)
def _prepare(
    space: AnySpace,
    priced: Costs,
    evaluations: int,
    settings: SearchConfig,
    predictor: PredictorConfig,
    noisy: bool,
    front: int | None,
) -> tuple[Costs, Searcher]:
    searcher = Searcher(
        space,
        evaluations,
        settings,
        predictor,
        costs=priced.of,
        cost_features=priced.features,
        budget=priced.budget,
        feasible=priced.feasible,
        repair=priced.repair,
        noisy=noisy,
        cost_names=priced.names,
        front=front,
    )
    return priced, searcher


class _Log:
    """Evaluates index vectors by the user's objective, and remembers.

    The user's functions get copies: what they do to them changes nothing here.
    """

    def __init__(
        self,
        space: AnySpace,
        evaluate: Callable[[list[Any]], Sequence[float]],
        costs: Costs,
        progress: Callable[[Trial], Any] | None,
    ):
        self.trials: list[Trial] = []
        self._space = space
        self._user = evaluate
        self._costs = costs
        self._progress = progress or (lambda trial: None)

    def evaluate(self, vectors: np.ndarray) -> np.ndarray:
        """Scores `float64[m]` of `int32[m, K]`, nan where a trial failed."""
        candidates = [self._space.decode(vector) for vector in vectors]
        outcomes = self._outcomes(candidates)
        costs = self._costs.by_name(vectors)
        for candidate, (score, reason), cost in zip(candidates, outcomes, costs, strict=True):
            best = np.fmax(self.trials[-1].best if self.trials else math.nan, score)
            number = len(self.trials) + 1
            self.trials.append(Trial(number, candidate, score, reason, cost, float(best)))
            self._progress(copy.deepcopy(self.trials[-1]))
        return np.array([score for score, _ in outcomes], np.float64)

    def _outcomes(self, candidates: list[Decoded]) -> list[tuple[float, str | None]]:
        """Score and reason of each; where all fail together each is tried alone."""
        try:
            scores = self._user(copy.deepcopy(candidates))
        except Exception as error:  # whatever the user's code raises
            if len(candidates) > 1:
                return [outcome for c in candidates for outcome in self._outcomes([c])]
            return [(math.nan, f"{type(error).__name__}: {one_line(error)}")]
        return [_outcome(score) for score in _check_scores(scores, len(candidates))]


def _check_scores(scores: Any, count: int) -> list[Any]:
    several = isinstance(scores, Sequence) or getattr(scores, "ndim", None) == 1
    if isinstance(scores, str | bytes) or not several or len(scores) != count:
        raise InputError(
            f"`evaluate` must return a score for each of {count} candidates, a list or an array of "
            f"{count} numbers, got {shown(scores)}"
        )
    return list(scores)


def _outcome(score: Any) -> tuple[float, str | None]:
    if score is None:
        return math.nan, "no score"
    try:
        # Text can look like a number, but is a mistake.
        number = float("" if isinstance(score, str | bytes) else score)
    except OverflowError:  # an integer above all floats
        number = math.inf
    except Exception as error:  # whatever an object of the user's raises
        raise InputError(
            "a score that `evaluate` returns must be a number, or None for a failed candidate, "
            f"got {shown(score)}"
        ) from error
    return (number, None) if math.isfinite(number) else (math.nan, f"the score is {number}")
