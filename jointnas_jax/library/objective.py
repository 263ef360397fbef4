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
from jointnas_jax.rules import SHARES
from jointnas_jax.space.prior import Prior
from jointnas_jax.strategy.front import nondominated
from jointnas_jax.strategy.report_card import ReportCard
from jointnas_jax.strategy.searcher import Searcher

# Settings that a search of an objective does not know, and what there is in their place.
_OF_STUDIES = {
    "front": "give `front` to `search`",
    "stopping": "give `rungs` to `search`",
    "prior": "give `prior` to `search`",
    "trials_from": "leave it out",
    "enqueue": "leave it out",
}


@dataclasses.dataclass(frozen=True)
class Trial:
    """One evaluation of a candidate; its text is a line.

    Attributes:
      number: position in the order of evaluation, from 1.
      candidate: the value of each knob, or a `Candidate` of the joint space.
      score: result of `evaluate`, nan where it failed.
      reason: reason of a failure; None: the candidate has a score.
      costs: name of each cost -> number.
      best: the highest score of a whole evaluation up to this trial, nan where there is none.
      share: of an evaluation, after which the score was measured, see `rungs` of `search`.
    """

    number: int
    candidate: Decoded
    score: float
    reason: str | None
    costs: Mapping[str, float]
    best: float
    share: float = 1.0

    def __str__(self) -> str:
        outcome = f"{self.score:.6g}" if self.reason is None else f"failed ({self.reason})"
        outcome += f" after {self.share:.0%}" if self.share < 1 else ""
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
    evaluate: Callable[..., Sequence[float]],
    *,
    evaluations: int = 50,
    per_round: int = 1,
    costs: CostFn | None = None,
    budget: Budget | None = None,
    front: str | None = None,
    rungs: Sequence[float] = (),
    noisy: bool = False,
    prior: Mapping[str, Any] | None = None,
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
      rungs: shares of an evaluation, such as `(0.25, 0.5)`, after which candidates stop, or go on
        where that promises more for what is left than a new one. `evaluate` is called with the
        candidates and a list of shares then, up to which to train each, 1.0 for the end; a
        candidate that goes on comes again with a larger one. `evaluations` is what all parts add up
        to, and a trial is one part. The best trial is one that reached the end.
      noisy: whether a second evaluation of a candidate can give another score.
      prior: which values are expected to be good: name of a knob -> weights of its values, a list
        in their order or a dict from values (those left out weigh 1), or `{"centre": value,
        "width": share}`, a normal distribution whose standard deviation is a share of the knob's
        range, as the knob is spaced. It shapes half of the random candidates, and what the
        predictor expects until scores correct it.
      seed: seed of everything random; the same seed gives the same search.
      progress: called after each trial, with a copy of it; `print` prints a line.
      settings: settings of both stages, but for `rounds`, `per_round`, `front` and `prior`.
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
    ends = _check_rungs(rungs)
    expected = None if prior is None else Prior.of(space.knobs, prior, name="prior")
    _check_explores(front, ends[:-1], settings, predictor)
    # A joint space holds dicts.
    prepare = _prepare if isinstance(space, Space) else _prepare.__wrapped__
    most = int(evaluations / ends[0])
    priced, searcher = prepare(
        space, priced, most, settings, predictor, noisy, column, ends, expected
    )
    log = _Log(space, evaluate, priced, progress)
    with unwrapped_errors(priced.of):
        if len(ends) > 1:
            state = searcher.run_by_rungs(log.evaluate, seed, trainings=evaluations)
        else:
            trace = searcher.run(log.evaluate, seed)
            state = trace.state
    if not np.isfinite(state.scores).any():
        reasons = sorted({str(trial.reason) for trial in log.trials})
        raise StudyError(f"every candidate failed: {'; '.join(reasons[:3])}")
    state = searcher.fit(state, networks=True)
    assert state.fitted is not None
    marks = searcher.marks(state, state.fitted)
    best = log.best_of(state.vectors, marks) if len(ends) > 1 else log.trials[trace.best[-1]]
    return Result(
        best=best,
        trials=tuple(log.trials),
        predictor=Predictor(
            space, searcher.predictor, state.fitted, Parts(costs, predictor, evaluations, expected)
        ),
        report_card=searcher.report_card(state),
        front=log.front(state.vectors, marks, front) if front else (),
    )


def _check_rungs(rungs: Sequence[float]) -> tuple[float, ...]:
    """The rungs, the end included; raises `InputError`."""
    try:
        shares = tuple(float(share) for share in rungs)
    except (TypeError, ValueError):
        shares = (math.nan,)
    if shares and not SHARES.holds(shares):
        raise InputError(
            "`rungs` must be ascending shares of an evaluation, above 0 and below 1, got "
            f"{shown(rungs)}"
        )
    return (*shares, 1.0)


