"""A study of several drivers: it is that of one, and each training is done once."""

import collections
import os
import signal

import pytest
from runs import TABLE, TINY, content, finish, start, stored, wait_until

SMALL = ("--config.search.rounds=2", "--noconfig.study.random_reference")
# Writes down what trains: `kept` or not, and a name of the training.
NOTED = """
train = Evaluator._train_lanes
def noted(self, shape, jobs, *rest):
    with open(os.environ["NOTES"], "a") as file:
        for job in jobs:
            key = jax.random.key_data(job.key).tolist()
            file.write(f"{job.kept} {hash((repr(job.candidate), job.final))} {key}\\n")
    return train(self, shape, jobs, *rest)
import jax
Evaluator._train_lanes = noted
"""


def driver(workdir, storage, *flags, seconds="0", timeout=60):
    settings = ("executor=shared", f"study.storage={storage}", f"shared.timeout={timeout}")
    flags = (TINY, *(f"--config.{setting}" for setting in settings), *flags)
    notes = {"NOTES": f"{workdir.parent}/notes", "JOINTNAS_TABLE_FAULT": NOTED}
    return start(
        *(TABLE, workdir, *flags), JOINTNAS_TABLE_SECONDS=seconds, PYTHONHASHSEED="0", **notes
    )


def notes(folder):
    """How often each training was done, of those whose weights are kept and of the others."""
    told = [line.split(" ", 1) for line in (folder / "notes").read_text().splitlines()]
    return {k: collections.Counter(n for kept, n in told if kept == str(k)) for k in (True, False)}


def trained(folder):
    return sum(notes(folder)[False].values()) if (folder / "notes").exists() else 0


def test_two_drivers_are_one_study_and_train_everything_once(tmp_path, undisturbed):
    storage = f"sqlite:///{tmp_path}/shared.db"
    both = [driver(tmp_path / name, storage, seconds="0.1") for name in "ab"]
    for process in both:
        assert finish(process)[1] == ""
    assert content(tmp_path / "a", storage) == content(undisturbed)
    assert content(tmp_path / "b") == content(undisturbed)  # as its workdir says
    done = notes(tmp_path)
    assert set(done[False].values()) == {1}
    assert set(done[True].values()) == {2}  # each has the weights in its own workdir
    # One that comes late trains what it keeps, and nothing else.
    finish(driver(tmp_path / "late", storage))
    assert content(tmp_path / "late", storage) == content(undisturbed)
    assert notes(tmp_path)[False] == done[False]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_others_take_over_what_a_driver_had_and_it_goes_on(tmp_path, undisturbed, postgres, number):
    slow = {"seconds": "0.5", "timeout": 15}
    # The other tests use this database too.
    first = driver(tmp_path / "a", postgres, "--overwrite", **slow)
    assert wait_until(lambda: trained(tmp_path) >= 1, first)
    both = [first, driver(tmp_path / "b", postgres, **slow)]
    assert wait_until(lambda: trained(tmp_path) >= 8, both[0])
    both[0].send_signal(number)
    finish(both[0], code=-signal.SIGKILL if number == signal.SIGKILL else 3)
    finish(both[1])
    assert content(tmp_path / "b", postgres) == content(undisturbed)
    before = notes(tmp_path)[False]
    finish(driver(tmp_path / "a", postgres))
    assert content(tmp_path / "a", postgres) == content(undisturbed)
    assert notes(tmp_path)[False] == before
    # What it had in hand when it died was done again, and nothing else.
    assert sum(count - 1 for count in before.values()) <= 8


@pytest.mark.slow
def test_a_study_is_not_replaced_while_others_run_it(tmp_path):
    storage = f"sqlite:///{tmp_path}/shared.db"
    first = driver(tmp_path / "a", storage, *SMALL, seconds="3", timeout=10)
    assert wait_until(lambda: trained(tmp_path) >= 1, first)
    second = driver(tmp_path / "b", storage, *SMALL, "--overwrite", timeout=10)
    _, err = finish(second, code=5)
    assert err.startswith("error: 1 other drivers run the study")
    assert err.count("\n") == 1
    finish(first)
    finish(driver(tmp_path / "a", storage, *SMALL, "--overwrite"))
    assert os.path.exists(tmp_path / "a" / "result.json")


@pytest.mark.slow
def test_drivers_that_differ_are_told_before_anything_trains(tmp_path):
    """In their code, or in what a workdir was begun with."""
    storage = f"sqlite:///{tmp_path}/shared.db"
    finish(driver(tmp_path / "a", storage, *SMALL))
    newer = "import jointnas_jax.study.joining as j; j.versions = lambda: {'code': 'newer'}"
    process = start(
        *(TABLE, tmp_path / "b", TINY, *SMALL, "--config.executor=shared"),
        *(f"--config.study.storage={storage}", "--quiet"),
        JOINTNAS_TABLE_FAULT=newer,
    )
    _, err = finish(process, code=2)
    assert "was begun by other code" in err
    assert err.count("\n") == 1
    local = start(TABLE, tmp_path / "c", TINY, *SMALL, JOINTNAS_TABLE_SECONDS="0.5")
    assert wait_until(lambda: stored(tmp_path / "c") >= 1, local)
    local.terminate()
    finish(local, code=3)
    _, err = finish(driver(tmp_path / "c", storage, *SMALL), code=2)
    assert "holds a study that is stored elsewhere" in err
