import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import spearmanr

from jointnas_jax.config import PredictorConfig, default_config
from jointnas_jax.errors import InputError
from jointnas_jax.nets.cost import CostTable
from jointnas_jax.predictor import predictor as predictor_module
from jointnas_jax.predictor.fit import fit
from jointnas_jax.predictor.predictor import Predictor
from jointnas_jax.space import PlainSpace
from jointnas_jax.space.features import FeatureTable

CONFIG = PredictorConfig(members=3, width=32, embedding=16, pretrain_epochs=150)


@pytest.fixture(scope="module")
def vectors(tiny_space):
    return tiny_space.sample(np.random.default_rng(0), 512)


@pytest.fixture(scope="module")
def costs(tiny_space, vectors):
    return CostTable.of(tiny_space)(vectors)[:, :2]


@pytest.fixture(scope="module")
def predictor(tiny_space):
    return Predictor(FeatureTable.of(tiny_space), CONFIG, capacity=64)


@pytest.fixture(scope="module")
def pretrained(predictor, vectors, costs):
    return predictor.pretrain(vectors, costs, jax.random.key(0))


@pytest.fixture(scope="module")
def scores(tiny_space, vectors, costs):
    """Accuracy that grows with the network and has a best learning rate."""
    lr = np.array([tiny_space.values(v)["lr"] for v in vectors])
    return (0.8 + 0.03 * np.log(costs[:, 0] / costs[:, 0].mean()) - 40 * (lr - 0.03) ** 2).astype(
        np.float32
    )


def mean_correlation(vectors, scores, model, start):
    """Rank correlation with what was not learnt from, for fits to 12 trials, over five seeds."""
    found = []
    for seed in range(5):
        chosen = np.random.default_rng(seed).permutation(512)
        train, test = chosen[:12], chosen[12:]
        state = model.fit(start, vectors[train], scores[train], key=jax.random.key(seed))
        found.append(spearmanr(model.predict(state, vectors[test])[0], scores[test])[0])
    return np.mean(found)


def test_pretraining_learns_the_costs(predictor, pretrained, vectors, costs, tiny_space):
    from jointnas_jax.predictor.model import PredictorNet

    net = PredictorNet(2, CONFIG.width, CONFIG.embedding)
    first = jax.tree.map(lambda p: p[0], pretrained.params)
    fresh = tiny_space.sample(np.random.default_rng(1), 200)
    predicted = net.apply(first, FeatureTable.of(tiny_space)(fresh)[0], method="predict_proxies")
    true = np.log(CostTable.of(tiny_space)(fresh)[:, :2])
    for column in range(2):
        assert spearmanr(predicted[:, column], true[:, column])[0] > 0.97


def test_a_fit_ranks_candidates_it_has_not_seen(predictor, pretrained, vectors, scores):
    state = predictor.fit(pretrained, vectors[:64], scores[:64], key=jax.random.key(1))
    mean, spread = predictor.predict(state, vectors[64:])
    assert spearmanr(mean, scores[64:])[0] > 0.9
    assert abs(mean.mean() - scores.mean()) < 0.02  # in units of the scores
    assert (spread > 0).all()


def test_pretraining_helps_with_few_trials(predictor, pretrained, vectors, scores, costs):
    """The same fits with and without the free costs, 12 trials each."""
    untaught = Predictor(
        predictor._features, dataclasses.replace(CONFIG, pretrain_epochs=0), capacity=64
    )
    blank = untaught.pretrain(vectors, costs, jax.random.key(0))

    correlation = functools.partial(mean_correlation, vectors, scores)
    assert correlation(predictor, pretrained) > correlation(untaught, blank) + 0.02