def _check_explores(
    front: str | None, rungs: Sequence[float], settings: SearchConfig, predictor: PredictorConfig
) -> None:
    """Raises `InputError` where a front or rungs are wanted of a search that does not explore."""
    for name, argument in _OF_STUDIES.items():
        if (value := getattr(settings, name)) not in ("", "none", {}):
            raise InputError(f"`SearchConfig.{name}` = {shown(value)} is for studies; {argument}")
    wanted = "front" if front is not None else "rungs" if rungs else ""
    if wanted and not (predictor.process and settings.acquisition == "improvement"):
        raise InputError(
            f"`{wanted}` needs the Gaussian process and the expected improvement; leave "
            "`PredictorConfig.process` and `SearchConfig.acquisition` as they are"
        )


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
    rungs: tuple[float, ...],
    prior: Prior | None,
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
        rungs=rungs,
        prior=prior,
    )
    return priced, searcher


class _Log:
    """Evaluates index vectors by the user's objective, and remembers.

    The user's functions get copies: what they do to them changes nothing here.
    """

    def __init__(
        self,
        space: AnySpace,
        evaluate: Callable[..., Sequence[float]],
        costs: Costs,
        progress: Callable[[Trial], Any] | None,
    ):
        self.trials: list[Trial] = []
        self._latest: dict[bytes, Trial] = {}  # of each candidate
        self._space = space
        self._user = evaluate
        self._costs = costs
        self._progress = progress or (lambda trial: None)

    def evaluate(self, vectors: np.ndarray, shares: np.ndarray | None = None) -> np.ndarray:
        """Scores `float64[m]` of `int32[m, K]`, nan where a trial failed.

        With shares, `float[m]`, the user's function gets them, too.
        """
        candidates = [self._space.decode(vector) for vector in vectors]
        parts = [None] * len(vectors) if shares is None else shares.tolist()
        outcomes = self._outcomes(candidates, parts)
        costs = self._costs.by_name(vectors)
        for vector, candidate, (score, reason), cost, part in zip(
            vectors, candidates, outcomes, costs, parts, strict=True
        ):
            share = 1.0 if part is None else part
            best = self.trials[-1].best if self.trials else math.nan
            best = float(np.fmax(best, score if share == 1 else math.nan))
            number = len(self.trials) + 1
            self.trials.append(Trial(number, candidate, score, reason, cost, best, share))
            self._latest[vector.tobytes()] = self.trials[-1]
            self._progress(copy.deepcopy(self.trials[-1]))
        return np.array([score for score, _ in outcomes], np.float64)

    def best_of(self, vectors: np.ndarray, marks: np.ndarray) -> Trial:
        """The trial to take of candidates `int32[T, K]` by their marks `float[T]`.

        Those that stopped before the end count where no other one has a score.
        """
        known = self._known(vectors, marks)
        return max(known, key=lambda pair: (math.isfinite(pair[1]), pair[0].share, pair[1]))[0]

    def front(self, vectors: np.ndarray, marks: np.ndarray, cost: str) -> tuple[Trial, ...]:
        """The front of candidates that reached the end; arguments as of `best_of`."""
        known = self._known(vectors, marks)
        ended = [(t, m) for t, m in known if t.share == 1 and math.isfinite(m)]
        costs = np.array([trial.costs[cost] for trial, _ in ended])
        members = nondominated(costs, np.array([mark for _, mark in ended]))
        return tuple(ended[i][0] for i in members)

    def _known(self, vectors: np.ndarray, marks: np.ndarray) -> list[tuple[Trial, float]]:
        """The latest trial of each candidate that was evaluated, and its mark."""
        pairs = zip(vectors, marks.tolist(), strict=True)
        return [
            (self._latest[name], mark) for v, mark in pairs if (name := v.tobytes()) in self._latest
        ]

    def _outcomes(
        self, candidates: list[Decoded], parts: Sequence[float | None]
    ) -> list[tuple[float, str | None]]:
        """Score and reason of each; where all fail together each is tried alone."""
        shares = [part for part in parts if part is not None]
        try:
            scores = self._user(copy.deepcopy(candidates), *([shares] if shares else []))
        except Exception as error:  # whatever the user's code raises
            if len(candidates) > 1:
                alone = zip(candidates, parts, strict=True)
                return [outcome for c, part in alone for outcome in self._outcomes([c], [part])]
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
