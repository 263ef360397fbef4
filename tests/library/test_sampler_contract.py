"""What Optuna expects of samplers, by its own tests, over kinds of parameters.

With the usual settings, and slowly with a predictor that is at work from the second trial on.
"""

import functools

import optuna
import pytest
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    RelativeSamplerTestCase,
    SingleOnlySamplerTestCase,
)

import jointnas_jax as jn

optuna.logging.set_verbosity(optuna.logging.WARNING)


class TestAsUsual(BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase):
    @pytest.fixture
    def sampler(self):
        return functools.partial(jn.JointNASSampler, seed=0, most_trials=32)


@pytest.mark.slow
class TestEager(BasicSamplerTestCase, RelativeSamplerTestCase):
    @pytest.fixture
    def sampler(self):
        return functools.partial(jn.JointNASSampler, seed=0, n_startup_trials=1, most_trials=16)
