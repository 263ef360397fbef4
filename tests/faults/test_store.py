"""Checks 10, 11, 13, 14 and 15: the store."""

import dataclasses
import random
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from jointnas_jax.errors import DamagedError, InputError, StorageError
from jointnas_jax.space.knobs import Knob, parse_knob
from jointnas_jax.storage.database import parse_url, public_name, sqlite_url
from jointnas_jax.storage.distributions import distributions
from jointnas_jax.storage.trial_store import COMPLETED, FAILED, STAGES, Trial, TrialStore

ROOT = Path(__file__).parent.parent.parent
KNOBS = [
    parse_knob("lr", (0.01, 0.31, 0.01)),
    parse_knob("kernel", [3, 5]),
    parse_knob("expand", (1, 6)),
    parse_knob("optimizer", ["sgd", "rmsprop"]),
    parse_knob("se", [False, True]),
]


TYPES = distributions(KNOBS)


def trial(number, stage="coarse", **changes):
    """A trial with every field in use."""
    made = Trial(
        number=number,
        stage=stage,
        round=1,
        seed=None,
        knobs=dict(lr=0.07, kernel=5, expand=number % 6 + 1, optimizer="sgd", se=number % 2 == 0),
        costs=dict(flops=10**15 + number, params=3),
        predicted=1 / 3,
        epochs=3,
        accuracies=(0.1, 0.2, 2 / 3),
        score=2 / 3,
        status=COMPLETED,
        reason=None,
        pack="exact",
        seconds=1.25,
    )
    return dataclasses.replace(made, **changes)


def failed(number):
    lost = dict(accuracies=(), score=None, status=FAILED, reason="loss was not finite at step 3")
    return trial(number, **lost)


def open_store(folder):
    return TrialStore(f"sqlite:///{folder}/trials.db", "digits")


@pytest.fixture
def store(tmp_path):
    made = open_store(tmp_path)
    made.create()
    yield made
    made.close()


def test_trials_come_back_as_they_were_whatever_the_order_of_writing(store, tmp_path):
    trials = [trial(0), failed(1), trial(2, predicted=None, round=None), trial(3, "random", seed=2)]
    for each in (trials[2], trials[0], trials[1], trials[3]):
        store.append(each, TYPES)
        store.load()  # what is still being trained is not missing
    assert store.load() == trials
    again = open_store(tmp_path)
    assert again.load() == trials
    again.close()


def test_optuna_reads_it_as_it_is(store, tmp_path):
    for each in (trial(0), failed(1)):
        store.append(each, TYPES)
    study = optuna.load_study(
        study_name="digits: coarse", storage=f"sqlite:///{tmp_path}/trials.db"
    )
    assert study.best_trial.params == trial(0).knobs
    assert study.best_value == 2 / 3
    assert study.best_trial.intermediate_values == {1: 0.1, 2: 0.2, 3: 2 / 3}
    assert study.best_trial.user_attrs["costs"]["flops"] == 10**15
    assert study.trials[1].state == optuna.trial.TrialState.FAIL
    assert study.trials[1].user_attrs["reason"] == "loss was not finite at step 3"


def test_knobs_are_distributions_that_dashboards_can_draw():
    assert distributions(KNOBS) == {
        "lr": FloatDistribution(0.01, 0.31, step=0.01),
        "kernel": CategoricalDistribution((3, 5)),
        "expand": IntDistribution(1, 6),
        "optimizer": CategoricalDistribution(("sgd", "rmsprop")),
        "se": CategoricalDistribution((False, True)),
    }
    assert distributions([parse_knob("width", (8, 24, 8))]) == {
        "width": IntDistribution(8, 24, step=8)
    }


@pytest.mark.parametrize(
    "values", [[0.0, 1e-13, 2e-13], [1e-6, 1e-6 + 4e-13], [1.0, 1.0 + 2e-16 * 4], [1e-300, 3e-300]]
)
def test_knobs_with_tiny_steps_are_stored_as_well(store, values):
    knob = Knob("lr", tuple(values), ordinal=True)
    for number, value in enumerate(values):
        store.append(trial(number, knobs={"lr": value}), distributions([knob]))
    assert [t.knobs["lr"] for t in store.load()] == values


