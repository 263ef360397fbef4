"""What executors are tried on."""

import contextlib
import dataclasses

import pytest
import tiny
from executors import content, jobs, make

from jointnas_jax.config import check_config
from jointnas_jax.problem.problem import build_problem


@pytest.fixture(scope="module")
def small_problem():
    return build_problem(check_config(tiny.get_config()))


@pytest.fixture(scope="module")
def expected(small_problem):
    """Some jobs, and what one process gives for them."""
    some = jobs(small_problem, 5, epochs=2)
    some.append(dataclasses.replace(jobs(small_problem, 1, seed=9)[0]))
    with contextlib.closing(make(small_problem, "local", devices=2)) as local:
        return some, [content(outcome) for outcome in local.run(some)]
