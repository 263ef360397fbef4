"""Paths that a user names: on this machine, with `~`, and whatever characters the system takes."""

import ast
import os
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from calls import ROOT, TINY, assert_one_line_and_exit_2, script
from hypothesis import given
from hypothesis import strategies as st

from jointnas_jax.command_line import define_path, parse_config, parse_flags
from jointnas_jax.config import check_config
from jointnas_jax.errors import ConfigError, StorageError, WorkdirError
from jointnas_jax.files import check_arrays_folder
from jointnas_jax.rules import PATH, local_path, path_or_url
from jointnas_jax.storage.database import parse_url, sqlite_url
from jointnas_jax.storage.trial_store import TrialStore
from jointnas_jax.storage.weights import load_variables, save_variables

# Flags whose text is no path.
TEXTS = {
    ("classify", "export", "report", "import_weights"): {"format", "storage", "model"},
    ("simulate",): {"devices", "speed", "validate"},
    ("search_budgets", "describe"): {"flops", "params", "latency", "scale_to"},
    ("tabular", "fronts", "evolution", "population"): {"tables", "contestants", "sizes", "limits"},
    ("pretraining", "early_stop", "scaling"): {"sizes", "first", "devices"},
    ("accelerators", "on_device"): {"cases", "lanes", "dtype", "parts"},
    ("prepare_data", "curves", "fine_tuning"): {"name", "contestants", "images"},
    ("surrogates",): {"table"},
}
FILES = [p for room in ("scripts", "benchmarks", "experiments") for p in (ROOT / room).glob("*.py")]
STORES = ("gs://bucket/x", "s3://bucket/x", "hdfs://host/x", "https://host/x", "file:///x")
URLS = ("gs://bucket", "gs://bucket/a b/", "s3://bucket/x", "file:///x")