def test_optuna_tells_which_knobs_matter(store, tmp_path):
    """As its dashboard does."""
    for i in range(20):
        lr = 0.01 * (i % 5 + 1)
        curve = dict(score=10 * lr, accuracies=(0.1, 10 * lr), epochs=2)
        knobs = dict(lr=lr, kernel=3, expand=i // 5 + 1, optimizer="sgd", se=i % 2 == 1)
        store.append(trial(i, knobs=knobs, **curve), TYPES)
    store.append(failed(20), TYPES)
    study = optuna.load_study(
        study_name="digits: coarse", storage=f"sqlite:///{tmp_path}/trials.db"
    )
    importances = optuna.importance.get_param_importances(study)
    assert set(importances) >= {"lr", "expand", "se"}
    assert max(importances, key=importances.get) == "lr"


def test_a_trial_written_twice_is_one_unless_the_two_differ(store):
    """Optuna writes again where the answer of a server was lost, and so may another driver."""
    for each in (trial(0), trial(1), trial(1), trial(1, seconds=7.0)):
        store.append(each, TYPES)
    assert store.load() == [trial(0), trial(1)]
    store.append(trial(1, epochs=2), TYPES)
    with pytest.raises(DamagedError, match="trial 1 is there twice, and differs"):
        store.load()


@pytest.mark.parametrize("name", ["a?b", "a#b", "a%41b", "a b+c", "{SCHEMA_VERSION}", "{x", "é&=;"])
def test_a_store_lies_inside_of_its_folder_whatever_its_name(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    made = TrialStore(sqlite_url(folder), "digits")
    made.create()
    made.append(trial(0), TYPES)
    assert made.load() == [trial(0)]
    assert made.place == str(folder / "trials.db")
    made.close()
    assert [p.name for p in tmp_path.rglob("*")] == [name, "trials.db"]


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A store of twenty trials, closed."""
    folder = tmp_path_factory.mktemp("kept")
    store = open_store(folder)
    store.create()
    trials = [trial(i) for i in range(17)] + [failed(17)]
    trials += [trial(18, "random"), trial(19, "validate", seed=0)]
    for each in trials:
        store.append(each, TYPES)
    store.close()
    return folder / "trials.db", trials


def loaded(file):
    store = open_store(file.parent)
    try:
        return store.load()
    finally:
        store.close()


def damage(content, how, rng):
    if how == "half":
        return content[: len(content) // 2]
    if how == "random bytes":
        return rng.randbytes(len(content))
    if how == "empty":
        return b""
    damaged = bytearray(content)
    for _ in range(1 if how == "one bit" else 200):
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


@pytest.mark.parametrize("how", ["half", "random bytes", "empty", *["one bit", "200 bits"] * 15])
def test_a_damaged_store_gives_what_was_written_or_says_that_it_is_damaged(
    kept, tmp_path, how, request
):
    file, trials = kept
    copy = tmp_path / file.name
    rng = random.Random(request.node.nodeid)
    copy.write_bytes(damage(file.read_bytes(), how, rng))
    try:
        assert loaded(copy) == trials
    except DamagedError as error:
        assert str(copy) in str(error)
        assert error.exit_code == 4


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        ("UPDATE trial_values SET value = value + 1e-9 WHERE trial_id = 4", "row 4"),
        ("UPDATE trial_params SET param_value = 3 WHERE trial_id = 5", "row 5"),
        ("UPDATE trial_intermediate_values SET intermediate_value = 0 WHERE trial_id = 6", "row 6"),
        ("UPDATE trials SET state = 'COMPLETE' WHERE state = 'FAIL'", "state of trial 17"),
        ("DELETE FROM trials WHERE trial_id = 7", "trial 6 is missing"),
        (
            "UPDATE trial_user_attributes SET value_json = '8' WHERE key = 'number' "
            "AND trial_id = 8",
            "row 8",
        ),
        (
            "DELETE FROM studies WHERE study_name = 'digits: validate'",
            "`digits: validate` is missing",
        ),
        ("DELETE FROM trial_user_attributes WHERE key = 'digest' AND trial_id = 9", "row 9 "),
        ("DELETE FROM trial_user_attributes WHERE key = 'number' AND trial_id = 10", "row 10 "),
    ],
)
def test_an_edited_row_is_named(kept, tmp_path, edit, named):
    copy = shutil.copy(kept[0], tmp_path)
    with closing(sqlite3.connect(copy)) as connection, connection:
        connection.execute(edit)
    with pytest.raises(DamagedError, match=named):
        loaded(Path(copy))


def test_a_trial_is_written_whole_or_not_at_all(store, tmp_path):
    """A full disk: of SQLite's own making, which is as real to it."""
    store.append(trial(0), TYPES)
    large = trial(1, reason="x" * 3_000_000)
    with store._storage.engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()

    @sqlalchemy.event.listens_for(store._storage.engine, "checkout")
    def small(connection, *_):
        connection.execute(f"PRAGMA max_page_count = {pages + 2}")

    with pytest.raises(StorageError, match=r"trials\.db.*full"):
        store.append(large, TYPES)
    assert store.load() == [trial(0)]


WRITER = """
import sys
sys.path.insert(0, {faults!r})
from test_store import *
store = TrialStore({url!r}, "digits")
for i in range({first}, {first} + 15):
    store.append(trial(i), TYPES)
    assert trial(i) in store.load()
"""


def test_several_writers_lose_nothing(store, tmp_path):
    url = f"sqlite:///{tmp_path}/trials.db"
    codes = [
        WRITER.format(faults=str(Path(__file__).parent), url=url, first=first)
        for first in (0, 15, 30)
    ]
    writers = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) for code in codes]
    assert [writer.wait(timeout=200) for writer in writers] == [0, 0, 0]
    assert store.load() == [trial(i) for i in range(45)]


