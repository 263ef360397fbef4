"""A PostgreSQL server of the tests' own, where one is installed."""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

PASSWORD = "hunter2"
BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


@contextlib.contextmanager
def server():
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