def text_flags(file):
    """Names of the flags with a text or a list of texts that a file defines as such."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        name = getattr(node.func, "attr", "") if isinstance(node, ast.Call) else ""
        if name in ("DEFINE_string", "DEFINE_list", "DEFINE_multi_string"):
            yield node.args[0].value


@pytest.mark.parametrize("file", FILES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_a_flag_with_a_text_is_a_path_or_listed_here(file):
    texts = set().union(*(names for files, names in TEXTS.items() if file.stem in files))
    assert set(text_flags(file)) <= texts, "define_path reads `~` and refuses other stores"


@given(st.text(st.characters(exclude_characters="~\0", exclude_categories=["Cs"]), max_size=20))
def test_a_path_with_a_folder_before_it_is_taken_as_it_is(text):
    for path in (f"./{text}", f"/{text}", f"x/~/{text}"):
        assert local_path(path) == path


@given(st.text(max_size=20))
def test_any_text_is_a_path_or_refused_in_one_line(text):
    try:
        path = local_path(text)
    except ConfigError as error:
        assert str(error).isprintable()
    else:
        assert PATH.holds(path)
        assert not path.startswith("~")
        assert local_path(path) == path


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_the_tilde_is_the_home_folder_wherever_a_path_stands(home):
    values = flags.FlagValues()
    define_path("out", "", "", values)
    rest = parse_flags(["x", "--out=~/a", "~/b"], values, "a file")
    assert (values.out, rest) == (f"{home}/a", [f"{home}/b"])
    (home / "c.py").write_text(Path(TINY.split("=")[1]).read_text(encoding="utf-8"))
    for config in ("--config=~/c.py", "--config ~/c.py"):
        assert parse_config(["x", *config.split()], "", flags.FlagValues()).name == "tiny"
    plain = parse_config(["x", TINY], "", flags.FlagValues()).to_dict()
    plain["data"]["dir"], plain["train"]["teacher"] = "~/d", "~"
    config = check_config(plain)
    assert (config.data.dir, config.train.teacher) == (f"{home}/d", str(home))
    assert parse_url("sqlite:///~/t.db").database == f"{home}/t.db"


def test_no_script_makes_a_folder_named_tilde(home):
    done = script("describe", "fbnetv3_a", "--out=~/x.json", cwd=home)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in home.iterdir()] == ["x.json"]
    assert script("describe", "~/x.json", cwd=home).returncode == 0


@pytest.mark.parametrize("store", STORES)
def test_other_stores_are_refused_by_name(store):
    with pytest.raises(ConfigError, match=store.split("/")[0]):
        local_path(store)
    with pytest.raises(ConfigError, match="train.teacher"):
        parse_config(["x", TINY, f"--config.train.teacher={store}"], "", flags.FlagValues())


@pytest.mark.parametrize("url", URLS)
def test_a_url_of_a_bucket_is_taken_where_one_will_do(url):
    given = parse_config(["x", TINY, f"--config.data.dir={url}"], "", flags.FlagValues()).data.dir
    assert given == path_or_url(url) == url.rstrip("/")


@pytest.mark.parametrize("text", ["hdfs://host/x", "gs:/bucket/x", "s3:///x", "gs://bucket/\0"])
def test_what_is_no_such_url_is_refused(text):
    with pytest.raises(ConfigError):
        path_or_url(text)


def test_the_home_of_nobody_is_refused():
    with pytest.raises(ConfigError, match="does not exist; write './~nobody_here/x'"):
        local_path("~nobody_here/x")


def test_a_study_in_another_store_is_refused_before_anything_is_made(tmp_path):
    done = script("run_joint", TINY, "--workdir=hdfs://bucket/x", cwd=tmp_path)
    assert_one_line_and_exit_2(done, "`--workdir` must be a path on this machine")
    assert os.listdir(tmp_path) == []


# Each is a pattern, a URL, an escape or no UTF-8 to some library.
NAMES = [
    *(
        "runs [v2]",
        "[!a]",
        "a*b",
        "a?b",
        "{x}",
        "a\\b",
        "gs:",
        "file:",
        "%20#x",
        "a b ",
        "new\nline",
    ),
    *("~", "日本", "'q\"", "$HOME", "-x", "x" * 255, "a.orbax-checkpoint-tmp-1"),
    os.fsdecode(b"\xff\xfe"),
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_weights_in_a_folder_of_any_name_can_be_read_again(tmp_path, name):
    folder = tmp_path / name / "weights" / "seed0"
    save_variables(folder, {"a": np.arange(3.0)})
    save_variables(folder, {"a": np.arange(4.0)})
    assert load_variables(folder)["a"].tolist() == [0, 1, 2, 3]
    assert sorted(p.name for p in folder.parent.iterdir()) == ["seed0", "seed0.sha256"]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_trials_in_a_folder_of_any_name_can_be_read_again(tmp_path, name):
    (tmp_path / name).mkdir()
    for read_only in (False, True):
        store = TrialStore(sqlite_url(tmp_path / name), "digits", read_only=read_only)
        if not read_only:
            store.create()
        assert store.load() == []
        store.close()
    assert [path.name for path in (tmp_path / name).iterdir()] == ["trials.db"]


def test_what_orbax_writes_otherwise_than_it_was_is_an_error(tmp_path):
    with pytest.raises(StorageError, match="is not what was written"):
        save_variables(tmp_path / "w", {"a": np.arange(3, dtype=">f4")})


@pytest.mark.parametrize("name", ["runs [v2]", "a\\b", "gs:", os.fsdecode(b"\xff")], ids=ascii)
def test_a_system_without_numbers_of_open_folders_refuses_such_a_name_at_once(tmp_path, name):
    missing = tmp_path / "fd"
    with pytest.raises(WorkdirError, match="cannot hold weights on this system"):
        check_arrays_folder(tmp_path / name / "study", open_files=missing)
    check_arrays_folder(tmp_path / "a b*?{%20#日本", open_files=missing)
    check_arrays_folder(tmp_path / name)
