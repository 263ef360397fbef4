import pytest

from jointnas_jax.errors import StudyError
from jointnas_jax.runtime.processes import in_a_process


def test_arguments_and_result_are_those_of_a_call():
    assert in_a_process("operator:getitem", {"a": (1, 2.5)}, "a") == [1, 2.5]


def test_the_environment_is_that_of_the_process():
    assert in_a_process("os:getenv", "ADDED", ADDED="yes") == "yes"


def test_a_process_that_fails_says_why():
    with pytest.raises(StudyError, match="`math:sqrt` failed: ValueError: "):
        in_a_process("math:sqrt", -1)
