"""The search as a user's tool: any space, any objective."""

import dataclasses

import jax
import numpy as np
import pytest
from compilations import compilations

from jointnas_jax.config import EvolutionConfig, PredictorConfig, SearchConfig
from jointnas_jax.errors import InputError, SpaceError
from jointnas_jax.space import PlainSpace
from jointnas_jax.strategy.pool import sobol_pool
from jointnas_jax.strategy.searcher import Searcher

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
    """Told of the budget alone: test, repair and features of the costs follow from it."""
    return Searcher(SPACE, 40, CONFIG, PREDICTOR, costs=cost, budget={0: 15})


def begun(searcher, pool):
    """A search that has asked for nothing."""
    key = jax.random.key(0)
    return searcher.init(pool=pool, pretrained=searcher.pretrain(pool, key), key=key)


@pytest.fixture(scope="module")
def pool(searcher):
    sample = SPACE.sample(np.random.default_rng(1), 256)
    return sample[cost(sample)[:, 0] <= 15][:128]


@pytest.fixture(scope="module")
def started(searcher, pool):
    """Five candidates have their scores, one of them failed."""
    state, asked = searcher.ask(begun(searcher, pool), 5)
    scores = score(asked.vectors)
    scores[2] = np.nan
    return searcher.tell(state, asked.numbers, scores)


@pytest.fixture(scope="module")
def found(searcher):
    return searcher.run(score, seed=0)


def test_it_finds_the_best_candidate_within_the_budget(found):
    assert found.state.scores.max() == 15


def test_nothing_over_the_budget_and_nothing_twice_is_evaluated(found):
    assert (cost(found.state.vectors) <= 15).all()
    assert len(np.unique(found.state.vectors, axis=0)) == len(found.state.vectors) == 40


def test_the_seed_decides(searcher, found):
    again, other = searcher.run(score, seed=0), searcher.run(score, seed=1)
    np.testing.assert_array_equal(found.state.vectors, again.state.vectors)
    assert not np.array_equal(found.state.vectors, other.state.vectors)


def test_it_beats_random_search(found):
    rng = np.random.default_rng(0)
    best = []
    for _ in range(20):
        drawn = SPACE.sample(rng, 400)
        best.append(score(drawn[cost(drawn)[:, 0] <= 15][:40]).max())
    assert found.state.scores.max() >= max(best)


def test_best_is_what_scored_best_so_far(found):
    expected = [np.argmax(found.state.scores[: n + 1]) for n in range(40)]
    assert found.best == expected


@pytest.mark.slow
def test_under_noise_the_luckiest_is_not_taken_for_the_best():
    """Five searches: what is predicted best is truly better than what scored best."""
    feasible = lambda v: v[:, 0] != 4
    searcher = Searcher(SPACE, 40, CONFIG, PREDICTOR, noisy=True, feasible=feasible)
    lucky, taken = [], []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        found = searcher.run(lambda v, rng=rng: score(v) + 8 * rng.normal(size=len(v)), seed)
        # A test of the user's own holds without a budget, too.
        assert feasible(found.state.vectors).all()
        # Not only after a round, also within it.
        measured = np.array([np.argmax(found.state.scores[: n + 1]) for n in range(40)])
        assert (np.array(found.best)[5:] != measured[5:]).mean() > 0.3
        lucky.append(score(found.state.vectors)[np.argmax(found.state.scores)])
        taken.append(score(found.state.vectors)[found.best[-1]])
    assert np.mean(taken) > np.mean(lucky)


def test_a_report_card_of_any_number_of_trials_compiles_nothing(searcher):
    sample = SPACE.sample(np.random.default_rng(0), 256)
    state = begun(searcher, sample)

    def card(count):
        some = state.asked(sample[:count]).answered(range(count), score(sample[:count]))
        return searcher.report_card(searcher.fit(dataclasses.replace(some, stale=True)))

    card(10)
    with compilations() as compiled:
        assert card(30).kendall > 0.5
    assert compiled == []


def test_a_failed_evaluation_is_not_the_best(searcher):
    broken = searcher.run(lambda v: np.where(v[:, 5] == 0, np.nan, score(v)), seed=0)
    assert np.isnan(broken.state.scores).any()
    assert broken.state.vectors[broken.best[-1], 5] == 1


def test_the_search_leaves_the_neighbourhood_of_failures(searcher):
    """The best half of the space fails."""
    broken = searcher.run(lambda v: np.where(v[:, 0] > 2, np.nan, score(v)), seed=0)
    failed = np.isnan(broken.state.scores)
    assert failed[20:].mean() < 0.5
    assert np.nanmax(broken.state.scores) >= 13


