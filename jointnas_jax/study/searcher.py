"""The same search on any objective: vectors of any space in, scores out."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jointnas_jax.config import PredictorConfig, SearchConfig
from jointnas_jax.predictor.fit import PredictorState
from jointnas_jax.predictor.predictor import CostFeatures, Fitted, Predictor
from jointnas_jax.search.coarse import Round, coarse_stage
from jointnas_jax.search.evolution import Evolution, evolve
from jointnas_jax.search.pool import sobol_pool
from jointnas_jax.search.report_card import ReportCard, cross_validate
from jointnas_jax.space.features import FeatureTable
from jointnas_jax.space.vectors import VectorSpace

_PRETRAIN, _SEARCH, _FIT, _PROPOSE = range(4)


class Found(NamedTuple):
    """What a search evaluated, in order.

    Attributes:
      vectors: `int32[E, K]`.
      scores: `float32[E]`, nan where an evaluation failed.
      best: `int[E]`, the candidate to take after so many evaluations: a position in `vectors`.
    """

    vectors: np.ndarray
    scores: np.ndarray
    best: np.ndarray


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
    ):
        """Prepares searches.

        Args:
          space: of the candidates.
          evaluations: E, at most.
          config: of both stages; its `rounds` follow from E here.
          predictor: settings.
          costs: `int32[N, K] -> int64[N, P]`, free costs that pretrain the predictor.
          cost_features: standardised logarithms of the costs, also under `jit`.
          budget: column of `costs` -> limit.
          feasible: the budget as a test `int32[N, K] -> bool[N]`, also under `jit`.
          repair: makes children feasible, see `evolve`.
          noisy: whether the same candidate can get another score: then the best one is that which
            is predicted best of all evaluated, not the one that scored best.
        """
        config, predictor = config or SearchConfig(), predictor or PredictorConfig()
        self._space, self._evaluations, self._config = space, evaluations, config
        self._rounds = -(-evaluations // config.per_round)
        self._capacity = self._rounds * config.per_round
        self._costs = costs or (lambda vectors: np.ones((len(vectors), 1), np.int64))
        self._budget, self._noisy = dict(budget or {}), noisy
        self._samples = predictor.pretrain_samples
        features = FeatureTable.of(space)
        self.predictor = Predictor(features, predictor, self._capacity, cost_features)
        feasible = feasible or (lambda vectors: vectors[:, 0] >= 0)

        def promise(state: Fitted, explore: jax.Array | bool) -> Callable[[jax.Array], jax.Array]:
            score = self.predictor.score_fn(state)
            if not predictor.process:
                return score
            improvement = self.predictor.improvement_fn(state)
            return lambda vectors: jax.lax.cond(explore, improvement, score, vectors)

        def search(
            start: jax.Array, key: jax.Array, state: Fitted, explore: jax.Array
        ) -> Evolution:
            cards = space.cardinalities
            rules = (feasible, space.canonical, cards, config.evolution, repair)
            return evolve(start, key, promise(state, explore), *rules)

        self._search = jax.jit(search)
        self._promise = jax.jit(lambda state, vectors: promise(state, True)(vectors))
        self._believe = jax.jit(self.predictor.believe)

    def run(self, evaluate: Callable[[np.ndarray], np.ndarray], seed: int) -> Found:
        """Searches any objective.

        Args:
          evaluate: `int32[m, K] -> float[m]`, higher is better, nan for a failure.
          seed: of everything random.

        Raises:
          SpaceError: no candidate satisfies the budget.
        """
        root = jax.random.key(seed)
        size = self._config.pool_size
        pool = sobol_pool(self._space, size, self._costs, self._budget, seed)
        sample = self._space.sample(np.random.default_rng(seed), self._samples)
        pretrained = self.pretrain(sample, jax.random.fold_in(root, _PRETRAIN))
        measure = lambda number, vectors, predicted: np.asarray(evaluate(vectors), np.float32)
        vectors, scores = pool[:0], np.zeros(0, np.float32)
        best: list[int] = []
        for done, state in self.rounds(
            pool, pretrained, measure, jax.random.fold_in(root, _SEARCH)
        ):
            vectors = np.concatenate([vectors, done.vectors])
            scores = np.concatenate([scores, done.scores])
            marks = np.where(np.isfinite(scores), scores, -np.inf)
            best += [int(marks[: n + 1].argmax()) for n in range(len(best), len(marks))]
            if self._noisy and state is not None:
                predicted = self._predict_trials(state, vectors)[0]
                best[-1] = int(np.where(np.isfinite(scores), predicted, -np.inf).argmax())
        end = self._evaluations
        return Found(vectors[:end], scores[:end], np.array(best[:end]))

    def pretrain(self, sample: np.ndarray, key: jax.Array) -> PredictorState:
        """Trains the predictor's encoders on the costs of `int32[N, K]`; consumes the key."""
        return self.predictor.pretrain(sample, self._costs(sample), key)

    def rounds(
        self,
        pool: np.ndarray,
        pretrained: PredictorState,
        evaluate: Callable[[int, np.ndarray, np.ndarray], np.ndarray],
        key: jax.Array,
    ) -> Iterator[tuple[Round, Fitted | None]]:
        """Runs the coarse stage.

        Args:
          pool: `int32[P, K]`.
          pretrained: what `pretrain` returned.
          evaluate: see `coarse_stage`.
          key: consumed.

        Yields:
          Each round, and the predictor after it: None where every trial so far failed.
        """
        state: Fitted | None = None
        believed: Fitted | None = None
        known = pool[:0]

        def fit(vectors: np.ndarray, scores: np.ndarray) -> None:
            nonlocal state, known
            known = vectors[np.argsort(-scores)]
            state = self._fit(pretrained, vectors, scores, key)

        def propose(chosen: np.ndarray) -> np.ndarray:
            nonlocal believed
            believed = self._believe(believed, chosen[-1]) if len(chosen) else state
            if self._config.propose == "pool":
                # Stable, so that ties fall to the earlier one in the pool.
                return pool[np.argsort(-np.asarray(self._promise(believed, pool)), kind="stable")]
            # The number of trials names what is random here: a resumed search knows it.
            name = jax.random.fold_in(key, _PROPOSE)
            name = jax.random.fold_in(name, len(known) + len(chosen))
            found = self._evolve(known, pool, name, believed, explore=True)
            # Where the evolution knows nothing new, the pool goes on.
            return np.concatenate([found.population[np.isfinite(found.scores)], pool])

        rounds = coarse_stage(
            pool,
            self._rounds,
            self._config.per_round,
            evaluate,
            fit,
            lambda vectors: self.predictor.predict(state, vectors)[0],
            propose,
        )
        for done in rounds:
            yield done, state

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
        return self._evolve(trained, pool, key, fitted, explore=False)

    def _predict_trials(self, state: Fitted, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Predicts any number of trials with one program."""
        padded = np.pad(vectors, ((0, self._capacity - len(vectors)), (0, 0)))
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
        missing = self._capacity + len(pool) - len(start)
        start = np.concatenate([start, np.repeat(start[:1], missing, 0)])
        return jax.tree.map(np.asarray, self._search(start, key, state, explore))

    def _fit(
        self, pretrained: PredictorState, vectors: np.ndarray, scores: np.ndarray, key: jax.Array
    ) -> Fitted:
        name = jax.random.fold_in(jax.random.fold_in(key, _FIT), len(scores))
        return self.predictor.fit(pretrained, vectors, scores, name)
