"""What a user expects of knobs: read from weights or a centre, drawn, and as an expectation."""

import itertools

import jax
import numpy as np
import pytest

from jointnas_jax.errors import ConfigError
from jointnas_jax.space import Knob, PlainSpace
from jointnas_jax.space.prior import Prior

KNOBS = (
    Knob.choice("optimizer", ["sgd", "adam", "lion"]),
    Knob.real("lr", 1e-4, 1e-1, log=True),
    Knob.integer("width", 8, 64, step=8),
    Knob.choice("se", [False, True]),
)
SPACE = PlainSpace(KNOBS[2:], KNOBS[:2])


def read(description):
    return Prior.of(KNOBS, description, name="prior")


def of(knob, description):
    return read({knob: description}).weights[[k.name for k in KNOBS].index(knob)]


def test_weights_are_given_in_order_or_by_value():
    in_order = of("optimizer", [1, 3, 1])
    np.testing.assert_allclose(in_order, 0.9 * np.array([0.2, 0.6, 0.2]) + 0.1 / 3)
    assert of("optimizer", {"adam": 3}) == in_order
    assert of("optimizer", (1.0, 3.0, 1.0)) == in_order
    # A config in a workdir is JSON, whose names are texts.
    assert of("se", {"True": 4}) == of("se", {True: 4}) == of("se", [1, 4])
    assert of("width", {"24": 4}) == of("width", {24: 4})


def test_a_centre_is_where_the_knob_is_spaced():
    lr = np.array(of("lr", {"centre": 1e-3, "width": 0.1}))
    # A third of the way in logarithms.
    assert abs(lr.argmax() / 255 - 1 / 3) < 1 / 255
    spread = np.sqrt(np.average((np.linspace(0, 1, 256) - 1 / 3) ** 2, weights=lr - lr.min()))
    assert abs(spread - 0.1) < 0.01
    between = of("width", {"centre": 20, "width": 0.2})
    assert between[1] == pytest.approx(between[2]) == max(between)
    assert max(of("width", {"centre": 20.5, "width": 1e-9})) > 0.9


def test_what_is_left_out_is_even_and_nothing_is_impossible():
    prior = read({"lr": {"centre": 1e-4, "width": 1e-6}, "se": [1e-300, 1e6]})
    assert set(prior.weights[2]) == {1 / 8}
    assert all(0 < weight < 1 for weights in prior.weights for weight in weights)
    assert all(sum(weights) == pytest.approx(1) for weights in prior.weights)


def test_draws_follow_the_weights():
    prior = Prior.of(SPACE.knobs, {"width": [1, 1, 1, 1, 1, 1, 1, 5], "se": [1, 9]}, name="p")
    vectors = SPACE.from_unit(prior.warped(np.random.default_rng(0).random((20_000, 4))))
    for j, weights in enumerate(prior.weights):
        shares = np.bincount(vectors[:, j], minlength=len(weights)) / len(vectors)
        np.testing.assert_allclose(shares, weights, atol=0.012)
    ends = SPACE.from_unit(prior.warped(np.array([[0.0] * 4, [1 - 1e-12] * 4])))
    np.testing.assert_array_equal(ends, [[0] * 4, SPACE.cardinalities - 1])


def test_the_expectation_is_the_standardised_logarithm_of_the_probability():
    knobs = (KNOBS[0], KNOBS[3])
    prior = Prior.of(knobs, {"optimizer": [1, 2, 4], "se": [3, 1]}, name="prior")
    every = np.array(list(itertools.product(range(3), range(2))), np.int32)
    expected = prior.expectation(every)
    logs = [np.log(prior.weights[0][i] * prior.weights[1][j]) for i, j in every]
    np.testing.assert_allclose(expected, (logs - np.mean(logs)) / np.std(logs), rtol=1e-5)
    np.testing.assert_allclose(jax.jit(prior.expectation)(every), expected, rtol=1e-6)
    assert expected.dtype == np.float32


def test_a_prior_of_nothing_expects_nothing():
    assert not read({}).expectation(SPACE.sample(np.random.default_rng(0), 5)).any()


def test_a_mode_leaves_some_knobs():
    prior = read({"optimizer": [1, 2, 3], "width": {"centre": 64, "width": 0.1}})
    kept = prior.restricted(KNOBS, KNOBS[2:])
    assert kept.weights == prior.weights[2:]


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ([1, 2], "must be a dict"),
        ({"optimiser": [1, 2, 3]}, "unknown knob `optimiser`; did you mean `optimizer`"),
        ({"optimizer": [1, 2]}, "a weight for each of the 3 values"),
        ({"optimizer": [1, 2, 0]}, "the weight of 'lion' in `prior.optimizer` must be .* above 0"),
        ({"optimizer": [1, 2, float("nan")]}, "above 0"),
        ({"optimizer": [1, 2, "3"]}, "above 0"),
        ({"optimizer": [1, 2, True]}, "above 0"),
        ({"optimizer": {"adamw": 2}}, "knob `optimizer` allows .*adamw"),
        ({"optimizer": "adam"}, "a weight above 0 for each value"),
        ({"optimizer": {"centre": "sgd", "width": 0.1}}, "ascending numbers"),
        ({"se": {"centre": True, "width": 0.1}}, "ascending numbers"),
        ({"lr": {"centre": 1e-3}}, "both `centre` and `width`"),
        ({"lr": {"centre": 1e-3, "width": 0.1, "weight": 2}}, "both `centre` and `width`"),
        ({"lr": {"centre": 1.0, "width": 0.1}}, "`prior.lr.centre` must be a number from 0.0001"),
        ({"lr": {"centre": float("nan"), "width": 0.1}}, "prior.lr.centre"),
        ({"width": {"centre": 24, "width": 8}}, "at most 1, a share of the knob's range, got 8"),
        ({"width": {"centre": 24, "width": 0}}, "`prior.width.width` must be a number above 0"),
        ({3: [1]}, "unknown knob `3`"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_knob(description, message):
    with pytest.raises(ConfigError, match=message) as caught:
        read(description)
    assert "\n" not in str(caught.value)