def test_frozen_epochs_leave_the_encoder_alone_and_the_others_move_it(
    tiny_space, pretrained, vectors, scores
):
    features = FeatureTable.of(tiny_space)(vectors[:64])

    def changed(frozen_epochs, full_epochs):
        config = dataclasses.replace(CONFIG, frozen_epochs=frozen_epochs, full_epochs=full_epochs)
        key, count = jax.random.key(0), np.int32(64)
        state = fit(pretrained, features, scores[:64], count=count, key=key, config=config)
        before, after = pretrained.params["params"], state.params["params"]
        return {
            part
            for part in before
            if not all(
                np.array_equal(a, b)
                for a, b in zip(
                    jax.tree.leaves(before[part]), jax.tree.leaves(after[part]), strict=True
                )
            )
        }

    assert changed(50, 0) == {"accuracy_head"}
    assert changed(0, 5) == {"accuracy_head", "encoder"}


def test_padding_rows_do_not_count(tiny_space, pretrained, vectors, scores):
    features = FeatureTable.of(tiny_space)(vectors[:64])

    def fitted(fill):
        padded = np.where(np.arange(64) < 20, scores[:64], np.float32(fill))
        key, count = jax.random.key(0), np.int32(20)
        return fit(pretrained, features, padded, count=count, key=key, config=CONFIG)

    for a, b in zip(jax.tree.leaves(fitted(0.0)), jax.tree.leaves(fitted(1e3)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_few_programs_predict_any_number_of_candidates(predictor, pretrained, vectors, scores):
    state = predictor.fit(pretrained, vectors[:8], scores[:8], key=jax.random.key(1))
    mean, spread = predictor.predict(state, vectors[:300])
    known = predictor._predict._cache_size()
    for count in (1, 3, 64):
        own = predictor.predict(state, vectors[:count])
        np.testing.assert_allclose(own, (mean[:count], spread[:count]), rtol=1e-4, atol=1e-6)
    assert predictor._predict._cache_size() == known + 1


def test_more_trials_compile_nothing(predictor, pretrained, vectors, scores):
    predictor.fit(pretrained, vectors[:5], scores[:5], key=jax.random.key(0))
    before = predictor._fit._cache_size()
    for count in (1, 17, 64):
        state = predictor.fit(pretrained, vectors[:count], scores[:count], key=jax.random.key(0))
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    assert predictor._fit._cache_size() == before


def test_members_differ_and_the_key_decides(predictor, pretrained, vectors, scores):
    a, b = (
        predictor.fit(pretrained, vectors[:30], scores[:30], key=jax.random.key(3))
        for _ in range(2)
    )
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)
    other = predictor.fit(pretrained, vectors[:30], scores[:30], key=jax.random.key(4))
    kernel, another = (
        s.networks.params["params"]["accuracy_head"]["layers_0"]["kernel"] for s in (a, other)
    )
    assert not np.allclose(kernel, another)
    assert kernel.shape[0] == CONFIG.members
    assert not np.allclose(kernel[0], kernel[1])


def test_equal_scores_give_a_finite_predictor(predictor, pretrained, vectors):
    state = predictor.fit(pretrained, vectors[:8], np.full(8, 0.9), key=jax.random.key(0))
    mean, spread = predictor.predict(state, vectors)
    np.testing.assert_allclose(mean, 0.9, atol=0.2)
    assert (spread < 2).all()


@pytest.mark.parametrize(("scale", "offset"), [(1e-8, 0.0), (1.0, 1e8)])
def test_scale_and_offset_of_the_scores_do_not_matter(
    predictor, pretrained, vectors, scores, scale, offset
):
    """To 32 bits the scores would be constant or equal."""
    scores = scores.astype(np.float64)
    fitted = lambda s: predictor.fit(pretrained, vectors[:40], s[:40], key=jax.random.key(0))
    plain, moved = fitted(scores), fitted(scale * scores + offset)
    expected = predictor.predict(plain, vectors)[0] * scale + offset
    found, spread = predictor.predict(moved, vectors)
    np.testing.assert_allclose(found - offset, expected - offset, atol=2e-3 * scale)
    assert spread.max() < scale
    assert predictor.noise(moved) == pytest.approx(predictor.noise(plain) * scale, rel=0.2)


def test_more_trials_than_capacity_are_an_error(predictor, pretrained, vectors, scores):
    with pytest.raises(InputError, match="up to 64 trials"):
        predictor.fit(pretrained, vectors[:65], scores[:65], key=jax.random.key(0))


def test_scores_that_are_not_finite_are_an_error(predictor, pretrained, vectors):
    with pytest.raises(InputError, match="finite"):
        predictor.fit(pretrained, vectors[:2], np.array([1.0, np.nan]), key=jax.random.key(0))


def test_cost_features_that_are_not_finite_are_an_error(tiny_space, pretrained, vectors, scores):
    config = dataclasses.replace(CONFIG, frozen_epochs=0, full_epochs=0)
    broken = lambda v: jnp.full((len(v), 1), -jnp.inf)
    model = Predictor(FeatureTable.of(tiny_space), config, capacity=8, costs=broken)
    with pytest.raises(InputError, match="cost of 0"):
        model.fit(pretrained, vectors[:8], scores[:8], key=jax.random.key(0))


def test_costs_of_0_pretrain(tiny_space, vectors, costs):
    config = dataclasses.replace(CONFIG, members=1, pretrain_epochs=1)
    model = Predictor(FeatureTable.of(tiny_space), config, capacity=8)
    free = costs.copy()
    free[::3, 0], free[:, 1] = 0, 0
    state = model.pretrain(vectors, free, jax.random.key(0))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_the_process_alone_predicts_without_networks(predictor, pretrained, vectors, scores):
    state = predictor.fit(
        pretrained, vectors[:40], scores[:40], key=jax.random.key(0), networks=False
    )
    assert state.networks is None
    assert spearmanr(predictor.predict(state, vectors[64:])[0], scores[64:])[0] > 0.8


def test_the_process_adds_what_the_networks_lack(tiny_space, pretrained, vectors, scores):
    """With a dozen trials, both together rank better than the networks alone."""
    table = CostTable.of(tiny_space).logs(("flops", "params"))
    mean, std = table(vectors).mean(0), table(vectors).std(0)
    costs = lambda v: (table(v) - mean) / std

    def correlation(process):
        config = dataclasses.replace(CONFIG, process=process)
        model = Predictor(FeatureTable.of(tiny_space), config, capacity=64, costs=costs)
        return mean_correlation(vectors, scores, model, pretrained)

    assert correlation(True) > correlation(False)


def test_improvement_is_expected_elsewhere_once_a_candidate_is_believed(
    predictor, pretrained, vectors, scores
):
    state = predictor.fit(pretrained, vectors[:30], scores[:30], key=jax.random.key(0))
    others = vectors[30:]
    before = predictor.improvement_fn(state)(others)
    best = int(jnp.argmax(before))
    believed = predictor.believe(state, jnp.asarray(others[best]))
    after = predictor.improvement_fn(believed)(others)
    assert after[best] < before[best] - 1.5
    assert int(jnp.argmax(after)) != best


def test_the_noise_is_found(predictor, pretrained, vectors):
    """Scores from 0 to 0.5, measured with a deviation of 0.05."""
    rng = np.random.default_rng(0)
    scores = 0.5 * vectors[:64, 0] / vectors[:64, 0].max() + 0.05 * rng.normal(size=64)
    noise = predictor.noise(predictor.fit(pretrained, vectors[:64], scores, key=jax.random.key(0)))
    assert 0.025 < noise < 0.1


@pytest.mark.parametrize("process", [True, False])
def test_a_saved_predictor_predicts_the_same(tmp_path, tiny_space, vectors, scores, costs, process):
    config = dataclasses.replace(CONFIG, process=process)
    model = Predictor(FeatureTable.of(tiny_space), config, capacity=64)
    start = model.pretrain(vectors, costs, jax.random.key(0))
    state = model.fit(start, vectors[:40], scores[:40], key=jax.random.key(1))
    model.save(tmp_path / "predictor", state)
    again = Predictor(FeatureTable.of(tiny_space), config, capacity=64).load(tmp_path / "predictor")
    for a, b in zip(model.predict(state, vectors), model.predict(again, vectors), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_predictor_saved_before_there_were_trends_has_none(
    tmp_path, tiny_space, vectors, scores, monkeypatch
):
    model = Predictor(FeatureTable.of(tiny_space), CONFIG, capacity=64)
    start = model.pretrain(vectors, 1 + vectors[:, :2].astype(np.int64), jax.random.key(0))
    state = model.fit(start, vectors[:9], scores[:9], key=jax.random.key(1))
    model.save(tmp_path / "predictor", state)
    load = predictor_module.load_arrays

    def older(path):
        tree = load(path)
        del tree["process"]["trend"]
        return tree

    monkeypatch.setattr(predictor_module, "load_arrays", older)
    again = model.load(tmp_path / "predictor")
    for a, b in zip(model.predict(state, vectors), model.predict(again, vectors), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_score_under_jit_is_the_mean(predictor, pretrained, vectors, scores):
    state = predictor.fit(pretrained, vectors[:30], scores[:30], key=jax.random.key(3))
    mean, _ = predictor.predict(state, vectors)
    found = jax.jit(predictor.score_fn(state))(jnp.asarray(vectors))
    np.testing.assert_allclose(predictor.in_scores(state, found), mean, rtol=1e-4)
    both = jax.jit(predictor.mean_and_spread)(state, jnp.asarray(vectors))
    for a, b in zip(both, predictor.predict(state, vectors), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4)


def test_the_process_sees_each_choice_once_and_values_at_distance_one():
    """Also where a constant feature stands for a fixed architecture."""
    for arch in ({}, {"two": ["a", "b"], "three": ["a", "b", "c"]}):
        space = PlainSpace.of(arch, {"lr": (0, 4), "pair": [True, False]})
        predictor = Predictor(FeatureTable.of(space), CONFIG, capacity=8)
        first = np.zeros(len(space.knobs), np.int32)
        for knob, values in enumerate(space.cardinalities):
            other = first.copy()
            other[knob] = values - 1
            inputs = np.asarray(predictor._inputs(np.stack([first, other])))
            assert np.linalg.norm(inputs[0] - inputs[1]) == pytest.approx(1.0)
        assert inputs.shape[1] == (6 if arch else 3)


# Without costs but those that a test gives.
WITH_TREND = dataclasses.replace(CONFIG, trend=True)
NUMBERS = PlainSpace.of({"size": (1, 9), "kind": ["a", "b", "c"], "rate": (1, 5)})


@pytest.fixture(scope="module")
def expected():
    """Scores by vector, fitted to two trials in the middle of a space of numbers and a choice."""
    costs = lambda vectors: (vectors[..., :1] - 4.0).astype(np.float32) / 2.6
    model = Predictor(FeatureTable.of(NUMBERS), WITH_TREND, capacity=8, costs=costs)
    sample = NUMBERS.sample(np.random.default_rng(0), 64)
    start = model.pretrain(sample, 1 + sample[:, :1].astype(np.int64), jax.random.key(0))
    trials, scores = np.array([[4, 0, 2], [4, 1, 2]], np.int32), np.array([0.79, 0.81])
    fitted = model.fit(start, trials, scores, key=jax.random.key(1), networks=False)
    return lambda *vector: model.predict(fitted, np.array([vector], np.int32))[0][0]


def trend_of(config):
    return Predictor(FeatureTable.of(NUMBERS), config, capacity=8)._trend


def test_expected_scores_fall_towards_both_ends_of_numbers(expected):
    assert expected(4, 2, 0) < expected(4, 2, 2)
    assert expected(4, 2, 4) < expected(4, 2, 2)


def test_expected_scores_rise_with_the_cost(expected):
    assert expected(2, 2, 2) < expected(6, 2, 2)


def test_only_studies_expect_a_trend_unless_told():
    assert trend_of(PredictorConfig()) is None
    assert default_config().predictor.trend
