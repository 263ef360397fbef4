"""The search as a user's tool: any space, any objective."""

import dataclasses

import jax
import numpy as np
import pytest

from jointnas_jax.config import EvolutionConfig, PredictorConfig, SearchConfig
from jointnas_jax.errors import SpaceError
from jointnas_jax.search.pool import sobol_pool
from jointnas_jax.space import PlainSpace
from jointnas_jax.study.searcher import Searcher

SPACE = PlainSpace.of(
    arch={f"width{i}": (1, 6) for i in range(4)},
    recipe=dict(lr=(0, 9), optimizer=["sgd", "rmsprop"]),
)
PREDICTOR = PredictorConfig(members=2, width=16, embedding=8, pretrain_samples=256)
CONFIG = SearchConfig(pool_size=128, per_round=5, evolution=EvolutionConfig(generations=20))


def cost(vectors):
    return (1 + vectors[:, :4]).sum(-1, keepdims=True).astype(np.int64)


def score(vectors):
    """Wider is better, with a best learning rate that depends on the optimizer."""
    best = np.where(vectors[:, 5] == 0, 7, 3)
    return (1 + vectors[:, :4]).sum(-1) - 0.5 * (vectors[:, 4] - best) ** 2


@pytest.fixture(scope="module")
def searcher():
    return Searcher(
        SPACE,
        40,
        CONFIG,
        PREDICTOR,
        costs=cost,
        budget={0: 15},
        feasible=lambda v: (1 + v[:, :4]).sum(-1) <= 15,
    )


@pytest.fixture(scope="module")
def found(searcher):
    return searcher.run(score, seed=0)


def test_it_finds_the_best_candidate_within_the_budget(found):
    assert found.scores.max() == 15


def test_nothing_over_the_budget_and_nothing_twice_is_evaluated(found):
    assert (cost(found.vectors) <= 15).all()
    assert len(np.unique(found.vectors, axis=0)) == len(found.vectors) == 40


def test_the_seed_decides(searcher, found):
    again, other = searcher.run(score, seed=0), searcher.run(score, seed=1)
    np.testing.assert_array_equal(found.vectors, again.vectors)
    assert not np.array_equal(found.vectors, other.vectors)


def test_it_beats_random_search(found):
    rng = np.random.default_rng(0)
    best = []
    for _ in range(20):
        drawn = SPACE.sample(rng, 400)
        best.append(score(drawn[cost(drawn)[:, 0] <= 15][:40]).max())
    assert found.scores.max() >= max(best)


def test_best_is_what_scored_best_so_far(found):
    expected = [np.argmax(found.scores[: n + 1]) for n in range(40)]
    assert found.best.tolist() == expected


def test_under_noise_the_luckiest_is_not_taken_for_the_best():
    """Five searches: what is predicted best is truly better than what scored best."""
    searcher = Searcher(SPACE, 40, CONFIG, PREDICTOR, noisy=True)
    lucky, taken = [], []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        found = searcher.run(lambda v, rng=rng: score(v) + 8 * rng.normal(size=len(v)), seed)
        lucky.append(score(found.vectors)[np.argmax(found.scores)])
        taken.append(score(found.vectors)[found.best[-1]])
    assert np.mean(taken) > np.mean(lucky)


def test_a_report_card_of_any_number_of_trials_compiles_nothing(searcher):
    sample = SPACE.sample(np.random.default_rng(0), 256)
    key = jax.random.key(0)
    pretrained = searcher.pretrain(sample, key)

    def card(count):
        vectors = sample[:count]
        fitted = searcher.predictor.fit(pretrained, vectors, score(vectors), key)
        return searcher.report_card(pretrained, fitted, vectors, score(vectors), key)

    card(10)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if "backend_compile" in event else None
    )
    assert card(30).kendall > 0.5
    jax.monitoring.clear_event_listeners()
    assert compiled == []


def test_a_failed_evaluation_is_not_the_best(searcher):
    broken = searcher.run(lambda v: np.where(v[:, 5] == 0, np.nan, score(v)), seed=0)
    assert np.isnan(broken.scores).any()
    assert broken.vectors[broken.best[-1], 5] == 1


def test_a_budget_below_everything_is_an_error():
    with pytest.raises(SpaceError, match="budget"):
        Searcher(SPACE, 10, CONFIG, PREDICTOR, costs=cost, budget={0: 3}).run(score, seed=0)


def test_the_papers_choice_stays_in_the_pool():
    config = dataclasses.replace(CONFIG, propose="pool")
    predictor = dataclasses.replace(PREDICTOR, process=False)
    found = Searcher(SPACE, 20, config, predictor).run(score, seed=0)
    pool = sobol_pool(SPACE, 128, lambda v: np.ones((len(v), 1), np.int64), {}, 0)
    assert {tuple(v) for v in found.vectors} <= {tuple(v) for v in pool}
    assert found.scores[5:].mean() > found.scores[:5].mean()


def test_a_small_space_is_evaluated_whole():
    space = PlainSpace.of({"a": (0, 3), "b": [0, 1]})
    found = Searcher(space, 30, CONFIG, PREDICTOR).run(lambda v: v.sum(-1), seed=0)
    assert len(found.vectors) == 8
