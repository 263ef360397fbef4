"""The search of any objective as ask and tell: index vectors of any space out, scores in.

`State` goes in and comes out, and is a function of pool, key and results; `Searcher` holds settings
and compiled programs. Rounds ask for several candidates and wait for all results; asynchronous
asking asks for one wherever a lane is free, while others are pending. With rungs (`rungs.py`) a
candidate is asked for again where it is to go on.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jointnas_jax.config import PredictorConfig, SearchConfig
from jointnas_jax.predictor.fit import PredictorState
from jointnas_jax.predictor.front import USUAL, beyond
from jointnas_jax.predictor.predictor import CostFeatures, Expectation, Fitted, Predictor
from jointnas_jax.predictor.targets import winsorised
from jointnas_jax.runtime.compiler import compiler_options
from jointnas_jax.space.features import FeatureTable
from jointnas_jax.space.prior import Prior
from jointnas_jax.space.vectors import VectorSpace
from jointnas_jax.strategy.constraints import Constraints
from jointnas_jax.strategy.early_stop import spearman
from jointnas_jax.strategy.evolution import Evolution, ScoreFn, evolve
from jointnas_jax.strategy.foreign import Foreign
from jointnas_jax.strategy.history import ask, first_new
from jointnas_jax.strategy.report_card import ReportCard, cross_validate
from jointnas_jax.strategy.state import State

_PRETRAIN, _SEARCH, _FIT, _PROPOSE, _FINE = range(5)
# Costs along a front for which the fine stage evolves candidates.
_LEVELS = 8
# Of a sum of shares.
_ROUNDING = 1e-9
# Candidates of the pool of which the most promising is taken for the sake of variety.
_FEW = 64


class Proposals(NamedTuple):
    """Candidates to evaluate.

    Attributes:
      numbers: m positions in the order of asking.
      vectors: `int32[m, K]`.
      predicted: `float[m]`, scores; nan where nothing had a score yet.
      rungs: m rungs up to which they train, from 0.
    """

    numbers: Sequence[int]
    vectors: np.ndarray
    predicted: np.ndarray
    rungs: Sequence[int]


class Judged(NamedTuple):
    """An expectation after a search.

    Attributes:
      source: `prior`, or the name of an earlier study.
      correlation: Spearman's, of what was expected of the trials with their scores.
      weight: deviations by which the predictor expects scores to rise with one of the expectation;
        nan without the process.
    """

    source: str
    correlation: float
    weight: float


class Trace(NamedTuple):
    """A whole search.

    Attributes:
      state: after the last result.
      best: the candidate to take after so many evaluations: E positions in the order of asking.
    """

    state: State
    best: list[int]


class Searcher:
    """Searches one space; serves any number of searches, and compiles its programs once.

    Attributes:
      predictor: the predictor of the space.
    """

    def __init__(
        self,
        space: VectorSpace,
        evaluations: int,
        config: SearchConfig | None = None,
        predictor: PredictorConfig | None = None,
        *,
        costs: Callable[[np.ndarray], np.ndarray] | None = None,
        cost_features: CostFeatures | None = None,
        budget: Mapping[int, float] | None = None,
        feasible: Callable[[Any], Any] | None = None,
        repair: Callable[[Any, Any], Any] | None = None,
        noisy: bool = False,
        cost_names: Sequence[str] = (),
        front: int | None = None,
        limited: bool = False,
        quantile: float = USUAL,
        rungs: Sequence[float] = (1.0,),
        first: int = 0,
        prior: Prior | None = None,
        foreign: Sequence[Foreign] = (),
    ):
        """Prepares searches. A candidate over the budget is never evaluated.

        Args:
          space: the search space.
          evaluations: E, at most.
          config: settings of both stages; its `rounds` follow from E here.
          predictor: settings of the predictor.
          costs: `int32[N, K] -> int64[N, P]`, free costs that pretrain the predictor.
          cost_features: standardised logarithms of the costs, also under `jit`; None: from `costs`,
            called from the compiled program.
          budget: column of `costs` -> limit.
          feasible: the budget as a test `int32[N, K] -> bool[N]`, also under `jit`; None: from
            `costs` and `budget`, likewise.
          repair: makes children feasible, see `evolve`.
          noisy: whether the same candidate can get another score: then the best one is that which
            is predicted best of all evaluated, not the one that scored best.
          cost_names: names of the columns of `costs`, for messages.
          front: column of `cost_features`: search the best score at each of these costs, not the
            best of all; needs the process. None: the best of all.
          limited: whether the fine stage of a front follows; its program limits the cost.
          quantile: of the trials' scores, from which a front counts.
          rungs: shares of a training after which candidates stop or go on, the last one 1; several
            need the process.
          first: candidates of the pool that are asked for before any is proposed.
          prior: which values a user expects to be good: half of the pool follows it, and the
            process expects it of scores until they say otherwise.
          foreign: trials of earlier studies, which the process expects to be repeated, likewise.

        Raises:
          InputError: a budget of costs that are not given.
        """
        self._config = config = config or SearchConfig()
        settings = predictor or PredictorConfig()
        self._space = space
        self._evaluations = evaluations
        self._limits = limits = Constraints(space, costs, budget, feasible, cost_names, prior)
        self._noisy = noisy
        self._samples = settings.pretrain_samples
        self._front = front
        self._quantile = quantile
        self._rungs = np.asarray(rungs)
        self._first = first
        self._explores = explores = settings.process and config.acquisition == "improvement"
        # The process chooses; the networks are fitted where they have a say.
        self._networks = noisy or not explores
        if cost_features is None and costs is not None:
            cost_features = limits.features()
        table = FeatureTable.of(space)
        self._features = cost_features
        expectations: list[Expectation] = [prior.expectation] if prior else []
        expectations += [f.expectation(table, settings, cost_features) for f in foreign]
        sources = ["prior"] * bool(prior) + [f.name for f in foreign]
        self._expectations = list(zip(sources, expectations, strict=True))
        self.predictor = Predictor(
            table,
            settings,
            capacity=evaluations,
            costs=cost_features,
            expectations=expectations,
        )

        def search(
            start: jax.Array,
            key: jax.Array,
            fitted: Fitted,
            explore: jax.Array,
            reference: jax.Array,
            limit: jax.Array,
        ) -> Evolution:
            return evolve(
                start,
                key,
                self._value_fn(fitted, explore, reference),
                feasible=self._within(limit) if limited else limits.feasible,
                canonical=space.canonical,
                cardinalities=space.cardinalities,
                config=config.evolution,
                repair=repair,
            )

        self._search = jax.jit(search, compiler_options=compiler_options("light"))
        self._promise = jax.jit(
            lambda fitted, vectors, reference: self._value_fn(fitted, True, reference)(vectors)
        )
        self._believe = jax.jit(self.predictor.believe, static_argnames="failed")

    def init(
        self, *, pool: np.ndarray, pretrained: PredictorState, key: jax.Array, networks: bool = True
    ) -> State:
        """A search that has asked for nothing.

        Args:
          pool: `int32[P, K]`.
          pretrained: result of `pretrain`.
          key: consumed.
          networks: see `Predictor.fit`.
        """
        count = len(self._rungs)
        return State(
            vectors=pool[:0],
            scores=np.zeros(0, np.float32),
            finished=np.zeros(0, bool),
            pool=pool,
            pretrained=pretrained,
            key=key,
            networks=networks,
            reference=self._reference(pool),
            at_rungs=np.zeros((0, count)) if count > 1 else None,
            variances=np.zeros(0) if count > 1 else None,
        )

    def ask(self, state: State, count: int) -> tuple[State, Proposals]:
        """Chooses candidates: fewer than `count` where nothing new is proposed.

        Raises:
          SpaceError: a candidate breaks a rule, see `Constraints.check`.
        """
        state, first = self.fit(state), len(state.vectors)
        if state.at_rungs is None:
            state, _ = ask(self.propose, state, count)
            numbers = [*range(first, len(state.vectors))]
        else:
            state, numbers = self._ask_by_rungs(state, count)
        vectors = state.vectors[numbers]
        self._limits.check(vectors)
        predicted = np.full(len(vectors), np.nan, np.float32)
        if state.fitted is not None and len(vectors):
            predicted = self.predictor.predict(state.fitted, vectors)[0]
        return state, Proposals(numbers, vectors, predicted, state.rungs[numbers].tolist())

    def _ask_by_rungs(self, state: State, count: int) -> tuple[State, list[int]]:
        """Chooses new candidates and ones that go on, by what they promise for what is left.

        A new candidate has a whole training before it, one that stopped at a rung the rest.
        """
        numbers: list[int] = []
        for _ in range(count):
            after, new = ask(self.propose, state, 1)
            number = self._to_go_on(after, new, state.paused)
            if number is not None:
                state = dataclasses.replace(
                    state.asked_to_go_on(number), believed=after.believed, beliefs=after.beliefs
                )
            elif len(new):
                state, number = after, len(state.vectors)
            else:
                break
            numbers.append(number)
        return state, numbers

    def _to_go_on(self, state: State, new: np.ndarray, paused: np.ndarray) -> int | None:
        """The paused candidate that promises more than a `new` one, `int32[1, K]` or none."""
        believed = state.believed
        if believed is None or not len(paused):
            return None
        vectors = np.concatenate([state.vectors[paused], new])
        padded = np.pad(vectors, ((0, self._evaluations + 1 - len(vectors)), (0, 0)))
        promise = np.asarray(self._promise(believed, padded, np.float32(state.reference)))
        left = 1 - self._rungs[state.rungs[paused] - 1]
        rates = promise[: len(vectors)] - np.log(np.append(left, np.ones(len(new))))
        # Ties fall to the new one.
        best = len(rates) - 1 - int(rates[::-1].argmax())
        return int(paused[best]) if best < len(paused) else None

    def tell(self, state: State, numbers: Sequence[int], scores: Any) -> State:
        """Takes results, see `History.answered`; the predictor learns from them when it is used."""
        return dataclasses.replace(state.answered(numbers, scores), stale=True)

    def fit(self, state: State, networks: bool | None = None) -> State:
        """Has the predictor learn from all results, in the order of asking.

        Args:
          state: unchanged where the predictor knows all results, or nothing has a score.
          networks: from now on, see `Predictor.fit`; None: as before.
        """
        networks = state.networks if networks is None else networks
        if not (state.stale or networks != state.networks) or not np.isfinite(state.scores).any():
            return state
        vectors, scores = state.measured
        fitted = self._fit(state, vectors, scores, networks=networks)
        return dataclasses.replace(
            state, fitted=fitted, believed=None, beliefs=0, stale=False, networks=networks
        )

    def propose(self, state: State) -> tuple[State, np.ndarray]:
        """Proposes by the predictor, see `Propose`; the pool in order while nothing has a score."""
        if state.fitted is None or len(state.vectors) < self._first:
            return state, state.pool
        believed, pending = state.believed, state.pending
        if believed is None:
            believed = self._believe_failures(state.fitted, state.failed)
        for vector in pending[state.beliefs :]:
            believed = self._believe(believed, vector)
        state = dataclasses.replace(state, believed=believed, beliefs=len(pending))
        pool = state.pool
        if self._config.propose == "pool":
            # Stable, so that ties fall to the earlier one in the pool.
            promise = np.asarray(self._promise(believed, pool, np.float32(state.reference)))
            order = np.argsort(-promise, kind="stable")
            return state, pool[order]
        # The number of candidates names what is random here: a resumed search knows it.
        key = jax.random.fold_in(jax.random.fold_in(state.key, _PROPOSE), len(state.vectors))
        reference = state.reference
        if self._is_varied(len(state.vectors)):
            return state, self._best_of_few(believed, pool, key, reference)
        evolution = self._evolve(
            state.best_first, pool, key, believed, explore=True, reference=reference
        )
        return state, _alive(evolution, pool)

    def _is_varied(self, number: int) -> bool:
        """Whether a candidate is one of the share `varied`, which lie evenly among the others."""
        share = self._config.varied
        return int((number + 1) * share + 1e-9) > int(number * share + 1e-9)

    def _best_of_few(
        self, fitted: Fitted, pool: np.ndarray, key: jax.Array, reference: float
    ) -> np.ndarray:
        """Some random candidates of the pool, best first, and then the pool: `int32[N, K]`."""
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        few = pool[rng.choice(len(pool), min(_FEW, len(pool)), replace=False)]
        promise = np.asarray(self._promise(fitted, few, np.float32(reference)))
        return np.concatenate([few[np.argsort(-promise, kind="stable")], pool])

    def run(self, evaluate: Callable[[np.ndarray], np.ndarray], seed: int) -> Trace:
        """Searches an objective in rounds, but for the last candidate.

        That one is what the fine stage finds: the candidate that is predicted best of all. A study
        trains several finalists of the fine stage instead (`study/run.py`).

        Args:
          evaluate: `int32[m, K] -> float[m]`, higher is better, nan for a failure.
          seed: seed of everything random.

        Raises:
          SpaceError: no candidate satisfies the budget.
          InputError: `evaluate` does not return a score for each.
        """
        state = self._begin(seed)
        best: list[int] = []
        # A front has no best candidate to end with.
        coarse = max(1, self._evaluations - (self._front is None))
        while (left := coarse - len(state.vectors)) > 0:
            state, asked = self.ask(state, min(self._config.per_round, left))
            if not len(asked.vectors):
                break
            state = self._evaluated(state, evaluate, best)
        if len(state.vectors) < self._evaluations and np.isfinite(state.scores).any():
            state = self._ask_for_the_best(self.fit(state, networks=True))
            state = self._evaluated(state, evaluate, best)
        return Trace(state, best)

    def run_by_rungs(
        self,
        evaluate: Callable[[np.ndarray, np.ndarray], np.ndarray],
        seed: int,
        *,
        trainings: float,
    ) -> State:
        """Searches an objective whose evaluations stop at rungs and go on.

        Args:
          evaluate: `int32[m, K]` and shares of an evaluation `float[m]` up to which to go ->
            `float[m]`, the scores there, nan for a failure.
          seed: seed of everything random.
          trainings: whole evaluations, at most, that all parts add up to.

        Raises:
          SpaceError, InputError: as `run`.
        """
        state, steps = self._begin(seed), np.diff(self._rungs, prepend=0.0)
        left = trainings + _ROUNDING
        while left >= steps.min():
            state, asked = self.ask(state, min(self._config.per_round, int(left / steps.min())))
            taken = steps[asked.rungs]
            count = int((np.cumsum(taken) <= left).sum())
            if not count:
                break
            shares = self._rungs[asked.rungs[:count]]
            scores = np.asarray(evaluate(asked.vectors[:count], shares), np.float64)
            state = self.tell(state, asked.numbers[:count], scores)
            left -= float(taken[:count].sum())
        return state

    def _begin(self, seed: int) -> State:
        """A search of its own pool that has asked for nothing."""
        sample = self._space.sample(np.random.default_rng(seed), self._samples)
        root = jax.random.key(seed)
        return self.init(
            pool=self._limits.pool(self._config.pool_size, seed),
            pretrained=self.pretrain(sample, jax.random.fold_in(root, _PRETRAIN)),
            key=jax.random.fold_in(root, _SEARCH),
            networks=self._networks,
        )

    def pretrain(self, sample: np.ndarray, key: jax.Array) -> PredictorState:
        """Trains the predictor's encoders on the costs of `int32[N, K]`; consumes the key."""
        return self.predictor.pretrain(sample, self._limits.costs(sample), key)

    def report_card(self, state: State) -> ReportCard:
        """Judges the predictor of a fitted state by cross-validation; compiles nothing."""
        assert state.fitted is not None
        vectors, scores = state.measured

        def predict(rest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return self._predict_trials(
                self._fit(state, vectors[rest], scores[rest], rest=rest), vectors
            )

        # Of an outlier the predictor learns that it is one, and can tell no more.
        scores = winsorised(np.asarray(scores, np.float64))
        return cross_validate(scores, predict, self.predictor.noise(state.fitted))

    def judged_expectations(self, state: State) -> list[Judged]:
        """What was expected before any trial, judged by those of a fitted state."""
        if not self._expectations or state.fitted is None:
            return []
        vectors, scores = state.measured
        weights = self.predictor.weights_of_expectations(state.fitted)
        return [
            Judged(name, spearman(np.asarray(expected(vectors)), scores), weight)
            for (name, expected), weight in zip(self._expectations, weights, strict=True)
        ]

    def marks(self, state: State, fitted: Fitted | None) -> np.ndarray:
        """By what the candidate to take is chosen, `float[T]`: under noise what is predicted.

        -inf for a failure.
        """
        marks = state.scores
        if self._noisy and fitted is not None:
            marks = self._predict_trials(fitted, state.vectors)[0]
        return np.where(np.isfinite(state.scores), marks, -np.inf)

    def fine_stage(
        self,
        first: np.ndarray,
        pool: np.ndarray,
        fitted: Fitted,
        key: jax.Array,
        *,
        limit: float = np.inf,
    ) -> Evolution[np.ndarray]:
        """Evolves `int32[T, K]` and the pool to the best predicted score; consumes the key.

        The program is that of the proposals. The `limit` is on the cost of the front, as a feature.
        """
        evolution = self._evolve(first, pool, key, fitted, explore=False, limit=limit)
        return evolution._replace(
            scores=self.predictor.in_scores(fitted, evolution.scores),
            best=self.predictor.in_scores(fitted, evolution.best),
        )

    def fine_stages(self, state: State, key: jax.Array) -> list[Evolution[np.ndarray]]:
        """Evolves from all trials and the pool of a fitted state; consumes the key.

        For a front once for each of some costs, evenly from its cheapest member to the dearest
        candidate of the pool; else once.
        """
        assert state.fitted is not None
        first, pool, fitted = state.measured[0], state.pool, state.fitted
        if self._front is None:
            return [self.fine_stage(first, pool, fitted, key)]
        expected = self._predict_trials(fitted, first)[0]
        costs = self._front_costs(first)
        cheapest = costs[expected >= np.median(expected)].min()
        dearest = max(costs.max(), self._front_costs(pool).max())
        levels = np.linspace(cheapest, dearest, _LEVELS)
        keys = jax.random.split(key, _LEVELS)
        return [
            self.fine_stage(first, pool, fitted, k, limit=float(level))
            for k, level in zip(keys, levels, strict=True)
        ]

    def _ask_for_the_best(self, state: State) -> State:
        """Asks for what the fine stage finds of a fitted state, if there is something new."""
        assert state.fitted is not None
        believed = self._believe_failures(state.fitted, state.failed)
        key = jax.random.fold_in(state.key, _FINE)
        evolution = self.fine_stage(state.best_first, state.pool, believed, key)
        new = first_new(_alive(evolution, state.pool), {v.tobytes() for v in state.vectors})
        self._limits.check(new)
        return state.asked(new)

    def _evaluated(
        self, state: State, evaluate: Callable[[np.ndarray], np.ndarray], best: list[int]
    ) -> State:
        """Evaluates what is pending, and adds the candidates to take after each to `best`."""
        count = len(state.vectors)
        numbers = range(len(best), count)
        if not numbers:
            return state
        before = state.fitted
        scores = np.asarray(evaluate(state.pending), np.float64)
        state = self.tell(state, numbers, scores)
        if self._noisy:
            state = self.fit(state)
        # Within a round the predictor knows the rounds before.
        marks = self.marks(state, before)
        best += [int(marks[: number + 1].argmax()) for number in numbers[:-1]]
        best.append(int(self.marks(state, state.fitted).argmax()))
        return state

    def _believe_failures(self, fitted: Fitted, failed: np.ndarray) -> Fitted:
        """Believes that candidates `int32[F, K]` which failed are as bad as the worst trial.

        So the search leaves their neighbourhood. What is measured stays the only thing that the
        predictor is fitted to.
        """
        for vector in failed:
            fitted = self._believe(fitted, vector, failed=True)
        return fitted

    def _predict_trials(self, fitted: Fitted, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Predicts any number of trials with one program."""
        padded = np.pad(vectors, ((0, self._evaluations - len(vectors)), (0, 0)))
        mean, spread = self.predictor.predict(fitted, padded)
        return mean[: len(vectors)], spread[: len(vectors)]

    def _value_fn(self, fitted: Fitted, explore: jax.Array | bool, reference: jax.Array) -> ScoreFn:
        """What candidates are proposed by: improvement where it is to `explore`, else score."""
        score = self.predictor.score_fn(fitted)
        if not self._explores:
            return score
        improvement = self.predictor.improvement_fn(fitted)
        if self._front is not None:
            improvement = self.predictor.front_improvement_fn(
                fitted, self._front, reference, quantile=self._quantile
            )
        return lambda vectors: jax.lax.cond(explore, improvement, score, vectors)

    def _reference(self, pool: np.ndarray) -> float:
        """The reference of a front: somewhat dearer than the dearest candidate of the pool."""
        if self._front is None or self._features is None:
            return 0.0
        return beyond(self._front_costs(pool))

    def _front_costs(self, vectors: np.ndarray) -> np.ndarray:
        """The cost of a front, `float[N]`, as a feature."""
        assert self._front is not None
        assert self._features is not None
        return np.asarray(self._features(vectors))[:, self._front]

    def _within(self, limit: jax.Array) -> Callable[[jax.Array], jax.Array]:
        """The budget, with a limit on the cost of the front, as a test under `jit`."""
        features, column, budget = self._features, self._front, self._limits.feasible
        assert features is not None
        # Rounding: the candidate that the limit was read from satisfies it.
        cheap = lambda vectors: features(vectors)[:, column] <= limit + 1e-4
        return cheap if budget is None else lambda vectors: budget(vectors) & cheap(vectors)

    def _evolve(
        self,
        first: np.ndarray,
        pool: np.ndarray,
        key: jax.Array,
        fitted: Fitted,
        *,
        explore: bool,
        reference: float = 0.0,
        limit: float = np.inf,
    ) -> Evolution[np.ndarray]:
        # Of one shape, so that it compiles once; the first row fills up.
        start = np.concatenate([first, pool])
        missing = self._evaluations + len(pool) - len(start)
        start = np.concatenate([start, np.repeat(start[:1], missing, 0)])
        found = self._search(start, key, fitted, explore, np.float32(reference), np.float32(limit))
        return jax.tree.map(np.asarray, found)

    def _fit(
        self,
        state: State,
        vectors: np.ndarray,
        scores: np.ndarray,
        *,
        networks: bool = True,
        rest: np.ndarray | slice = slice(None),
    ) -> Fitted:
        """Fits to what is measured, or to a `rest` of it."""
        key = jax.random.fold_in(jax.random.fold_in(state.key, _FIT), len(scores))
        variances = state.variances
        if variances is not None:
            variances = variances[np.isfinite(state.scores)][rest]
        return self.predictor.fit(
            state.pretrained, vectors, scores, key=key, networks=networks, variances=variances
        )


def _alive(evolution: Evolution[np.ndarray], pool: np.ndarray) -> np.ndarray:
    """The population, and behind it the pool: there may be nothing new in the population."""
    return np.concatenate([evolution.population[np.isfinite(evolution.scores)], pool])
