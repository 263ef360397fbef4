"""`import jointnas_jax as jn`."""

import ast
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

import jointnas_jax as jn

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    "code", ["import jointnas_jax", "import jointnas_jax as jn; dir(jn), jn.Space"]
)
def test_the_import_is_cheap(code):
    check = f"{code}; import sys; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=False).returncode == 0


# Installed for studies of images, and not needed to search an objective of one's own.
FOR_IMAGES = (
    *("PIL", "array_record", "jinja2", "matplotlib", "pandas", "safetensors", "sklearn"),
    *("sqlalchemy", "tensorflow", "tensorflow_datasets"),
)
SEARCH = """
import sys
sys.modules |= dict.fromkeys({blocked})
import jointnas_jax as jn
from small import PREDICTOR
space = jn.Space(jn.Knob.integer("layers", 1, 8))
evaluate = lambda candidates: [c["layers"] for c in candidates]
print(jn.search(space, evaluate, evaluations=2, predictor=PREDICTOR).score)
del sys.modules["optuna"]
import optuna
study = optuna.create_study(direction="maximize", sampler=jn.JointNASSampler(seed=0))
study.optimize(lambda trial: trial.suggest_int("layers", 1, 8), n_trials=1)
"""


def _python(*command):
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=dict(os.environ) | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'support'}"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_objective_of_ones_own_is_searched_without_the_packages_for_images():
    done = _python("-c", SEARCH.format(blocked=(*FOR_IMAGES, "optuna")))
    assert done.returncode == 0, done.stderr
    assert 1 <= float(done.stdout) <= 8


def test_a_study_names_the_package_that_it_lacks(tmp_path):
    script = str(ROOT / "scripts" / "run_joint.py")
    code = (
        "import runpy, sys; sys.modules['tensorflow_datasets'] = None;"
        f"sys.argv = [{script!r}, '--workdir={tmp_path / 'study'}'];"
        f"runpy.run_path({script!r}, run_name='__main__')"
    )
    done = _python("-c", code)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: the package `tensorflow_datasets` is not installed; "
        "`pip install jointnas_jax` installs all that a study needs\n"
    )
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("name", jn.__all__)
def test_every_name_is_there_and_says_what_it_is(name):
    assert name in dir(jn)
    assert inspect.getdoc(getattr(jn, name))


def test_type_checkers_see_the_same_names():
    tree = ast.parse((ROOT / "jointnas_jax" / "__init__.py").read_text())
    (branch,) = (node for node in tree.body if isinstance(node, ast.If))
    imports = [(node.module, a.name) for node in branch.body for a in node.names]
    assert {name: f"jointnas_jax.{home}" for name, home in jn._HOMES.items()} == {
        name: module for module, name in imports
    }


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="`sarch`"):
        _ = jn.sarch


def test_search_is_a_plain_function():
    import jointnas_jax.strategy.searcher
    from jointnas_jax import search

    assert jn.search is search
    assert inspect.isfunction(search)
    assert jointnas_jax.strategy.searcher.Searcher
    assert list(inspect.signature(search).parameters)[:2] == ["space", "evaluate"]
