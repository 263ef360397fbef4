"""What studies expect of networks and recipes, over the inputs of the Gaussian process."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jointnas_jax.config import PredictorConfig
from jointnas_jax.predictor.predictor import Predictor
from jointnas_jax.space import PlainSpace
from jointnas_jax.space.features import FeatureTable

CONFIG = dataclasses.replace(PredictorConfig(), trend=True)


def over(arch, recipe):
    """The trend over index vectors `int32[N, K]` of a space, and all of its vectors."""
    space = PlainSpace.of(arch, recipe)
    predictor = Predictor(FeatureTable.of(space), CONFIG, capacity=8)
    axes = map(np.arange, space.cardinalities)
    every = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(space.knobs))
    values = np.asarray(predictor._trend(np.asarray(predictor._inputs(every.astype(np.int32)))))
    return values.reshape(tuple(space.cardinalities))


def test_numbers_are_expected_to_be_best_in_the_middle():
    values = over({"width": (1, 9)}, {})
    assert values.argmax() == 4
    assert values[0] == pytest.approx(values[-1])


def test_numbers_that_can_be_off_are_expected_to_be_best_near_there():
    assert over({}, {"dropout": (0, 8)}).argmax() == 1


def test_the_learning_rate_is_expected_to_be_best_above_the_middle():
    assert over({}, {"lr": (1, 21)}).argmax() == 13


@pytest.mark.parametrize("name", ["lr", "mixup"])
def test_learning_rate_and_mixup_matter_most(name):
    values = over({"width": (1, 9)}, {name: (1, 9), "dropout": (1, 9)})
    width, this, dropout = (np.ptp(values, axis=axis).mean() for axis in range(3))
    assert this > dropout > width


def test_a_deviation_of_all_distances_is_one_of_given_size():
    values = over({"width": (1, 9), "depth": (1, 2)}, {"momentum": (1, 5), "kind": ["a", "b"]})
    assert values.std() == pytest.approx(0.55, rel=1e-3)


@pytest.mark.parametrize(("name", "times"), [("lr", 4.0), ("mixup", 4.0), ("momentum", 1.5)])
def test_a_number_of_the_recipe_matters_more_than_one_of_the_architecture(name, times):
    values = over({"width": (1, 9)}, {name: (1, 9)})
    deviations = values.mean(1).std(), values.mean(0).std()
    assert deviations[1] / deviations[0] == pytest.approx(times, rel=1e-3)


@pytest.mark.parametrize("name", ["stage1_kernel", "stage3_kernel_first", "stage3_kernel_rest"])
@pytest.mark.parametrize("values", [[3, 5], [5, 3], [3, 5, 7]])
def test_large_kernels_are_expected_to_be_better(name, values):
    trend = over({name: values}, {})
    assert trend.argsort().tolist() == np.argsort(values).tolist()
    assert np.ptp(trend) == pytest.approx(0.35)


@pytest.mark.parametrize("values", [[1e-5, 1e-4, 1e-3], [1e-3, 1e-5], (1e-5, 1e-3, 1e-5)])
def test_more_weight_decay_is_expected_to_be_better(values):
    trend = over({}, {"weight_decay": values})
    least, most = (0, -1) if isinstance(values, tuple) else (np.argmin(values), np.argmax(values))
    assert trend[most] - trend[least] == pytest.approx(0.3, abs=1e-3)


@pytest.mark.parametrize("name", ["optimizer", "stage2_se", "stage1_kernel"])
@pytest.mark.parametrize("values", [["a", "b"], [True, False], ["a", "b", "c"]])
def test_no_choice_is_preferred_whose_values_are_no_numbers(name, values):
    np.testing.assert_allclose(over({name: values}, {}), 0.0, atol=1e-6)


DESCRIPTIONS = st.one_of(
    st.tuples(st.integers(0, 3), st.integers(4, 7)),
    st.lists(st.integers(1, 9), min_size=2, max_size=4, unique=True),
    st.lists(st.sampled_from("abcd"), min_size=2, max_size=3, unique=True),
)
ARCH = st.dictionaries(st.sampled_from(["width", "stage1_kernel", "stage2_kernel"]), DESCRIPTIONS)
RECIPE = st.dictionaries(st.sampled_from(["lr", "mixup", "weight_decay", "ema"]), DESCRIPTIONS)


@given(arch=ARCH, recipe=RECIPE.filter(bool))
def test_the_mean_of_the_trend_over_a_space_is_none(arch, recipe):
    assert abs(float(over(arch, recipe).mean())) < 1e-4