def test_evaluations_are_as_many_as_asked_for_and_the_last_is_the_fine_stages(searcher):
    sizes = []
    found = searcher.run(lambda v: sizes.append(len(v)) or score(v), seed=2)
    assert sizes == [5] * 7 + [4, 1]
    assert len(found.state.vectors) == 40
    # Predicted best of all is better than most that explore.
    assert found.state.scores[-1] > np.median(found.state.scores[5:-1])


def test_costs_alone_reach_the_process(searcher):
    features = searcher.predictor._costs(SPACE.sample(np.random.default_rng(3), 500))
    assert features.shape == (500, 1)
    assert abs(features.mean()) < 0.2
    assert features.std() == pytest.approx(1, abs=0.2)


def test_a_budget_of_costs_that_are_not_given_is_an_error():
    with pytest.raises(InputError, match="`costs`, which has 0"):
        Searcher(SPACE, 10, CONFIG, PREDICTOR, budget={0: 3})
    with pytest.raises(InputError, match="got 1"):
        Searcher(SPACE, 10, CONFIG, PREDICTOR, costs=cost, budget={1: 3})


def test_the_pool_comes_in_order_while_nothing_has_a_score(searcher, pool):
    state, first = searcher.ask(begun(searcher, pool), 3)
    assert ([*first.numbers], np.isnan(first.predicted).all()) == ([0, 1, 2], True)
    state = searcher.tell(state, first.numbers, [np.nan] * 3)
    assert searcher.fit(state) is state
    state, second = searcher.ask(state, 2)
    np.testing.assert_array_equal(np.concatenate([first.vectors, second.vectors]), pool[:5])
    assert state.fitted is None


def test_a_round_is_as_many_questions_without_an_answer_between_them(searcher, started):
    together, asked = searcher.ask(started, 4)
    alone = started
    for vector, predicted in zip(asked.vectors, asked.predicted, strict=True):
        alone, one = searcher.ask(alone, 1)
        np.testing.assert_array_equal(one.vectors[0], vector)
        assert one.predicted[0] == pytest.approx(predicted)
    assert alone.pending.tolist() == together.pending.tolist() == asked.vectors.tolist()


def test_a_state_follows_from_pool_key_and_results(searcher, pool, started):
    """However it came about; and it is a pytree."""
    before, asked = searcher.ask(started, 2)
    before, more = searcher.ask(searcher.tell(before, [6], [3.0]), 2)
    vectors = np.concatenate([started.vectors, asked.vectors])
    again = begun(searcher, pool).asked(vectors)
    again = searcher.tell(again, [6, *range(5)], [3.0, *started.scores])
    after, same = searcher.ask(jax.tree.map(lambda leaf: leaf, again), 2)
    np.testing.assert_array_equal(same.vectors, more.vectors)
    jax.tree.map(np.testing.assert_array_equal, before.fitted, after.fitted)


def test_a_predictor_is_fitted_again_only_where_there_are_results(searcher, started):
    fitted = searcher.fit(started)
    assert searcher.fit(fitted) is fitted
    asked, _ = searcher.ask(fitted, 1)
    assert asked.fitted is fitted.fitted
    told = searcher.tell(asked, [5], [1.0])
    assert searcher.fit(told).fitted is not fitted.fitted


def test_what_breaks_a_rule_is_never_asked_for(searcher):
    pool = SPACE.sample(np.random.default_rng(0), 5)
    pool[3, :4] = 5
    with pytest.raises(SpaceError, match="over the budget"):
        searcher.ask(begun(searcher, pool), 5)


def test_a_test_that_refuses_everything_is_an_error():
    nothing = lambda v: v[:, 0] < 0
    with pytest.raises(SpaceError, match="`feasible`"):
        Searcher(SPACE, 10, CONFIG, PREDICTOR, feasible=nothing).run(score, seed=0)


def test_a_score_for_every_candidate_is_asked_for(searcher):
    with pytest.raises(InputError, match="each of 5 candidates"):
        searcher.run(lambda v: 1.0, seed=0)


def test_a_budget_below_everything_is_an_error():
    with pytest.raises(SpaceError, match="budget"):
        Searcher(SPACE, 10, CONFIG, PREDICTOR, costs=cost, budget={0: 3}).run(score, seed=0)


def test_the_papers_choice_stays_in_the_pool():
    config = dataclasses.replace(CONFIG, propose="pool")
    predictor = dataclasses.replace(PREDICTOR, process=False)
    found = Searcher(SPACE, 20, config, predictor).run(score, seed=0)
    pool = sobol_pool(SPACE, 128, lambda v: np.ones((len(v), 1), np.int64), {}, 0)
    # The last one is the fine stage's.
    assert {tuple(v) for v in found.state.vectors[:-1]} <= {tuple(v) for v in pool}
    assert found.state.scores[5:].mean() > found.state.scores[:5].mean()


