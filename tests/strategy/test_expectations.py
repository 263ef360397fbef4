"""What is expected before any trial: it helps where it is right, and washes out where it is not."""

import jax
import numpy as np
import pytest

from jointnas_jax.config import PredictorConfig, SearchConfig
from jointnas_jax.errors import ConfigError
from jointnas_jax.predictor.predictor import Predictor
from jointnas_jax.space import Knob, PlainSpace
from jointnas_jax.space.features import FeatureTable
from jointnas_jax.space.prior import Prior
from jointnas_jax.strategy.foreign import Foreign
from jointnas_jax.strategy.pool import sobol_pool
from jointnas_jax.strategy.searcher import Searcher

SPACE = PlainSpace((), tuple(Knob.integer(f"x{j}", 0, 9) for j in range(4)))
SETTINGS = PredictorConfig(pretrain_epochs=0)
VECTORS = SPACE.sample(np.random.default_rng(9), 500)


def quality(vectors):
    """Best at 7 everywhere."""
    return -np.square((np.asarray(vectors) - 7) / 9).sum(-1)


def prior_at(value):
    around = {"centre": value, "width": 0.2}
    return Prior.of(SPACE.knobs, {k.name: around for k in SPACE.knobs}, name="prior")


@pytest.fixture(scope="module")
def learnt():
    """A predictor of 24 trials with an expectation that can be exchanged: its weight."""
    chosen = {}
    expectation = lambda vectors: chosen["it"](vectors)
    vectors = SPACE.sample(np.random.default_rng(3), 24)

    def weight(it):
        chosen["it"] = it
        predictor = Predictor(
            FeatureTable.of(SPACE), SETTINGS, capacity=24, expectations=[expectation]
        )
        fitted = predictor.fit(
            None, vectors, quality(vectors), key=jax.random.key(0), networks=False
        )
        return predictor.weights_of_expectations(fitted)[0]

    return weight


def test_trials_teach_how_far_an_expectation_holds(learnt):
    right, wrong = learnt(prior_at(7).expectation), learnt(prior_at(0).expectation)
    assert right > 0.5
    assert wrong < 0.35  # half of what is expected before any trial


def test_half_of_a_pool_follows_a_prior_and_half_is_even():
    free = lambda vectors: np.ones((len(vectors), 1), np.int64)
    pool = sobol_pool(SPACE, 512, free, {}, 0, prior=prior_at(7))
    shares = np.array([np.bincount(pool[:, j], minlength=10) for j in range(4)]) / len(pool)
    weights = np.array(prior_at(7).weights)
    np.testing.assert_allclose(shares, (weights + 0.1) / 2, atol=0.04)


@pytest.mark.slow
def test_a_search_with_a_good_prior_begins_better_and_a_bad_one_does_not_hold_it():
    found = {}
    for name, prior in (("none", None), ("good", prior_at(7)), ("bad", prior_at(0))):
        searcher = Searcher(
            SPACE,
            24,
            SearchConfig(pool_size=256, per_round=4, propose="pool"),
            SETTINGS,
            prior=prior,
        )
        found[name] = np.mean(
            [
                np.maximum.accumulate(quality(searcher.run(quality, seed).state.vectors))[[7, 23]]
                for seed in range(3)
            ],
            axis=0,
        )
    assert found["good"][0] > found["none"][0]
    assert found["bad"][1] > found["none"][0]


def trials(space, count, score, seed=0):
    """Knobs and curves of random candidates."""
    vectors = space.sample(np.random.default_rng(seed), count)
    return [space.values(v) for v in vectors], [(s,) for s in score(vectors)]


def foreign(knobs, curves, space=SPACE):
    return Foreign.of(space, "runs/a", knobs, curves)


