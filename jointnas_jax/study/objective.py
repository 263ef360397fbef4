"""The same search on any objective: vectors of any space in, scores out."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jointnas_jax.config import EvolutionConfig, PredictorConfig
from jointnas_jax.predictor.predictor import CostFeatures, Fitted, Predictor
from jointnas_jax.search.coarse import coarse_stage
from jointnas_jax.search.evolution import evolve
from jointnas_jax.search.pool import sobol_pool
from jointnas_jax.space.features import FeatureTable
from jointnas_jax.space.vectors import VectorSpace

_PRETRAIN, _FIT, _PROPOSE = range(3)


class Found(NamedTuple):
    """What a search evaluated, in order.

    Attributes:
      vectors: `int32[E, K]`.
      scores: `float32[E]`, nan where an evaluation failed.
    """

    vectors: np.ndarray
    scores: np.ndarray


class Searcher:
    """Coarse and fine stage for one space: every round evaluates what the evolution proposes.

    One object serves any number of searches; its programs are compiled once.
    """

    def __init__(
        self,
        space: VectorSpace,
        evaluations: int,
        per_round: int = 5,
        *,
        costs: Callable[[np.ndarray], np.ndarray] | None = None,
        cost_features: CostFeatures | None = None,
        budget: Mapping[int, int] | None = None,
        feasible: Callable[[Any], Any] | None = None,
        kappa: float = 0.5,
        pool_size: int = 1024,
        predictor: PredictorConfig | None = None,
        evolution: EvolutionConfig | None = None,
    ):
        """Prepares searches.

        Args:
          space: of the candidates.
          evaluations: E, at most.
          per_round: candidates that are evaluated at once.
          costs: `int32[N, K] -> int64[N, P]`, free costs that pretrain the predictor.
          cost_features: standardised logarithms of the costs, also under `jit`.
          budget: column of `costs` -> limit.
          feasible: the budget as a test `int32[N, K] -> bool[N]`, also under `jit`.
          kappa: spreads that are added to a predicted score when candidates are chosen; 0 as in
            the paper.
          pool_size: candidates of the quasi-Monte-Carlo pool.
          predictor: settings.
          evolution: settings.
        """
        self._space, self._evaluations, self._per_round = space, evaluations, per_round
        self._rounds = -(-evaluations // per_round)
        self._capacity = self._rounds * per_round
        self._costs, self._budget = costs, dict(budget or {})
        self._pool_size = pool_size
        self._config = predictor or PredictorConfig()
        self._predictor = Predictor(
            FeatureTable.of(space), self._config, self._capacity, cost_features
        )
        settings = evolution or EvolutionConfig()
        feasible = feasible or (lambda vectors: vectors[:, 0] >= 0)

        def propose(start: jax.Array, key: jax.Array, state: Fitted) -> jax.Array:
            score = self._predictor.score_fn(state, kappa)
            cards = space.cardinalities
            return evolve(start, key, score, feasible, space.canonical, cards, settings).population

        self._propose = jax.jit(propose)

    def run(self, evaluate: Callable[[np.ndarray], np.ndarray], seed: int) -> Found:
        """Searches.

        Args:
          evaluate: `int32[m, K] -> float[m]`, higher is better, nan for a failure.
          seed: of everything random.

        Raises:
          SpaceError: no candidate satisfies the budget.
        """
        root = jax.random.key(seed)
        key = lambda stream, index=0: jax.random.fold_in(jax.random.fold_in(root, stream), index)
        costs = self._costs or (lambda vectors: np.ones((len(vectors), 1), np.int64))
        pool = sobol_pool(self._space, self._pool_size, costs, self._budget, seed)
        sample = self._space.sample(np.random.default_rng(seed), self._config.pretrain_samples)
        pretrained = self._predictor.pretrain(sample, costs(sample), key(_PRETRAIN))
        state: Fitted | None = None
        known = pool[:1]

        def fit(vectors: np.ndarray, scores: np.ndarray) -> None:
            nonlocal state, known
            known = vectors[np.argsort(-scores)]
            state = self._predictor.fit(pretrained, vectors, scores, key(_FIT, len(scores)))

        def propose() -> np.ndarray:
            # Of one shape, so that it compiles once; the first row fills up.
            start = np.concatenate([known, pool])
            missing = self._capacity + self._pool_size - len(start)
            start = np.concatenate([start, np.repeat(start[:1], missing, 0)])
            found = np.asarray(self._propose(start, key(_PROPOSE, len(known)), state))
            # Where the evolution knows nothing new, the pool goes on.
            return np.concatenate([found, pool])

        rounds = coarse_stage(
            pool,
            self._rounds,
            self._per_round,
            lambda number, vectors, predicted: np.asarray(evaluate(vectors), np.float32),
            fit,
            lambda vectors: self._predictor.predict(state, vectors)[0],
            propose,
        )
        done = list(rounds)
        vectors = np.concatenate([r.vectors for r in done])[: self._evaluations]
        return Found(vectors, np.concatenate([r.scores for r in done])[: self._evaluations])
