"""Checks 16 to 18: whatever is given, it is used as it is or refused in one line; no code runs."""

import ast
import copy
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from hypothesis import given
from hypothesis import strategies as st
from runs import TINY

from jointnas_jax.command_line import parse_config
from jointnas_jax.config import Config, check_config
from jointnas_jax.errors import InputError, SpaceError
from jointnas_jax.space import Candidate, read_candidate

ROOT = Path(__file__).parent.parent.parent
PLAIN = parse_config(["run", TINY], "", flags.FlagValues()).to_dict()

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["../x", "a\0b", "=stage1_kernel", "sgd", "1.5M"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=6), inner, max_size=2)
    ),
    max_leaves=5,
)


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
    return 0 < len(text) < 2000 and "\n" not in text and "\0" not in text


@given(st.sampled_from(list(places(PLAIN))), anything)
def test_a_config_with_anything_anywhere_is_used_or_refused_in_one_line(path, new):
    try:
        assert isinstance(check_config(replaced(PLAIN, path, new)), Config)
    except InputError as error:
        assert in_one_line(error)


@given(st.data())
def test_any_vector_is_decoded_or_refused_by_knob(tiny_space, data):
    knobs = tiny_space.knobs
    length = data.draw(st.sampled_from([len(knobs)] * 4 + [0, 1, len(knobs) + 1]))
    sizes = [len(k.values) for k in knobs] + [1]
    vector = np.array([data.draw(st.integers(-2, sizes[i])) for i in range(length)], dtype=np.int64)
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
        if recipe is not None:
            again = Candidate(arch, recipe).to_dict()
            file.write_text(json.dumps(again), encoding="utf-8")
            assert read_candidate(file) == (arch, recipe)


@given(st.binary(max_size=60))
def test_any_bytes_as_a_candidate_file_are_refused(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "bytes.json"
    file.write_bytes(content)
    with pytest.raises(InputError) as raised:
        read_candidate(file)
    assert in_one_line(raised.value)


@pytest.mark.parametrize(
    "arguments",
    [
        ["run_joint.py", "--config.search.pol_size=7"],
        ["run_joint.py", "--config.train.epochs=nan"],
        ["run_joint.py", "--config=missing.py"],
        ["train_candidate.py", "--config.train.batch_size=0"],
        ["search_budgets.py", "--flops=none"],
        ["describe.py", "fbnetv3_z"],
    ],
    ids=lambda a: " ".join(a),
)
def test_the_command_line_refuses_in_one_line_and_in_time(arguments):
    script, *rest = arguments
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / script, *rest],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


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
