import jax
import numpy as np

from jointnas_jax.space.features import FeatureTable


def test_choices_are_one_hot_and_ordinal_knobs_are_one_number(tiny_space):
    table = FeatureTable.of(tiny_space)
    vectors = tiny_space.sample(np.random.default_rng(0), 50)
    arch, recipe = table(vectors)
    features = np.concatenate([arch, recipe], axis=1)
    column = 0
    for j, knob in enumerate(tiny_space.knobs):
        if knob.ordinal:
            low, high = knob.values[0], knob.values[-1]
            expected = [[(knob.values[v] - low) / (high - low)] for v in vectors[:, j]]
        else:
            expected = np.eye(len(knob.values))[vectors[:, j]]
        width = len(expected[0])
        np.testing.assert_allclose(features[:, column : column + width], expected, rtol=1e-6)
        column += width
    assert column == features.shape[1]


def test_a_fixed_architecture_leaves_one_constant_feature(tiny_space):
    candidate = tiny_space.decode(tiny_space.sample(np.random.default_rng(0), 1)[0])
    space = tiny_space.with_fixed_arch(candidate.arch)
    arch, recipe = FeatureTable.of(space)(space.sample(np.random.default_rng(0), 5))
    assert arch.shape == (5, 1)
    assert np.ptp(arch) == 0
    assert recipe.shape[1] > 1


def test_features_are_the_same_under_jit(tiny_space):
    table = FeatureTable.of(tiny_space)
    vectors = tiny_space.sample(np.random.default_rng(0), 50)
    for a, b in zip(table(vectors), jax.jit(lambda v: table(v))(vectors), strict=True):
        np.testing.assert_array_equal(a, b)
