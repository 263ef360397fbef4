"""The documentation is built from the docstrings, without a warning."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import jointnas_jax as jn

pytest.importorskip("sphinx")
pytest.importorskip("furo")
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    out = tmp_path_factory.mktemp("docs")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", ROOT / "docs", out],
        env=dict(os.environ) | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return out


def test_it_builds_without_a_warning(built):
    assert (built / "index.html").is_file()


@pytest.mark.parametrize("name", jn.__all__)
def test_every_name_of_the_package_is_in_the_reference(built, name):
    page = (built / "api.html").read_text()
    assert any(f'id="{where}.{name}"' in page for where in places(name))


def places(name):
    home = jn._HOMES[name]
    return ("jointnas_jax", f"jointnas_jax.{home}")
