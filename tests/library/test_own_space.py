"""Spaces of the user's own knobs."""

import numpy as np
import pytest

import jointnas_jax as jn
from jointnas_jax.errors import InputError
from jointnas_jax.library.space import columns, encode_all

SPACE = jn.Space(
    jn.Knob.choice("optimizer", ["sgd", "adam", "lion"]),
    jn.Knob.integer("layers", 1, 7, step=2),
    jn.Knob.integer("width", 1, 4096, log=True),
    jn.Knob.real("dropout", 0, 0.3, step=0.1),
    jn.Knob.real("lr", 1e-4, 1e-1, log=True),
    jn.Knob.real("momentum", 0, 1),
)


def knob(name):
    return SPACE.knobs[SPACE.positions[name]]


def test_values_are_those_of_the_range_with_both_ends():
    assert knob("layers").values == (1, 3, 5, 7)
    assert knob("dropout").values == (0.0, 0.1, 0.2, 0.3)
    assert [knob("width").values[i] for i in (0, 1, -1)] == [1, 2, 4096]
    assert (knob("momentum").values[0], knob("momentum").values[-1]) == (0.0, 1.0)
    assert all(type(v) is float for v in knob("momentum").values + knob("dropout").values)
    assert all(type(v) is int for v in knob("width").values)


def test_logarithms_are_evenly_spaced():
    steps = np.diff(np.log(knob("lr").values))
    np.testing.assert_allclose(steps, steps[0])
    assert (knob("lr").values[0], knob("lr").values[-1]) == (1e-4, 1e-1)
    assert len(knob("lr").values) == 256


def test_numbers_are_in_order_and_choices_are_not():
    assert [k.ordinal for k in SPACE.knobs] == [False, True, True, True, True, True]


def test_a_candidate_is_a_dict_and_comes_back():
    vectors = SPACE.sample(np.random.default_rng(0), 20)
    candidates = [SPACE.decode(v) for v in vectors]
    assert list(candidates[0]) == [k.name for k in SPACE.knobs]
    np.testing.assert_array_equal(encode_all(SPACE, candidates), vectors)


def test_columns_are_the_values_of_all_candidates():
    vectors = SPACE.sample(np.random.default_rng(0), 5)
    found = columns(SPACE, vectors)
    for i, vector in enumerate(vectors):
        assert {name: found[name][i] for name in found} == SPACE.decode(vector)


def test_columns_keep_types_apart():
    space = jn.Space(jn.Knob.choice("a", [1, "1", True]))
    found = columns(space, np.array([[0], [1], [2]]))["a"].tolist()
    assert [type(v) for v in found] == [int, str, bool]


BAD = {
    "not a knob": (lambda: jn.Space(("a", 1, 2)), "made of knobs"),
    "no knob": (lambda: jn.Space(), "more than one value"),
    "one value": (lambda: jn.Space(jn.Knob.choice("a", [1])), "more than one value"),
    "one name twice": (
        lambda: jn.Space(jn.Knob.integer("a", 1, 2), jn.Knob.real("a", 0, 1)),
        "`a` 2 times; rename",
    ),
    "no choices": (lambda: jn.Knob.choice("a", []), "non-empty list"),
    "equal choices": (lambda: jn.Knob.choice("a", [1, 1]), "must differ"),
    "choices of lists": (lambda: jn.Knob.choice("a", [[1], [2]]), "plain values"),
    "no name": (lambda: jn.Knob.integer("", 1, 2), "name of a knob"),
    "upside down": (lambda: jn.Knob.integer("a", 3, 2), "low <= high"),
    "real upside down": (lambda: jn.Knob.real("a", 3.0, 2.0), "low <= high"),
    "a step that does not divide": (lambda: jn.Knob.integer("a", 1, 4, step=2), "divides"),
    "real for integer": (lambda: jn.Knob.integer("a", 1, 2.5), "Knob.real"),
    "too many": (lambda: jn.Knob.integer("a", 1, 10**6), "at most 4,096"),
    "log from 0": (lambda: jn.Knob.real("a", 0, 1, log=True), "`low` above 0"),
    "log with step": (lambda: jn.Knob.real("a", 1, 2, step=1, log=True), "no `step`"),
    "log integer with step": (lambda: jn.Knob.integer("a", 1, 9, step=2, log=True), "no `step`"),
    "nan": (lambda: jn.Knob.real("a", float("nan"), 1), "finite"),
    "text": (lambda: jn.Knob.real("a", "0", 1), "range of `a`"),
    "a candidate that is no dict": (lambda: SPACE.encode([1]), "must be a dict"),
    "a candidate of other knobs": (lambda: SPACE.encode({"optimiser": "sgd"}), "`optimizer`?"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_breaks_a_rule_is_one_line(name):
    make, message = BAD[name]
    with pytest.raises(InputError, match=message) as error:
        make()
    assert "\n" not in str(error.value)
