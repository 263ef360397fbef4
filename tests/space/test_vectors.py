import numpy as np
import pytest

from jointnas_jax.errors import SpaceError
from jointnas_jax.space import PlainSpace
from jointnas_jax.space.features import FeatureTable


@pytest.fixture
def space():
    return PlainSpace.of(
        arch=dict(kernel=[3, 5], depth=(1, 4)), recipe=dict(lr=(0.1, 0.3, 0.1), ema=True)
    )


def test_a_plain_space_has_the_knobs_it_is_given(space):
    assert [k.name for k in space.knobs] == ["kernel", "depth", "lr"]  # ema is fixed
    assert space.cardinalities.tolist() == [2, 4, 3]
    assert (space.arch_size, space.recipe_size) == (8, 3)


def test_vectors_and_values_go_back_and_forth(space):
    values = dict(kernel=5, depth=3, lr=0.2)
    vector = space.vector_from_values(values)
    assert vector.tolist() == [1, 2, 1]
    assert space.values(vector) == values


def test_samples_are_inside_and_equal_candidates_have_equal_vectors():
    same = lambda v: np.sort(v, axis=-1)
    space = PlainSpace.of({f"layer{i}": [0, 1, 2] for i in range(4)}, equal=same)
    drawn = space.sample(np.random.default_rng(0), 200)
    space.check(drawn)
    assert (np.diff(drawn, axis=1) >= 0).all()


def test_a_space_without_knobs_is_an_error():
    with pytest.raises(SpaceError, match="knob"):
        PlainSpace.of({"a": 3})


def test_two_values_of_a_knob_are_at_distance_1_at_most(space):
    table = FeatureTable.of(space)
    assert table.groups.tolist() == [0, 0, 1, 2]
    for knob, size in enumerate(space.cardinalities):
        ends = np.zeros((2, 3), np.int32)
        ends[1, knob] = size - 1
        a, b = np.concatenate(table(ends), -1) * table.scales
        assert np.linalg.norm(a - b) == pytest.approx(1.0)