def test_trials_of_another_schema_are_refused(store):
    for stage in STAGES:
        store._storage.set_study_user_attr(store._ids[stage], "schema", 0)
    with pytest.raises(InputError, match=r"schema 0, this version reads schema 2"):
        store.load()


def test_tables_of_another_optuna_are_refused(store, tmp_path):
    store.close()
    with closing(sqlite3.connect(tmp_path / "trials.db")) as connection, connection:
        connection.execute("UPDATE version_info SET schema_version = 1, library_version = '0.1'")
        connection.execute("UPDATE alembic_version SET version_num = 'v0.9.0.a'")
    with pytest.raises(InputError, match=r"trials\.db.*(0\.1|v0\.9)"):
        open_store(tmp_path)


SECRETS = [
    "postgresql://me:hunter2@127.0.0.1:1/none",
    "postgresql://127.0.0.1:1/none?user=me&password=hunter2",
    "postgresql://me@127.0.0.1:1/none?nosuch=hunter2",
    "postgresql://me@/none?host=127.0.0.1&port=1&sslpassword=hunter2",
    "nosuch://me:hunter2@127.0.0.1/none",
    "postgres//me:hunter2@127.0.0.1/none",
    "postgresql://me:hunter2@127.0.0.1:port/none",
]


@pytest.mark.parametrize("url", SECRETS)
def test_a_password_is_never_told(url):
    with pytest.raises(InputError) as raised:
        TrialStore(url, "digits")
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("url", SECRETS[:4])
def test_a_password_does_not_tell_a_database_from_another(url):
    public = public_name(parse_url(url))
    assert "hunter2" not in public
    assert public == public_name(parse_url(url.replace("hunter2", "hunter3")))
    assert public != public_name(parse_url(url.replace("none", "other")))
    assert public != public_name(parse_url(url.replace("127.0.0.1", "127.0.0.2")))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://127.0.0.1:1/none", "cannot be used"),
        ("nosuch://x", "nosuch"),
        ("sqlite:////nowhere/at/all/trials.db", "unable to open"),
    ],
)
def test_a_database_that_cannot_be_used_is_named(url, message):
    with pytest.raises(InputError, match=message) as raised:
        TrialStore(url, "digits")
    assert "\n" not in str(raised.value)
