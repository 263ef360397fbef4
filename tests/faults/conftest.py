"""Studies whose trainings are looked up."""

import postgres as servers
import pytest
from runs import TABLE, TINY, run


@pytest.fixture(scope="session")
def postgres():
    """URL of an empty database with a password, on the loopback only."""
    with servers.server() as url:
        yield url


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """A whole study on a table."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    run(TABLE, workdir, TINY, JOINTNAS_TABLE_SECONDS="0")
    return workdir
