"""Studies whose trainings are looked up."""

import postgres as servers
import pytest
from runs import TABLE, TINY, run
from table_study import train_lanes

from jointnas_jax.execution.local import Evaluator


@pytest.fixture(scope="session")
def postgres():
    """URL of an empty database with a password, on the loopback only."""
    with servers.server() as url:
        yield url


@pytest.fixture
def table(monkeypatch):
    """Trainings are looked up."""
    monkeypatch.setenv("JOINTNAS_TABLE_SECONDS", "0")
    monkeypatch.setattr(Evaluator, "_train_lanes", train_lanes)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """A whole study on a table."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    run(TABLE, workdir, TINY, JOINTNAS_TABLE_SECONDS="0")
    return workdir
