"""The store in a PostgreSQL server that the test starts, where one is installed."""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest
from runs import TABLE, TINY, content, run

PASSWORD = "hunter2"
BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


@pytest.fixture(scope="module")
def postgres():
    """URL of an empty database with a password, on the loopback only."""
    pytest.importorskip("psycopg2", reason="the extra `postgres` is not installed")
    if not BINARIES:
        pytest.skip("Debian's package `postgresql` is not installed")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        user = {}
        if os.getuid() == 0:  # the server refuses to run as root
            try:
                owner = pwd.getpwnam("postgres")
            except KeyError:
                pytest.skip("there is no user `postgres` to run the server as")
            shutil.chown(folder, owner.pw_uid)
            user = {"user": owner.pw_uid}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        call = lambda name, *flags: subprocess.run(
            [BINARIES[-1] / name, "-D", f"{folder}/data", *flags],
            cwd=folder,
            check=True,
            capture_output=True,
            timeout=120,
            **user,
        )
        (Path(folder) / "password").write_text(PASSWORD)
        shutil.chown(f"{folder}/password", user.get("user", os.getuid()))
        password = ("--auth=scram-sha-256", f"--pwfile={folder}/password")
        call("initdb", *password, "--username=tester", "--encoding=UTF8", "--no-sync")
        settings = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -F"
        with (Path(folder) / "log").open("w"):
            shutil.chown(f"{folder}/log", user.get("user", os.getuid()))
        call("pg_ctl", "-w", "-l", f"{folder}/log", "-o", settings, "start")
        stack.callback(call, "pg_ctl", "-m", "immediate", "stop")
        yield f"postgresql://tester:{PASSWORD}@127.0.0.1:{port}/postgres"


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
