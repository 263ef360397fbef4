"""The published networks, digit by digit (figures of the official model definitions)."""

import json

import jax
import jax.numpy as jnp
import pytest

from jointnas_jax.errors import SpaceError
from jointnas_jax.nets import zoo
from jointnas_jax.nets.cost import count
from jointnas_jax.space import JointSpace
from jointnas_jax.space.fbnetv3 import FBNETV3


@pytest.mark.parametrize(
    ("letter", "flops", "params"),
    [
        ("a", 356_598_280, 8_542_224),
        ("b", 461_550_136, 8_542_224),
        ("c", 556_969_904, 9_907_136),
        ("d", 644_420_352, 10_237_552),
        ("e", 762_046_336, 10_699_464),
        ("f", 1_181_644_520, 13_803_072),
        ("g", 2_129_656_384, 16_513_648),
    ],
)
def test_costs_equal_the_published_figures_to_the_digit(letter, flops, params):
    costs = count(zoo.fbnetv3(letter))
    assert (costs.flops, costs.params) == (flops, params)


# Millions with biases and BN, as the libraries print that publish weights.
@pytest.mark.parametrize(("letter", "millions"), [("b", 8.60), ("d", 10.31), ("g", 16.62)])
def test_the_params_with_biases_and_bn_are_those_of_the_published_weights(letter, millions):
    plain = zoo.fbnetv3(letter, plain_padding=True)
    assert round(count(plain).params_total / 1e6, 2) == millions


def test_plain_padding_changes_the_networks_with_odd_paddings_only():
    for letter in "abcdefg":
        plain = zoo.fbnetv3(letter, plain_padding=True)
        assert (plain == zoo.fbnetv3(letter)) == (letter in "dg")


def test_the_maps_of_a_shrink_where_the_padding_is_odd():
    assert zoo.fbnetv3("a").sides() == [112, 112, 56, 28, 13, 13, 6, 6]
    assert zoo.fbnetv3("a", plain_padding=True).sides() == [112, 112, 56, 28, 14, 14, 7, 7]


def test_the_module_has_the_classes_asked_for():
    module = zoo.module("a", num_classes=7)
    images = jnp.zeros((2, 224, 224, 3))
    logits, _ = jax.eval_shape(module.init_with_output, jax.random.key(0), images)
    assert logits.shape == (2, 7)


def test_a_network_is_found_by_name_or_file(tmp_path):
    arch = zoo.fbnetv3("c")
    assert zoo.find("fbnetv3_c") == arch
    file = tmp_path / "c.json"
    file.write_text(json.dumps(arch.to_dict()))
    assert zoo.find(str(file)) == arch
    with pytest.raises(SpaceError, match="did you mean"):
        zoo.find("fbnetv3_k")
    with pytest.raises(SpaceError, match=r"known: a, b"):
        zoo.fbnetv3("h")


def test_the_papers_space_has_the_published_size():
    space = JointSpace.from_config(FBNETV3, image_channels=3, num_classes=1000)
    without_resolution = JointSpace.from_config(FBNETV3 | {"resolution": 224}, 3, 1000)
    assert without_resolution.arch_size == 2**7 * 4**7 * 10_483_200 * 8_000
    assert f"{without_resolution.arch_size:.3e}" == "1.759e+17"
    assert space.recipe_size == 18_905_040
