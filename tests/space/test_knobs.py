import pytest
from hypothesis import given
from hypothesis import strategies as st

from jointnas_jax.errors import SpaceError
from jointnas_jax.space.knobs import Knob, parse_knob


@given(low=st.integers(-50, 50), count=st.integers(0, 40), step=st.integers(1, 9))
def test_a_range_has_both_ends_and_even_steps(low, count, step):
    knob = parse_knob("k", (low, low + count * step, step))
    assert knob.values == tuple(range(low, low + count * step + 1, step))
    assert knob.ordinal


@given(low=st.integers(0, 99), count=st.integers(1, 99))
def test_a_decimal_range_holds_the_numbers_as_written(low, count):
    knob = parse_knob("k", (low / 100, (low + count) / 100, 0.01))
    assert knob.values == tuple(round((low + i) / 100, 2) for i in range(count + 1))


def test_a_list_is_choices_and_a_value_is_fixed():
    assert parse_knob("k", ["a", "b"]) == Knob("k", ("a", "b"), ordinal=False)
    assert parse_knob("k", 3) == 3
    assert parse_knob("k", "relu") == "relu"


@pytest.mark.parametrize(
    "bad",
    [
        (1,),
        (1, 2, 3, 4),
        (3, 1),
        (1, 4, 2),
        (1, 3, 0),
        (1, 3, -1),
        (1, float("nan")),
        (1, "3"),
        (True, 3),
        [],
        [1, 1],
        [[1]],
        None,
        {"low": 1},
        (1, 10**12),
        (0.0, 1.0, 1e-9),
        (1, 1e300),
        (1, 10**400),
        (10**400, 10**400 + 1, 0.5),
        (1, 10**5000),
        (1, float("inf")),
        list(range(10**5)),
        [10**5000, 10**5000],
    ],
)
def test_other_descriptions_are_refused_by_name(bad):
    with pytest.raises(SpaceError, match="`k`") as error:
        parse_knob("k", bad)
    assert len(str(error.value)) < 500


def test_a_knob_has_as_many_values_as_mutation_can_tell_apart():
    assert len(parse_knob("k", (1, 4096)).values) == 4096
    with pytest.raises(SpaceError, match="`k` must have at most 4,096 values, got 4,097"):
        parse_knob("k", (0, 4096))


def test_true_is_not_one():
    assert parse_knob("k", [True, 1]).index(1) == 1
    with pytest.raises(SpaceError, match="allows"):
        Knob("k", (0, 1), ordinal=True).index(True)


VALUES = st.sampled_from([0, 0.0, -0.0, False, 1, 1.0, True, "1"])


@given(a=VALUES, b=VALUES)
def test_knobs_are_equal_where_their_candidates_are(a, b):
    """Caches know spaces by it, and the functions of a user tell 1 from 1.0 and True."""
    alike = type(a) is type(b) and str(a) == str(b)
    one, other = (Knob("k", (v, "x"), ordinal=False) for v in (a, b))
    assert (one == other) == alike
    assert not alike or hash(one) == hash(other)
    assert one != Knob("k", (a, "x"), ordinal=True)
    assert one != "k"
