"""`import jointnas_jax as jn`."""

import ast
import inspect
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
