"""What is mirrored is never lost: kills between any two writes, lost answers, two runs."""

import contextlib
import sqlite3
import threading

import fsspec
import pytest
import stores

from jointnas_jax.errors import BusyError, DamagedError, StorageError, WorkdirError
from jointnas_jax.runtime.bucket import Bucket
from jointnas_jax.storage import lease, mirror
from jointnas_jax.storage.manifest import download, fetched, newest
from jointnas_jax.storage.mirror import Mirror

SERVICES = {"gs": stores.gs, "s3": stores.s3}


@pytest.fixture(scope="module", params=["memory", "file", "gs", "s3"])
def root(request, tmp_path_factory):
    """URL of a bucket, of each kind."""
    if request.param in SERVICES:
        with SERVICES[request.param]() as url:
            yield url
    elif request.param == "file":
        yield f"file://{tmp_path_factory.mktemp('bucket')}"
    else:
        yield "memory://bucket"


@pytest.fixture
def bucket(root):
    return opened(stores.new(root))


def opened(url, kind=Bucket):
    files = fsspec.filesystem("memory") if url.startswith("memory:") else None
    return kind(url, files)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No sign of life and no mirror but those that a test asks for, and short patience."""
    monkeypatch.setattr(lease, "BEAT", 0.5)
    monkeypatch.setattr(lease, "SILENT", 0.3)
    monkeypatch.setattr(mirror, "MIRROR", 1000)


class Killed(BaseException):
    """The end of a process."""


class Faulty(Bucket):
    """A bucket where the change of a number fails, and all that follow if it is a kill."""

    fails, applied, error, dead = None, False, Killed, False

    def begin(self, fails, *, applied, error=Killed):
        """Counts changes from now on; the failing one is applied nevertheless or not."""
        self.changes, self.fails, self.applied, self.error = 0, fails, applied, error

    def _change(self, call, *arguments):
        if self.dead:
            raise Killed
        if self.fails is not None:
            self.changes += 1
            if self.changes == self.fails:
                self.dead = self.error is Killed
                if self.applied:
                    call(*arguments)
                raise self.error("lost")
        return call(*arguments)

    def write(self, name, content):
        self._change(super().write, name, content)

    def remove(self, name):
        self._change(super().remove, name)

    def remove_folder(self, name):
        self._change(super().remove_folder, name)


def study(folder, number):
    """Writes the files of a study after so many trials, of which earlier ones have weights."""
    (folder / "weights").mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "progress.json").write_text(f"{number}")
    (folder / "weights" / f"seed{number}").write_bytes(b"w" * 1000 + b"%d" % number)
    (folder / "weights" / f"seed{number - 2}").unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(folder / "trials.db")) as connection, connection:
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE IF NOT EXISTS trials (number INTEGER)")
        connection.execute("INSERT INTO trials VALUES (?)", (number,))


def content(folder):
    """What the files of a study say."""
    files = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(("trials.db", "lock"))
    }
    if (folder / "trials.db").exists():
        with contextlib.closing(sqlite3.connect(folder / "trials.db")) as connection:
            files["trials"] = connection.execute("SELECT number FROM trials").fetchall()
    return files


def states(tmp_path, count):
    """What a study says after each number of trials; nothing after none."""
    folder, said = tmp_path / "undisturbed", [{}]
    folder.mkdir()
    for number in range(1, count + 1):
        study(folder, number)
        said.append(content(folder))
    return said


def read(bucket, folder):
    """What another machine reads."""
    download(bucket, folder)
    return content(folder)


def test_another_machine_goes_on_with_what_was_mirrored(bucket, tmp_path):
    said = states(tmp_path, 3)
    for number in (1, 2, 3):
        here = Mirror(bucket.url, bucket, tmp_path / f"home{number}")
        with here.held():
            assert content(here.folder) == said[number - 1]
            study(here.folder, number)
        assert read(bucket, tmp_path / "read") == said[number]
    assert len(lease.runs(bucket)) == 1  # the last one has removed the others
    names = {name.rpartition("/")[2] for name in newest(bucket).objects.values()}
    (run,) = lease.runs(bucket)
    assert set(bucket.names(f"runs/{run}/objects")) == names
    assert not bucket.names(f"runs/{run}/lease")


@pytest.mark.parametrize("applied", [True, False], ids=["done", "not done"])
def test_a_kill_between_any_two_changes_loses_nothing_that_was_mirrored(tmp_path, applied):
    killed_at_each_change("memory://bucket", tmp_path, applied)


@pytest.mark.slow
def test_a_kill_loses_nothing_in_any_store(root, tmp_path):
    killed_at_each_change(root, tmp_path, applied=True)


def killed_at_each_change(root, tmp_path, applied):
    """Trial 1 is mirrored, then trials 2 and 3, while the process ends at each change."""
    said, fails, ended = states(tmp_path, 3), 0, False
    while not ended:
        fails += 1
        url = stores.new(root)
        with Mirror(url, opened(url), tmp_path / f"first{fails}").held():
            study(tmp_path / f"first{fails}" / "workdir", 1)
        bucket = opened(url, Faulty)
        here, mirrored = Mirror(url, bucket, tmp_path / f"second{fails}"), 1
        bucket.begin(fails, applied=applied)
        try:
            with here.held():
                for number in (2, 3):
                    study(here.folder, number)
                    assert here.save()
                    mirrored = number
            ended = True
        except Killed:
            pass
        found = read(opened(url), tmp_path / "read")
        assert found in said[mirrored : mirrored + 2]
    assert fails > 10
    third = Mirror(url, opened(url), tmp_path / "third")
    with third.held():
        assert content(third.folder) == said[3]


def test_after_a_kill_the_same_machine_goes_on_with_what_was_not_mirrored(bucket, tmp_path):
    said = states(tmp_path, 3)
    faulty = opened(bucket.url, Faulty)
    here = Mirror(bucket.url, faulty, tmp_path / "home")
    with pytest.raises(Killed), here.held():  # noqa: PT012
        study(here.folder, 1)
        assert here.save()
        study(here.folder, 2)
        faulty.begin(1, applied=False)
        here.save()
    again = Mirror(bucket.url, bucket, tmp_path / "home")
    with again.held():
        assert content(again.folder) == said[2]
    # Where another machine went on meanwhile, that counts.
    with Mirror(bucket.url, bucket, tmp_path / "other").held():
        study(tmp_path / "other" / "workdir", 3)
    last = Mirror(bucket.url, bucket, tmp_path / "home")
    with last.held():
        assert content(last.folder) == said[3]


@pytest.mark.parametrize("applied", [True, False], ids=["answer lost", "request lost"])
def test_a_lost_connection_at_any_change_is_made_up_for(tmp_path, applied):
    lost_at_each_change("memory://bucket", tmp_path, applied)


@pytest.mark.slow
def test_a_lost_answer_is_made_up_for_in_any_store(root, tmp_path):
    lost_at_each_change(root, tmp_path, applied=True)


def lost_at_each_change(root, tmp_path, applied):
    """Trial 1 is mirrored, then trial 2, while one change fails."""
    said = states(tmp_path, 2)
    for fails in range(1, 12):
        url = stores.new(root)
        bucket = opened(url, Faulty)
        here = Mirror(url, bucket, tmp_path / f"home{fails}")
        with here.held():
            study(here.folder, 1)
            assert here.save()
            bucket.begin(fails, applied=applied, error=StorageError)
            study(here.folder, 2)
            with contextlib.suppress(StorageError):
                here.save()
            assert read(opened(url), tmp_path / "read") in said[1:]
        assert read(opened(url), tmp_path / "read") == said[2]


def test_a_bucket_that_is_lost_in_the_end_is_an_error_that_says_where_the_rest_is(tmp_path, capsys):
    url = stores.new("memory://bucket")
    bucket = opened(url, Faulty)
    here = Mirror(url, bucket, tmp_path / "home")
    lacking = f"lacks is in `{tmp_path}/home`"
    with pytest.raises(StorageError, match=lacking), here.held():  # noqa: PT012
        study(here.folder, 1)
        bucket.write = lambda *_: (_ for _ in ()).throw(StorageError("no network"))
        here.save_if_possible()
        here.save_if_possible()
    assert capsys.readouterr().err.count("warning: no network; the run goes on") == 1
    with Mirror(url, opened(url), tmp_path / "home").held():
        pass
    assert read(opened(url), tmp_path / "read") == states(tmp_path, 1)[1]


def test_a_run_is_refused_while_another_lives(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "SILENT", 5)
    monkeypatch.setattr(lease, "BEAT", 0.2)
    here, there = (Mirror(bucket.url, bucket, tmp_path / name) for name in ("a", "b"))
    with here.held():
        study(here.folder, 1)
        with pytest.raises(BusyError, match="is in use by process"), there.held():
            pass
        with (
            pytest.raises(BusyError, match=bucket.url),
            Mirror(bucket.url, bucket, tmp_path / "a").held(),
        ):  # on the same machine at once
            pass
    with there.held():
        assert content(there.folder) == states(tmp_path, 1)[1]


def test_of_runs_that_begin_at_once_one_lives(root, tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "SILENT", 5)
    monkeypatch.setattr(lease, "BEAT", 0.2)
    url, held, barrier = stores.new(root), [], threading.Barrier(3)
    refused, done = threading.Semaphore(0), threading.Event()

    def begin(name):
        own = Mirror(url, opened(url), tmp_path / name)
        barrier.wait()
        try:
            with own.held():
                held.append(name)
                done.wait(60)
        except BusyError:
            refused.release()

    threads = [threading.Thread(target=begin, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    assert all(refused.acquire(timeout=60) for _ in range(2))
    done.set()
    for thread in threads:
        thread.join()
    assert len(held) == 1


def test_a_silent_run_loses_the_workdir_and_ends(bucket, tmp_path, monkeypatch):
    """It was stopped for long; what it does afterwards changes nothing."""
    said = states(tmp_path, 3)
    here, there = (Mirror(bucket.url, bucket, tmp_path / name) for name in ("a", "b"))
    lost = threading.Event()
    monkeypatch.setattr(lease, "BEAT", 1000)  # no sign of life
    with (  # noqa: PT012
        pytest.raises(BusyError, match="was taken over by process"),
        here.held(on_loss=lost.set),
    ):
        study(here.folder, 1)
        assert here.save()
        monkeypatch.setattr(lease, "BEAT", 0.1)
        with there.held():
            assert content(there.folder) == said[1]
            study(there.folder, 2)
            study(here.folder, 2)
            study(here.folder, 3)
            with pytest.raises(BusyError):
                here.save()
            assert there.save()
        assert read(bucket, tmp_path / "read") == said[2]
    assert read(bucket, tmp_path / "read") == said[2]


def test_a_run_that_lives_sees_that_it_lost_the_workdir(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "BEAT", 0.1)
    lost = threading.Event()
    here = Mirror(bucket.url, bucket, tmp_path / "a")
    with pytest.raises(BusyError), here.held(on_loss=lost.set):  # noqa: PT012
        bucket.write("runs/000009-00000000/lease", b"{}")
        assert lost.wait(10)


def test_files_that_change_meanwhile_are_mirrored_later(bucket, tmp_path):
    here = Mirror(bucket.url, bucket, tmp_path / "home")
    with here.held():
        study(here.folder, 1)
        real = here._upload

        def upload(files):
            study(here.folder, 2)
            real(files)

        here._upload = upload
        assert not here.save()
        here._upload = real
        assert newest(bucket) is None
        assert here.save()
        assert read(bucket, tmp_path / "read") == states(tmp_path, 2)[2]


def test_a_study_that_does_not_begin_leaves_no_trace(bucket, tmp_path):
    with pytest.raises(ValueError, match="bad"), Mirror(bucket.url, bucket, tmp_path / "a").held():
        raise ValueError("bad input")
    assert lease.runs(bucket) == []
    with Mirror(bucket.url, bucket, tmp_path / "a").held():
        study(tmp_path / "a" / "workdir", 1)
    before = newest(bucket)
    with Mirror(bucket.url, bucket, tmp_path / "b").held():
        pass  # finished: nothing changes
    assert newest(bucket) == before


def test_what_is_damaged_is_said_and_can_be_replaced(bucket, tmp_path):
    with Mirror(bucket.url, bucket, tmp_path / "a").held():
        study(tmp_path / "a" / "workdir", 1)
    manifest = newest(bucket)
    key = f"runs/{manifest.run}/{manifest.objects['weights/seed1']}"
    sound = bucket.read(key)
    other = lambda: Mirror(bucket.url, bucket, tmp_path / "b").held()
    for change in (lambda: bucket.write(key, sound[:-1] + b"x"), lambda: bucket.remove(key)):
        change()
        with pytest.raises(DamagedError, match="damaged"), other():
            pass
    replaced = Mirror(bucket.url, bucket, tmp_path / "b")
    with replaced.held(overwrite=True):
        study(replaced.folder, 1)
    assert read(bucket, tmp_path / "read") == states(tmp_path, 1)[1]
    manifest = newest(bucket)
    (name,) = bucket.names(f"runs/{manifest.run}/manifests")
    where = f"runs/{manifest.run}/manifests/{name}"
    text = bucket.read(where)
    for bad in (text.replace(b"config.json", b"../../x.json"), text[:-9], b"\xff", b"[]"):
        bucket.write(where, bad)
        with pytest.raises((DamagedError, WorkdirError)), other():
            pass
        with pytest.raises((DamagedError, WorkdirError)):
            newest(bucket)


def test_nothing_there_is_said(tmp_path):
    with pytest.raises(WorkdirError, match="holds no workdir"), fetched(f"file://{tmp_path}/x"):
        pass


@pytest.mark.parametrize("url", ["gs://bucket/x", "s3://bucket/x"])
def test_refused_rights_are_one_line(url, tmp_path):
    pytest.importorskip({"gs": "gcsfs", "s3": "s3fs"}[url[:2]])
    with (
        stores.refusing(),
        pytest.raises(WorkdirError, match=f"`{url}/runs` cannot be listed: "),
        Mirror(url, home=tmp_path).held(),
    ):
        pass
    with stores.refusing(), pytest.raises(WorkdirError, match="cannot be listed"), fetched(url):
        pass