def test_trials_of_the_same_space_are_all_there():
    knobs, curves = trials(SPACE, 10, quality)
    found = foreign(knobs, curves)
    np.testing.assert_array_equal([SPACE.values(v) for v in found.vectors], knobs)
    np.testing.assert_array_equal(found.scores, np.ravel(curves))
    assert found.in_words() == "10 trials of `runs/a` on 4 of 4 knobs"


def test_shared_knobs_are_mapped_by_name_and_value_and_the_rest_is_said():
    other = PlainSpace(
        (Knob.choice("act", ["relu", "gelu"]),),
        (Knob.integer("x1", 5, 12), Knob.choice("x0", [3, 1, 9]), Knob.integer("x3", 20, 30)),
    )
    knobs, curves = trials(other, 40, lambda v: np.arange(len(v)))
    found = foreign(knobs, curves)
    inside = [one for one in knobs if one["x1"] <= 9]
    assert 0 < len(inside) < 40
    assert found.shared.tolist() == [True, True, False, False]
    assert [dict(x0=int(v[0]), x1=int(v[1])) for v in found.vectors] == [
        dict(x0=one["x0"], x1=one["x1"]) for one in inside
    ]
    assert not found.vectors[:, 2:].any()
    assert found.in_words() == (
        f"{len(inside)} trials of `runs/a` on 2 of 4 knobs; not there: x2, x3; "
        f"not here: act, x3; {40 - len(inside)} trials with other values left out"
    )


@pytest.mark.parametrize("knobs", [[{"y": 1}], [{"x0": 20}, {"x0": 1.5}], []])
def test_what_shares_nothing_is_refused_in_one_line(knobs):
    with pytest.raises(ConfigError, match="none of the .* trials of `runs/a` can be") as caught:
        foreign(knobs, [(0.5,)] * len(knobs))
    assert "\n" not in str(caught.value)


def test_shorter_curves_count_as_far_as_they_foretell():
    knobs, _ = trials(SPACE, 20, quality)
    ends = np.linspace(0, 1, 20)
    curves = [(end / 2, end) if i % 2 else (end / 2,) for i, end in enumerate(ends)]
    found = foreign(knobs, curves)
    np.testing.assert_array_equal(found.scores[1::2], ends[1::2])
    assert not found.variances[1::2].any()
    assert (found.variances[::2] > 0).all()
    np.testing.assert_allclose(found.scores[::2], ends[::2], atol=0.2)


def test_too_many_trials_are_thinned_and_the_best_stays():
    knobs, curves = trials(SPACE, 2000, quality)
    found = foreign(knobs, curves)
    assert len(found.vectors) == 512
    assert found.scores.max() == np.max(curves)


@pytest.fixture(scope="module")
def expectations():
    """Of a study of shared knobs: by the same quality, and of scores by chance."""
    narrow = PlainSpace((), SPACE.knobs[:3])
    chance = lambda vectors: np.random.default_rng(5).normal(size=len(vectors))
    table = FeatureTable.of(SPACE)
    return {
        name: foreign(*trials(narrow, 40, score)).expectation(table, SETTINGS, None)
        for name, score in (("right", quality), ("chance", chance))
    }


def test_an_earlier_study_is_an_expectation_over_its_knobs(expectations):
    vectors = VECTORS
    expected = np.asarray(expectations["right"](vectors))
    assert np.corrcoef(expected, quality(vectors[:, :3]))[0, 1] > 0.9
    assert abs(expected.mean()) < 0.2
    assert 0.5 < expected.std() < 1.2
    other = vectors.copy()
    other[:, 3] = 9 - other[:, 3]
    np.testing.assert_array_equal(np.asarray(expectations["right"](other)), expected)


def test_a_study_that_does_not_correlate_washes_out(expectations, learnt):
    spread = lambda name: float(np.std(np.asarray(expectations[name](VECTORS))))
    effect = {name: learnt(it) * spread(name) for name, it in expectations.items()}
    assert effect["right"] > 0.4
    assert abs(effect["chance"]) < 0.5 * effect["right"]
