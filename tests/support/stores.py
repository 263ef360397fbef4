"""Stores on the loopback: emulators of the services that buckets are in."""

import contextlib
import functools
import http.server
import os
import socket
import threading
import uuid

import fsspec.config
import pytest

# See `runtime/bucket.py`; tests import it earlier.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
BUCKET = "jointnas-test"


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def settings(port):
    """Environment of a client of either service at a port."""
    address = f"http://127.0.0.1:{port}"
    return {
        "STORAGE_EMULATOR_HOST": address,
        "FSSPEC_GS_TOKEN": "anon",
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


@contextlib.contextmanager
def environment(variables):
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    # Which it has read from the environment when it was imported.
    fsspec.config.conf["gs"] = {"token": "anon"}
    try:
        yield
    finally:
        fsspec.config.conf.pop("gs", None)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def gs():
    """Google Cloud Storage, in memory; yields a URL."""
    pytest.importorskip("gcsfs")
    emulator = pytest.importorskip("gcp_storage_emulator.server")
    storage = pytest.importorskip("gcp_storage_emulator.storage").Storage(use_memory_fs=True)
    emulator.buckets.create_bucket(BUCKET, storage)
    lock = threading.Lock()

    # Its own server has one thread, which a connection that waits would keep to itself.
    class Handler(emulator.RequestHandler):
        def answer(self):
            with lock:
                emulator.Router(self).handle(self.command)

        do_GET = do_PUT = do_POST = do_DELETE = do_PATCH = answer

    with serving(functools.partial(Handler, storage)) as port, environment(settings(port)):
        yield f"gs://{BUCKET}"


@contextlib.contextmanager
def s3():
    """Amazon S3, in memory; yields a URL."""
    pytest.importorskip("s3fs")
    boto3 = pytest.importorskip("boto3")
    moto = pytest.importorskip("moto.server")
    port = free_port()
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    try:
        with environment(settings(port)):
            boto3.client("s3").create_bucket(Bucket=BUCKET)
            yield f"s3://{BUCKET}"
    finally:
        server.stop()


@contextlib.contextmanager
def refusing(code=403):
    """A service that refuses every request."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer

        def log_message(self, *_):
            pass

    with serving(Handler) as port, environment(settings(port)):
        yield


@contextlib.contextmanager
def serving(handler):
    """A server in this process; yields its port."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def new(root):
    """A URL that nothing is at."""
    return f"{root}/{uuid.uuid4().hex}"
