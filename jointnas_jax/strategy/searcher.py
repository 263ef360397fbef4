"""The same search on any objective: vectors of any space in, scores out.

The coarse stage evaluates all candidates but the last, which the fine stage finds: the one that is
predicted best of all. A study trains several finalists of the fine stage instead (`study/run.py`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jointnas_jax.config import PredictorConfig, SearchConfig
from jointnas_jax.errors import InputError
from jointnas_jax.predictor.fit import PredictorState
from jointnas_jax.predictor.predictor import CostFeatures, Fitted, Predictor
from jointnas_jax.runtime.compiler import compiler_options
from jointnas_jax.space.features import FeatureTable
from jointnas_jax.space.vectors import VectorSpace
from jointnas_jax.strategy.asking import Asking
from jointnas_jax.strategy.coarse import Round, best_first, coarse_stage, finished, first_new
from jointnas_jax.strategy.constraints import Constraints
from jointnas_jax.strategy.evolution import Evolution, evolve
from jointnas_jax.strategy.report_card import ReportCard, cross_validate

_PRETRAIN, _SEARCH, _FIT, _PROPOSE, _FINE = range(5)


class Found(NamedTuple):
    """What a search evaluated, in order.

    Attributes:
      vectors: `int32[E, K]`.
      scores: `float64[E]`, nan where an evaluation failed.
      best: `int[E]`, the candidate to take after so many evaluations: a position in `vectors`.
      pretrained: what the predictor was fitted from.
    """

    vectors: np.ndarray
    scores: np.ndarray
    best: np.ndarray
    pretrained: PredictorState


class Searcher:
    """Coarse and fine stage for one space.

    One object serves any number of searches; its programs are compiled once.
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
        budget: Mapping[int, int] | None = None,
        feasible: Callable[[Any], Any] | None = None,
        repair: Callable[[Any, Any], Any] | None = None,
        noisy: bool = False,
        cost_names: Sequence[str] = (),
    ):
        """Prepares searches. A candidate over the budget is never evaluated.

        Args:
          space: of the candidates.
          evaluations: E, at most.
          config: of both stages; its `rounds` follow from E here.
          predictor: settings.
          costs: `int32[N, K] -> int64[N, P]`, free costs that pretrain the predictor.
          cost_features: standardised logarithms of the costs, also under `jit`; None: from `costs`,
            called from the compiled program.
          budget: column of `costs` -> limit.
          feasible: the budget as a test `int32[N, K] -> bool[N]`, also under `jit`; None: from
            `costs` and `budget`, likewise.
          repair: makes children feasible, see `evolve`.
          noisy: whether the same candidate can get another score: then the best one is that which
            is predicted best of all evaluated, not the one that scored best.
          cost_names: of the columns of `costs`, for messages.

        Raises:
          InputError: a budget of costs that are not given.
        """
        config, predictor = config or SearchConfig(), predictor or PredictorConfig()
        self._space, self._evaluations, self._config = space, evaluations, config
        self._limits = limits = Constraints(space, costs, budget, feasible, cost_names)
        self._noisy, self._samples = noisy, predictor.pretrain_samples
        explores = predictor.process and config.acquisition == "improvement"
        # The process chooses; the networks are fitted where they have a say.
        self._networks = noisy or not explores
        if cost_features is None and costs is not None:
            cost_features = limits.features()
        features = FeatureTable.of(space)
        self.predictor = Predictor(features, predictor, evaluations, cost_features)

        def promise(state: Fitted, explore: jax.Array | bool) -> Callable[[jax.Array], jax.Array]:
            score = self.predictor.score_fn(state)
            if not explores:
                return score
            improvement = self.predictor.improvement_fn(state)
            return lambda vectors: jax.lax.cond(explore, improvement, score, vectors)

        def search(
            start: jax.Array, key: jax.Array, state: Fitted, explore: jax.Array
        ) -> Evolution:
            cards = space.cardinalities
            rules = (limits.feasible, space.canonical, cards, config.evolution, repair)
            return evolve(start, key, promise(state, explore), *rules)

        self._search = jax.jit(search, compiler_options=compiler_options("light"))
        self._promise = jax.jit(lambda state, vectors: promise(state, True)(vectors))
        self._believe = jax.jit(self.predictor.believe, static_argnames="failed")

    def run(self, evaluate: Callable[[np.ndarray], np.ndarray], seed: int) -> Found:
        """Searches any objective.

        Args:
          evaluate: `int32[m, K] -> float[m]`, higher is better, nan for a failure.
          seed: of everything random.

        Raises:
          SpaceError: no candidate satisfies the budget.
        """
        pool = self._limits.pool(self._config.pool_size, seed)
        sample = self._space.sample(np.random.default_rng(seed), self._samples)
        pretrained = self.pretrain(sample, jax.random.fold_in(jax.random.key(seed), _PRETRAIN))
        key = _search_key(seed)
        vectors, scores = pool[:0], np.zeros(0)
        best: list[int] = []
        state: Fitted | None = None

        def measure(number: int, vectors: np.ndarray, predicted: Any = None) -> np.ndarray:
            found = np.asarray(evaluate(vectors), np.float64)
            if found.shape != (len(vectors),):
                raise InputError(
                    f"`evaluate` must return a score for each of {len(vectors)} candidates, got "
                    f"the shape {list(found.shape)}"
                )
            return found

        def record(new: np.ndarray, marks: np.ndarray, after: Fitted | None) -> None:
            nonlocal vectors, scores, state
            # Within a round the predictor knows the rounds before.
            for i in range(len(new)):
                vectors, scores = np.append(vectors, new[i : i + 1], 0), np.append(scores, marks[i])
                if i == len(new) - 1:
                    state = after
                best.append(self._take(vectors, scores, state))

        coarse = max(1, self._evaluations - 1)
        for done, after in self.rounds(pool, pretrained, measure, key, coarse, self._networks):
            record(done.vectors, done.scores, after)
        if len(vectors) < self._evaluations and state is not None:
            if not self._networks:
                state = self._fit(pretrained, *finished(vectors, scores), key)
            last = self._predicted_best(state, vectors, scores, pool, key)
            if len(last):
                marks = measure(0, last)
                every = np.append(vectors, last, 0), np.append(scores, marks)
                refit = self._noisy and self._fit(pretrained, *finished(*every), key)
                record(last, marks, refit or state)
        return Found(vectors, scores, np.array(best), pretrained)

    def judge(self, found: Found, seed: int) -> tuple[Fitted, ReportCard]:
        """Fits the predictor to all that `run` evaluated, and judges it.

        Args:
          found: not all of it failed.
          seed: of the search.
        """
        key, trials = _search_key(seed), finished(found.vectors, found.scores)
        fitted = self._fit(found.pretrained, *trials, key)
        return fitted, self.report_card(found.pretrained, fitted, *trials, key)

    def pretrain(self, sample: np.ndarray, key: jax.Array) -> PredictorState:
        """Trains the predictor's encoders on the costs of `int32[N, K]`; consumes the key."""
        return self.predictor.pretrain(sample, self._limits.costs(sample), key)

    def rounds(
        self,
        pool: np.ndarray,
        pretrained: PredictorState,
        evaluate: Callable[[int, np.ndarray, np.ndarray], np.ndarray],
        key: jax.Array,
        evaluations: int | None = None,
        networks: bool = True,
    ) -> Iterator[tuple[Round, Fitted | None]]:
        """Runs the coarse stage.

        Args:
          pool: `int32[P, K]`.
          pretrained: what `pretrain` returned.
          evaluate: see `coarse_stage`.
          key: consumed.
          evaluations: in all rounds; None: E.
          networks: see `Predictor.fit`.

        Yields:
          Each round, and the predictor after it: None where every trial so far failed.
        """
        proposer = _Proposer(self, pool, pretrained, key, networks)

        def measure(number: int, vectors: np.ndarray, predicted: np.ndarray) -> np.ndarray:
            self._limits.check(vectors)
            return evaluate(number, vectors, predicted)

        rounds = coarse_stage(
            pool,
            self._evaluations if evaluations is None else evaluations,
            self._config.per_round,
            measure,
            proposer.fit,
            proposer.predict,
            proposer.propose,
        )
        for done in rounds:
            yield done, proposer.state

    def asking(
        self,
        pool: np.ndarray,
        pretrained: PredictorState,
        rounds: Sequence[Round],
        key: jax.Array,
    ) -> Asking:
        """Goes on with the coarse stage without rounds; `refit` gives a `Fitted`.

        Args:
          pool: `int32[P, K]`.
          pretrained: what `pretrain` returned.
          rounds: so far.
          key: of the rounds.
        """
        proposer = _Proposer(self, pool, pretrained, key, networks=True)
        vectors = np.concatenate([r.vectors for r in rounds])
        scores = np.concatenate([r.scores for r in rounds])
        return Asking(vectors, scores, proposer.fit, proposer.predict, proposer.propose)

    def report_card(
        self,
        pretrained: PredictorState,
        fitted: Fitted,
        vectors: np.ndarray,
        scores: np.ndarray,
        key: jax.Array,
    ) -> ReportCard:
        """Judges the predictor by cross-validation; compiles nothing. The key is consumed.

        Args:
          pretrained: what `pretrain` returned.
          fitted: to all trials.
          vectors: `int32[N, K]`, trials that did not fail.
          scores: `float32[N]`.
          key: consumed.
        """

        def predict(rest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            state = self._fit(pretrained, vectors[rest], scores[rest], key)
            return self._predict_trials(state, vectors)

        return cross_validate(scores, predict, self.predictor.noise(fitted))

    def fine_stage(
        self, trained: np.ndarray, pool: np.ndarray, fitted: Fitted, key: jax.Array
    ) -> Evolution:
        """Evolves trials `int32[T, K]` and the pool to the best predicted score; consumes the key.

        The program is that of the proposals.
        """
        found = self._evolve(trained, pool, key, fitted, explore=False)
        scores, best = (self.predictor.in_scores(fitted, z) for z in (found.scores, found.best))
        return found._replace(scores=scores, best=best)

    def _predicted_best(
        self,
        state: Fitted,
        vectors: np.ndarray,
        scores: np.ndarray,
        pool: np.ndarray,
        key: jax.Array,
    ) -> np.ndarray:
        """What the fine stage finds that is not in `vectors`: `int32[1, K]`, or no row."""
        state = self._wary(state, vectors[~np.isfinite(scores)])
        known, name = best_first(vectors, scores), jax.random.fold_in(key, _FINE)
        found = self._alive(self.fine_stage(known, pool, state, name), pool)
        new = first_new(found, {v.astype(np.int32).tobytes() for v in vectors})
        self._limits.check(new)
        return new

    def _wary(self, state: Fitted, failed: np.ndarray) -> Fitted:
        """Believes that candidates `int32[F, K]` which failed are as bad as the worst trial.

        So the search leaves their neighbourhood. What is measured stays the only thing that the
        predictor is fitted to.
        """
        for vector in failed:
            state = self._believe(state, vector, failed=True)
        return state

    def _alive(self, found: Evolution, pool: np.ndarray) -> np.ndarray:
        """The population; where the evolution knows nothing new, the pool goes on."""
        return np.concatenate([found.population[np.isfinite(found.scores)], pool])

    def _take(self, vectors: np.ndarray, scores: np.ndarray, state: Fitted | None) -> int:
        """The position of the candidate to take of those evaluated."""
        marks = scores
        if self._noisy and state is not None:
            marks = self._predict_trials(state, vectors)[0]
        return int(np.where(np.isfinite(scores), marks, -np.inf).argmax())

    def _predict_trials(self, state: Fitted, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Predicts any number of trials with one program."""
        padded = np.pad(vectors, ((0, self._evaluations - len(vectors)), (0, 0)))
        mean, spread = self.predictor.predict(state, padded)
        return mean[: len(vectors)], spread[: len(vectors)]

    def _evolve(
        self,
        first: np.ndarray,
        pool: np.ndarray,
        key: jax.Array,
        state: Fitted,
        explore: bool,
    ) -> Evolution:
        # Of one shape, so that it compiles once; the first row fills up.
        start = np.concatenate([first, pool])
        missing = self._evaluations + len(pool) - len(start)
        start = np.concatenate([start, np.repeat(start[:1], missing, 0)])
        return jax.tree.map(np.asarray, self._search(start, key, state, explore))

    def _fit(
        self,
        pretrained: PredictorState,
        vectors: np.ndarray,
        scores: np.ndarray,
        key: jax.Array,
        networks: bool = True,
    ) -> Fitted:
        name = jax.random.fold_in(jax.random.fold_in(key, _FIT), len(scores))
        return self.predictor.fit(pretrained, vectors, scores, name, networks)


class _Proposer:
    """What the coarse stage knows of its trials, and what it would try next.

    Attributes:
      state: the predictor; None before the first fit.
    """

    def __init__(
        self,
        searcher: Searcher,
        pool: np.ndarray,
        pretrained: PredictorState,
        key: jax.Array,
        networks: bool,
    ):
        """See `Searcher.rounds`."""
        self._searcher, self._pool, self._pretrained = searcher, pool, pretrained
        self._key, self._networks = key, networks
        self.state: Fitted | None = None
        self._believed: tuple[Fitted, int] | None = None  # and how many of those chosen it knows

    def fit(self, vectors: np.ndarray, scores: np.ndarray) -> Fitted:
        """See `coarse_stage`."""
        self._known, self._count = best_first(vectors, scores), len(vectors)
        trials = finished(vectors, scores)
        self.state = self._searcher._fit(self._pretrained, *trials, self._key, self._networks)
        self._failed, self._believed = vectors[~np.isfinite(scores)], None
        return self.state

    def predict(self, vectors: np.ndarray) -> np.ndarray:
        """See `coarse_stage`; what is to be evaluated keeps the rules."""
        self._searcher._limits.check(vectors)
        return self._searcher.predictor.predict(self.state, vectors)[0]

    def propose(self, chosen: np.ndarray) -> np.ndarray:
        """See `coarse_stage`; between two fits those chosen only become more."""
        searcher, pool = self._searcher, self._pool
        if self._believed is None:
            self._believed = searcher._wary(self.state, self._failed), 0
        believed, count = self._believed
        for vector in chosen[count:]:
            believed = searcher._believe(believed, vector)
        self._believed = believed, len(chosen)
        if searcher._config.propose == "pool":
            # Stable, so that ties fall to the earlier one in the pool.
            return pool[np.argsort(-np.asarray(searcher._promise(believed, pool)), kind="stable")]
        # The number of trials names what is random here: a resumed search knows it.
        name = jax.random.fold_in(self._key, _PROPOSE)
        name = jax.random.fold_in(name, self._count + len(chosen))
        found = searcher._evolve(self._known, pool, name, believed, explore=True)
        return searcher._alive(found, pool)


def _search_key(seed: int) -> jax.Array:
    return jax.random.fold_in(jax.random.key(seed), _SEARCH)
