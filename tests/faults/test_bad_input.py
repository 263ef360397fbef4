"""Checks 16 to 18: whatever is given, it is used as it is or refused in one line; no code runs."""

import ast
import copy
import dataclasses
import functools
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from absl.flags import FlagValues
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console
from runs import REAL, TINY, finish, run, wait_until

from jointnas_jax.command_line import parse_config
from jointnas_jax.config import Config, check_config
from jointnas_jax.errors import InputError, SpaceError
from jointnas_jax.nets.cost import count
from jointnas_jax.space import Candidate, read_candidate
from jointnas_jax.study.run import run_study

ROOT = Path(__file__).parent.parent.parent
PLAIN = parse_config(["run", TINY], "", FlagValues()).to_dict()

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["../x", "a\0b", "=stage1_kernel", "sgd", "1.5M", "x" * 300, "9" * 400])
    | st.sampled_from([10**400, -(10**400), 2**63, 1e308, [[[[[[[[]]]]]]]]]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=6), inner, max_size=2)
    ),
    max_leaves=5,
)


# What JSON cannot hold, and Python cannot always write.
deep = functools.reduce(lambda inner, _: [inner], range(3000), 1)
strange = st.sampled_from([10**5000, -(10**5000), deep, {3: 4}, (1, 10**5000)])


def places(value, path=()):
    """Paths to everything inside of a nested value, itself included."""
    yield path
    items = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list | tuple):
        items = enumerate(value)
    for key, inner in items:
        yield from places(inner, (*path, key))


def replaced(value, path, new):
    if not path:
        return new
    if isinstance(value, dict):
        return value | {path[0]: replaced(value[path[0]], path[1:], new)}
    changed = list(value)
    changed[path[0]] = replaced(value[path[0]], path[1:], new)
    return type(value)(changed)


def in_one_line(error):
    text = str(error)
    return 0 < len(text) <= 1000 and text.isprintable()


@given(st.sampled_from(list(places(PLAIN))), anything | strange)
def test_a_config_with_anything_anywhere_is_used_or_refused_in_one_line(path, new):
    try:
        assert isinstance(check_config(replaced(PLAIN, path, new)), Config)
    except InputError as error:
        assert in_one_line(error)


@given(st.data())
def test_any_vector_is_decoded_or_refused_by_knob(tiny_space, data):
    knobs = tiny_space.knobs
    huge = st.sampled_from([-(2**63), -(2**31), 2**31, 2**63 - 1])
    length = data.draw(st.sampled_from([len(knobs)] * 4 + [0, 1, len(knobs) + 1]))
    sizes = [len(k.values) for k in knobs] + [1]
    vector = np.array(
        [data.draw(st.integers(-2, sizes[i]) | huge) for i in range(length)], dtype=np.int64
    )
    outside = [k for k, v in zip(knobs, vector, strict=False) if not 0 <= v < len(k.values)]
    try:
        candidate = tiny_space.decode(vector)
    except SpaceError as error:
        assert in_one_line(error)
        assert length != len(knobs) or outside
        if length == len(knobs):
            assert any(f"`{knob.name}`" in str(error) for knob in outside)
    else:
        assert length == len(knobs)
        assert not outside
        assert tiny_space.decode(tiny_space.encode(candidate)) == candidate


@given(st.data())
def test_a_candidate_file_with_anything_anywhere_is_used_or_refused(
    tiny_space, tmp_path_factory, data
):
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    plain = tiny_space.decode(tiny_space.sample(rng, 1)[0]).to_dict()
    path = data.draw(st.sampled_from(list(places(plain))))
    changed = replaced(copy.deepcopy(plain), path, data.draw(anything))
    file = tmp_path_factory.getbasetemp() / "candidate.json"
    file.write_text(json.dumps(changed), encoding="utf-8")
    try:
        arch, recipe = read_candidate(file)
    except InputError as error:
        assert in_one_line(error)
        assert str(file) in str(error)
    else:
        assert all(cost > 0 for cost in dataclasses.astuple(count(arch)))
        if recipe is not None:
            again = Candidate(arch, recipe).to_dict()
            file.write_text(json.dumps(again), encoding="utf-8")
            assert read_candidate(file) == (arch, recipe)


