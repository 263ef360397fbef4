import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jointnas_jax.errors import SpaceError
from jointnas_jax.space import Candidate, JointSpace
from jointnas_jax.space.joint import read_slots


def test_the_paper_space_has_the_published_size(paper_space):
    assert paper_space.recipe_size == 18_905_040
    assert paper_space.arch_size // 7 == 2**7 * 4**7 * 10_483_200 * 8_000  # 7 resolutions
    assert f"{paper_space.arch_size / 7:.3e}" == "1.759e+17"


@given(st.data())
def test_decode_and_encode_are_inverse(paper_space, tiny_space, data):
    space = data.draw(st.sampled_from([paper_space, tiny_space]))
    vector = np.array([data.draw(st.integers(0, n - 1)) for n in space.cardinalities], np.int32)
    candidate = space.decode(vector)
    encoded = space.encode(candidate)
    assert (encoded == space.canonical(vector)).all()
    assert space.encode(space.decode(encoded)).tolist() == encoded.tolist()
    assert list(space.decode(encoded).arch.blocks()) == list(candidate.arch.blocks())


@given(st.data())
def test_equal_networks_have_equal_vectors(tiny_space, data):
    draw = [data.draw(st.integers(0, n - 1)) for n in tiny_space.cardinalities]
    a = np.array(draw, np.int32)
    b = a.copy()
    j = tiny_space.positions["stage1_expand_rest"]
    b[j] = 1 - b[j]
    blocks = [list(tiny_space.decode(v).arch.blocks()) for v in (a, b)]
    same = (tiny_space.canonical(a) == tiny_space.canonical(b)).all()
    assert same == (blocks[0] == blocks[1])


def test_knob_values_round_trip(tiny_space):
    for vector in tiny_space.sample(np.random.default_rng(0), 20):
        assert (tiny_space.vector_from_values(tiny_space.values(vector)) == vector).all()


def test_samples_are_inside_and_reach_every_value(tiny_space):
    vectors = tiny_space.sample(np.random.default_rng(0), 4000)
    assert (tiny_space.check(vectors) == vectors).all()
    assert (vectors.max(axis=0) == tiny_space.cardinalities - 1).all()
    assert (vectors.min(axis=0) == 0).all()


def test_ties_follow_their_knob(paper_space):
    for vector in paper_space.sample(np.random.default_rng(0), 50):
        four, five = paper_space.decode(vector).arch.stages[3:5]
        assert (four.expand_first, four.expand_rest) == (five.expand_first, five.expand_rest)


def test_a_broken_tie_does_not_encode(paper_space):
    candidate = paper_space.decode(np.zeros(36, np.int32)).to_dict()
    candidate["arch"]["stages"][4]["expand_first"] += 1
    with pytest.raises(SpaceError, match="tied.*stage5_expand_first"):
        paper_space.encode(Candidate.from_dict(candidate))


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        ([0, 0], "has 12 integers"),
        ([0.0] * 12, "integers"),
        ([-1] + [0] * 11, "`resolution` has indices 0 to 1.*-1"),
        ([0, 2] + [0] * 10, "`stem_channels` has indices 0 to 1.*2"),
    ],
)
def test_a_vector_outside_is_refused_by_knob(tiny_description, vector, message):
    description = {**tiny_description, "recipe": dict(lr=[0.1, 0.2])}
    space = JointSpace.from_config(description, 1, 10)
    vector = (
        np.array((vector + [0] * len(space.knobs))[: len(space.knobs)])
        if len(vector) > 2
        else np.array(vector)
    )
    with pytest.raises(SpaceError, match=message.replace("12", str(len(space.knobs)))):
        space.decode(vector)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["resolution"], (32, 16), "`resolution`"),
        (["resolution"], 0, "`resolution` must be an integer from 1"),
        (["stem", "chanels"], 8, "no entry `chanels`; did you mean `channels`"),
        (["stages", 0, "kernel"], [3, 4], "`stage1_kernel_first` must be an odd integer"),
        (["stages", 0, "expand"], dict(first=2), "both `first` and `rest`"),
        (["stages", 1, "expand"], "=stage9_expand", "tied to `stage9_expand`"),
        (["stages", 0, "activation"], "gelu", "one of"),
        (["stages", 0], dict(kernel=3), "`stage1` lacks `channels`"),
        (["stages"], (), "non-empty"),
        (["stages"], (dict(channels=8),) * 33, "up to 32 stages"),
        (["stages", 1, "trim"], 4, "`stage2_trim` leaves nothing of the map.*`resolution`, 8"),
        (["stages", 0, "channels"], 2**70, "`stage1_channels` must be an integer from 1 to 8,192"),
        ([3], 4, "no entry `3`"),
        (["stem", 3], 4, "no entry `3`"),
        (["recipe", 10**5000], 4, "no entry `an integer of 16610 bits`"),
        (["recipe", "learning_rate"], 0.1, "no entry `learning_rate`"),
        (["recipe", "dropout"], (0.5, 1.0, 0.5), r"`dropout` must be a number in \[0, 1\)"),
        (["recipe", "optimizer"], ["adam"], "`optimizer` must be one of"),
        (["recipe", "lr"], True, "`lr` must be a number"),
        (["recipe", "lr"], float("inf"), "`lr` must be a number"),
    ],
)
def test_a_bad_description_is_refused_by_entry(tiny_description, path, value, message):
    description = copy.deepcopy(tiny_description)
    description["stages"] = list(description["stages"])
    node = description
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = value
    with pytest.raises(SpaceError, match=message):
        read_slots(description)


@pytest.mark.parametrize(("field", "tie"), [("kernel", "=stem_channels"), ("se", "=stage1_depth")])
def test_a_tie_to_values_that_do_not_fit_is_refused(tiny_description, field, tie):
    description = copy.deepcopy(tiny_description)
    description["stages"][1][field] = tie
    with pytest.raises(SpaceError, match=f"`stage2_{field}"):
        read_slots(description)


def test_a_knob_that_can_never_act_is_refused(tiny_description):
    description = copy.deepcopy(tiny_description)
    description["stages"][0]["depth"] = 1
    description["stages"][1]["expand"] = 2
    with pytest.raises(SpaceError, match="stage1_expand_rest.*never act"):
        read_slots(description)


def test_modes_fix_one_half(tiny_space):
    candidate = tiny_space.decode(tiny_space.sample(np.random.default_rng(0), 1)[0])
    recipes = tiny_space.with_fixed_arch(candidate.arch)
    archs = tiny_space.with_fixed_recipe(candidate.recipe)
    assert (recipes.arch_size, recipes.recipe_size) == (1, tiny_space.recipe_size)
    assert (archs.arch_size, archs.recipe_size) == (tiny_space.arch_size, 1)
    for space in (recipes, archs):
        assert space.decode(space.encode(candidate)) == candidate
    for vector in recipes.sample(np.random.default_rng(1), 20):
        assert recipes.decode(vector).arch == candidate.arch
    for vector in archs.sample(np.random.default_rng(1), 20):
        assert archs.decode(vector).recipe == candidate.recipe


def test_canonical_is_the_same_under_jit(tiny_space):
    import jax

    vectors = np.random.default_rng(0).integers(
        0, tiny_space.cardinalities, (200, len(tiny_space.knobs))
    )
    vectors = vectors.astype(np.int32)
    assert (jax.jit(tiny_space.canonical)(vectors) == tiny_space.canonical(vectors)).all()
