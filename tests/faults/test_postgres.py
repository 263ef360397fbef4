"""The store in a PostgreSQL server that the test starts, where one is installed."""

import pytest
from postgres import PASSWORD
from runs import TABLE, TINY, content, run


@pytest.mark.slow
def test_a_study_in_postgresql_is_that_in_a_file(postgres, tmp_path):
    quick = {"JOINTNAS_TABLE_SECONDS": "0"}
    run(TABLE, tmp_path / "file", TINY, **quick)
    flag = f"--config.study.storage={postgres}"
    out, err = run(TABLE, tmp_path / "server", TINY, flag, **quick)
    assert not (tmp_path / "server" / "trials.db").exists()
    ours = content(tmp_path / "server", postgres)
    assert ours == content(tmp_path / "file")
    told = [out, err, *(p.read_bytes().decode("latin1") for p in files(tmp_path / "server"))]
    assert not any(PASSWORD in text for text in told)
    # A second study of the same name beside it, and the first one again.
    run(TABLE, tmp_path / "other", TINY, flag, **quick)
    assert content(tmp_path / "other", postgres) == content(tmp_path / "file")
    out, _ = run(TABLE, tmp_path / "server", TINY, flag)
    assert "finished" in out


def test_a_wrong_password_is_bad_input_and_not_told(postgres, tmp_path):
    wrong = postgres.replace(PASSWORD, "wrong-one")
    out, err = run(TABLE, tmp_path, TINY, f"--config.study.storage={wrong}", code=2)
    assert "password authentication failed" in err
    assert "wrong-one" not in out + err


def files(workdir):
    return [path for path in workdir.rglob("*") if path.is_file()]