@given(st.binary(max_size=60) | st.integers(1, 10**5).map(lambda n: b"[" * n))
@example(b'{"a":' * 10**5)
@example(b"1" * 10**4)
def test_any_bytes_as_a_candidate_file_are_refused(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "bytes.json"
    file.write_bytes(content)
    with pytest.raises(InputError) as raised:
        read_candidate(file)
    assert in_one_line(raised.value)


# Runs a script, then says what it loaded that takes seconds.
WATCHED = """import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    slow = {"jax", "tensorflow_datasets", "matplotlib.pyplot"} & set(sys.modules)
    assert not slow, slow
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["run_joint.py", "--config.search.pol_size=7"],
        ["run_joint.py", "--config.train.epochs=nan"],
        ["run_joint.py", "--config=missing.py"],
        ["run_joint.py", "--config.study.storage=postgresql://host:abc/name"],
        ["run_joint.py", f"--workdir={'x' * 300}"],
        ["train_candidate.py", "--config.train.batch_size=0"],
        ["train_candidate.py", f"--candidate={'x' * 300}"],
        ["search_budgets.py", "--flops=none"],
        ["search_budgets.py", "--workdir=w", f"--flops={'9' * 400}"],
        ["describe.py", "fbnetv3_z"],
        ["describe.py", "x" * 300],
        ["describe.py", "fbnetv3_a", "--width=nan"],
        ["describe.py", "fbnetv3_a", "--depth=x"],
        ["describe.py", "fbnetv3_a", f"--scale_to={'9' * 200}"],
        ["describe.py", "fbnetv3_a", "--json", "--out=missing/a.json"],
        ["classify.py", "--nosuch"],
        ["classify.py", f"--model={'x' * 300}", "a.png"],
        ["export.py", "--format=onnx"],
        ["export.py", "--workdir=w"],
        ["export.py", "--workdir=w", "--format=orbax,onxx"],
        ["export.py", "--workdir=w", "--format=orbax", "--seed=-1"],
        ["export.py", "--workdir=w", "--format=orbax", "--batch_size=many"],
        ["import_weights.py", "--wieghts=x"],
        ["make_stand_in.py", "--train=1"],
        ["make_stand_in.py", "stray"],
    ],
    ids=lambda a: " ".join(a)[:60],
)
def test_the_command_line_refuses_in_one_line_and_loads_nothing_slow(arguments):
    """So it is there in a fraction of the 3 seconds that it may take."""
    script, *rest = arguments
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, ROOT / "scripts" / script, *rest],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.data.dir=nobody_here/x", "existing folder"),
        ("--config.data.train_split=train[5:3]", "ends before it starts"),
        ("--config.data.val_images=1", "validation images are of class '"),
        ("--config.budget.flops=10", "no candidate satisfies the budget"),
        ("--config.study.storage=sqlite:////missing/trials.db", "unable to open"),
        ("--config.train.teacher=/missing", "holds no model"),
    ],
)
def test_a_study_refuses_in_one_line_before_it_trains(tmp_path, flag, message):
    def trains(*_):
        raise AssertionError("a training began")

    workdir, config = tmp_path / "work", parse_config(["run", TINY, flag], "", FlagValues())
    with pytest.raises(InputError, match=message) as error:
        run_study(config, workdir, Console(quiet=True), train_fn=trains)
    assert in_one_line(error.value)
    assert not workdir.exists()


def test_a_cache_that_cannot_be_written_is_told(tmp_path):
    """Without it programs compile again, but the digits must be written somewhere."""
    (tmp_path / "file").write_text("")
    cache = {"XDG_CACHE_HOME": str(tmp_path / "file")}
    _, err = run(REAL, tmp_path / "work", TINY, "--dry_run", code=2, **cache)
    warning, error = err.splitlines()
    assert warning.startswith(f"warning: the compilation cache `{tmp_path}/file/jointnas_jax/")
    assert error.startswith("error: ")
    assert "XDG_CACHE_HOME" in error


def test_ctrl_c_ends_a_script_in_one_line_and_it_can_start_again(tmp_path):
    command = [sys.executable, ROOT / "scripts" / "make_stand_in.py", f"--out={tmp_path / 'out'}"]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # A shell starts what runs in its background so that it ignores the signal.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert wait_until(lambda: list(tmp_path.glob("out/imagenet2012/*")), process)
    process.send_signal(signal.SIGINT)
    _, err = finish(process, code=3)
    assert err == "interrupted; the same command goes on, or starts again\n"
    assert not list(tmp_path.glob("out/imagenet2012/*"))
    again = subprocess.run([*command, "--train=20", "--validation=20"], check=False)
    assert again.returncode == 0


# What could run code out of a file, or a shell.
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "yaml"}
CALLS = {"eval", "exec", "compile", "__import__", "system", "popen", "literal_eval"}
KEYWORDS = {"allow_pickle", "shell", "weights_only"}
FILES = sorted([*(ROOT / "jointnas_jax").rglob("*.py"), *(ROOT / "scripts").glob("*.py")])


def dangers(tree):
    """Names of what is dangerous in a syntax tree."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from {a.name.split(".")[0] for a in node.names} & MODULES
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from {node.module.split(".")[0]} & MODULES
        elif isinstance(node, ast.Call):
            # Only built-in `compile`: programs have a method of that name.
            name = getattr(node.func, "id", None)
            method = getattr(node.func, "attr", None)
            yield from {name} & CALLS
            yield from {method} & (CALLS - {"compile", "literal_eval", "eval"})
            for keyword in node.keywords:
                on = not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False)
                if keyword.arg in KEYWORDS and on:
                    yield keyword.arg


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_the_package_has_nothing_that_runs_what_it_reads(file):
    assert not set(dangers(ast.parse(file.read_text())))


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from yaml import load",
        "x = eval('1')",
        "np.load(f, allow_pickle=True)",
        "subprocess.run('ls', shell=True)",
        "os.system('ls')",
        "exec(text)",
    ],
)
def test_the_walk_sees_dangers(code):
    assert list(dangers(ast.parse(code)))
