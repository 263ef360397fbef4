"""A study in a bucket: whatever ends a run, the same command goes on on another machine."""

import shutil
import signal
import subprocess
import sys

import pytest
import stores
from PIL import Image
from runs import REAL, ROOT, TABLE, TINY, content, finish, run, start, stored, wait_until

from jointnas_jax.library.trials import trials
from jointnas_jax.models.model import load
from jointnas_jax.storage import lease
from jointnas_jax.storage.manifest import at_top, fetched
from jointnas_jax.storage.mirror import Mirror
from jointnas_jax.telemetry.status import look_at

# Shorter than in earnest, but long enough for a busy machine.
QUICK = "from jointnas_jax.storage import lease; lease.BEAT, lease.SILENT = 0.5, 8"
SLOWLY = dict(JOINTNAS_TABLE_FAULT=QUICK, JOINTNAS_TABLE_SECONDS="0.3")
AT_ONCE = dict(JOINTNAS_TABLE_FAULT=QUICK, JOINTNAS_TABLE_SECONDS="0")


def leave_machine(url):
    """The next run finds nothing on its disk."""
    shutil.rmtree(Mirror(url).folder.parent)


def mirrored(url):
    """Number of trials in the bucket."""
    try:
        with fetched(url, at_top) as folder:
            return stored(folder)
    except Exception:  # not begun
        return 0


def content_of(url, folder):
    with fetched(url) as copy:
        shutil.copytree(copy, folder)
    return content(folder)


def script(name, *arguments, code=0):
    command = [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == code, done.stderr[-1500:]
    return done.stdout if code == 0 else done.stderr


def disturbed(url, signals, code):
    """Starts a study, ends it with a signal once trials are mirrored, and leaves the machine."""
    process = start(TABLE, url, TINY, **SLOWLY)
    assert wait_until(lambda: mirrored(url) >= 3, process)
    process.send_signal(signals)
    finish(process, code)
    before = mirrored(url)
    leave_machine(url)
    return before


def test_a_killed_study_goes_on_on_another_machine(undisturbed, tmp_path, monkeypatch):
    url = stores.new(f"file://{tmp_path}/bucket")
    assert 3 <= disturbed(url, signal.SIGKILL, -signal.SIGKILL) < stored(undisturbed)
    with monkeypatch.context() as patched:  # silence of a minute, in earnest
        patched.setattr(lease, "SILENT", 0.0)
        assert look_at(url)["state"] == "interrupted"
    out, err = run(TABLE, url, TINY, **AT_ONCE)
    assert "goes on with" in out
    assert "was left by process" in err
    assert content_of(url, tmp_path / "ours") == content(undisturbed)
    assert len(trials(url)) == stored(undisturbed)
    assert "finished" in script("status", f"--workdir={url}")
    script("report", f"--workdir={url}", f"--out={tmp_path / 'report'}")
    assert f"--workdir={url}" in (tmp_path / "report" / "index.html").read_text()
    error = script("report", f"--workdir={url}", code=2)
    assert error == f"error: `{url}` is only read; name a folder to write to, such as --out=out\n"


@pytest.mark.slow
def test_a_study_is_refused_where_another_lives_and_taken_over_at_once_after_a_signal(
    undisturbed, tmp_path
):
    url = stores.new(f"file://{tmp_path}/bucket")
    process = start(TABLE, url, TINY, **SLOWLY)
    assert wait_until(lambda: mirrored(url) >= 3, process)
    elsewhere = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    _, err = run(TABLE, url, TINY, code=5, **AT_ONCE | elsewhere)
    assert f"error: workdir `{url}` is in use by process {process.pid}" in err
    assert "running, by process" in script("status", f"--workdir={url}")
    process.send_signal(signal.SIGTERM)
    finish(process, 3)
    leave_machine(url)
    _, err = run(TABLE, url, TINY, **AT_ONCE)
    assert "was left by" not in err
    assert content_of(url, tmp_path / "ours") == content(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("store", [stores.gs, stores.s3])
def test_a_killed_study_in_a_store_goes_on_on_another_machine(store, undisturbed, tmp_path):
    with store() as root:
        url = stores.new(root)
        disturbed(url, signal.SIGKILL, -signal.SIGKILL)
        disturbed(url, signal.SIGTERM, 3)
        run(TABLE, url, TINY, **AT_ONCE)
        assert content_of(url, tmp_path / "ours") == content(undisturbed)


@pytest.mark.slow
def test_models_are_read_from_a_store(tmp_path):
    flags = [TINY, "--noconfig.study.random_reference", "--config.study.seeds=1"]
    flags += ["--config.search.rounds=1"]
    Image.new("L", (8, 8)).save(tmp_path / "image.png")
    with stores.gs() as root:
        url = stores.new(root)
        run(REAL, url, *flags)
        assert load(url).labels[3] == "3"
        assert "%" in script("classify", f"--model={url}", tmp_path / "image.png")
        out = f"--out={tmp_path / 'export'}"
        assert "wrote" in script("export", f"--workdir={url}", "--format=safetensors", out)
        error = script("export", f"--workdir={url}", "--format=safetensors", code=2)
        assert "is only read" in error


@pytest.mark.parametrize("protocol", ["gs", "s3"])
def test_refused_rights_are_one_line_and_exit_2(protocol):
    pytest.importorskip({"gs": "gcsfs", "s3": "s3fs"}[protocol])
    with stores.refusing():
        _, err = run(TABLE, f"{protocol}://bucket/x", TINY, code=2)
    assert err.startswith(f"error: `{protocol}://bucket/x/runs` cannot be listed: ")
    assert err.count("\n") == 1


def test_a_missing_package_is_named():
    hidden = "sys.modules['gcsfs'] = None"
    _, err = run(TABLE, "gs://bucket/x", TINY, code=2, JOINTNAS_TABLE_FAULT=hidden)
    assert 'pip install "jointnas_jax[gcs]"' in err
    assert err.count("\n") == 1