def test_the_papers_round_is_the_best_predicted_of_the_pool():
    """With the Gaussian process, too."""
    config = dataclasses.replace(CONFIG, propose="pool", acquisition="mean")
    searcher = Searcher(SPACE, 10, config, PREDICTOR)
    pool = SPACE.sample(np.random.default_rng(0), 64)
    state, first = searcher.ask(begun(searcher, pool), 5)
    state = searcher.tell(state, first.numbers, score(first.vectors))
    state, second = searcher.ask(state, 5)
    np.testing.assert_array_equal(first.vectors, pool[:5])
    predicted = searcher.predictor.predict(state.fitted, pool[5:])[0]
    best = np.argsort(-predicted, kind="stable")[:5]
    np.testing.assert_array_equal(second.vectors, pool[5:][best])
    np.testing.assert_array_equal(second.predicted, predicted[best])


def test_a_share_of_the_candidates_is_the_most_promising_of_a_few_of_the_pool(pool):
    config = dataclasses.replace(CONFIG, varied=0.4)
    searcher = Searcher(SPACE, 20, config, PREDICTOR, costs=cost, budget={0: 15})
    state, first = searcher.ask(begun(searcher, pool), 5)
    state = searcher.tell(state, first.numbers, score(first.vectors))
    state, second = searcher.ask(state, 5)
    inside = [(pool == vector).all(axis=1).any() for vector in second.vectors]
    assert inside[2]
    assert inside[4]
    assert not all(inside)
    # In one go or one after the other.
    alone = dataclasses.replace(state, vectors=first.vectors, finished=state.finished[:5])
    alone = dataclasses.replace(alone, scores=state.scores[:5], believed=None, beliefs=0)
    for vector in second.vectors:
        alone, asked = searcher.ask(alone, 1)
        np.testing.assert_array_equal(asked.vectors, vector[None])


def test_a_small_space_is_evaluated_whole():
    """With knobs of real numbers."""
    space = PlainSpace.of({"a": (0.0, 0.3, 0.1), "b": [0.5, 0.25]})
    values = lambda v: [space.values(row) for row in v]
    evaluate = lambda v: np.array([x["a"] - x["b"] for x in values(v)])
    found = Searcher(space, 30, CONFIG, PREDICTOR).run(evaluate, seed=0)
    assert len(found.state.vectors) == 8
    assert values(found.state.vectors[found.best[-1:]]) == [{"a": 0.3, "b": 0.25}]


def test_a_space_without_a_choice_is_an_error():
    with pytest.raises(SpaceError, match="more than one value"):
        PlainSpace.of({"a": [3]})


@pytest.fixture(scope="module")
def by_rungs(pool):
    """A search whose candidates stop after half a training, and five of them that have."""
    searcher = Searcher(SPACE, 40, CONFIG, PREDICTOR, costs=cost, budget={0: 15}, rungs=(0.5, 1.0))
    state, asked = searcher.ask(begun(searcher, pool), 5)
    assert asked.rungs == [0] * 5
    return searcher, searcher.tell(state, asked.numbers, score(asked.vectors))


def test_one_of_the_best_that_stopped_goes_on(by_rungs):
    """It promises nearly as much as a new one, for half of what that takes."""
    searcher, state = by_rungs
    after, asked = searcher.ask(state, 3)
    went_on = [number for number in asked.numbers if number < 5]
    assert went_on
    assert state.scores[went_on].min() >= np.median(state.scores)
    for number, rung, vector in zip(asked.numbers, asked.rungs, asked.vectors, strict=True):
        assert rung == (number < 5)
        np.testing.assert_array_equal(vector, after.vectors[number])
    assert len(set(asked.numbers)) == 3


def test_at_the_end_a_candidate_counts_as_measured_and_is_done(by_rungs):
    searcher, state = by_rungs
    assert (state.variances > 0).all()
    after, asked = searcher.ask(state, 3)
    number = next(n for n, rung in zip(asked.numbers, asked.rungs, strict=True) if rung)
    after = searcher.tell(after, asked.numbers, np.arange(3) - 20.0)
    assert after.scores[number] == [*asked.numbers].index(number) - 20.0
    assert after.variances[number] == 0
    assert number not in after.paused
    lost = searcher.tell(after.asked_to_go_on(0), [0], [np.nan])
    assert lost.rungs[0] == 0
    assert 0 not in lost.paused
    np.testing.assert_array_equal(lost.failed, after.vectors[:1])
