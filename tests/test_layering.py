"""The imports between packages point downwards only (README, Design)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "jointnas_jax"

ENGINE = {"errors", "config", "space", "nets", "data", "train", "predictor", "search"}
# What each package may import, besides itself.
ALLOWED = {
    "errors": set(),
    "compiling": set(),
    "files": {"errors"},
    "processes": {"errors"},
    "space": {"errors"},
    "rules": {"errors"},
    "config_executors": {"errors", "rules"},
    "config": {"errors", "rules", "space", "config_executors"},
    "command_line": {"errors", "rules", "config", "space"},
    "nets": {"errors", "config", "space"},
    "zoo": {"errors", "space", "nets"},
    "data": {"errors", "config"},
    "train": {"errors", "compiling", "files", "config", "space", "nets", "data"},
    "claims": (ENGINE - {"train"}) | {"files", "command_line", "study", "report"},
    "bench": ENGINE | {"processes", "study"},
    "simulation": (ENGINE - {"predictor", "search"}) | {"files", "processes", "rules", "study"},
    "predictor": {"errors", "compiling", "config", "space"},
    "search": {"errors", "config", "space"},
    "report": {"errors", "files", "rules", "config", "space", "nets", "search"},
    "study": ENGINE | {"config_executors", "compiling", "files", "report", "rules", "zoo"},
    "library": (ENGINE - {"train", "data"}) | {"rules", "command_line", "study"},
}
# The evaluator alone turns candidates into trained networks; the plan asks what that will take.
TRAINERS = {"study/evaluator.py", "study/plan.py", "study/planning.py", "study/teacher.py"}


def _imports(path: Path) -> set[str]:
    """Names of our own packages that a file imports, wherever in it and in whatever form."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative imports hide what is imported"
            if node.module == "jointnas_jax":
                found |= {a.name for a in node.names}
            elif node.module.startswith("jointnas_jax."):
                found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {
                a.name.split(".")[1] for a in node.names if a.name.startswith("jointnas_jax.")
            }
    return found


FILES = sorted(p for p in PACKAGE.rglob("*.py") if p.parent != PACKAGE or p.stem != "__init__")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_downwards(path):
    layer = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    upward = _imports(path) - ALLOWED[layer] - {layer}
    assert not upward, f"{path.name} in `{layer}` may not import {sorted(upward)}"


def test_every_package_has_a_layer():
    packages = {p.name for p in PACKAGE.iterdir() if p.is_dir() and not p.name.startswith("__")}
    modules = {p.stem for p in PACKAGE.glob("*.py")} - {"__init__"}
    assert packages | modules == set(ALLOWED)


def test_only_evaluator_and_plan_see_the_training():
    users = {
        str(p.relative_to(PACKAGE)) for p in PACKAGE.glob("study/*.py") if "train" in _imports(p)
    }
    assert users == TRAINERS


def test_an_upward_import_would_be_seen(tmp_path):
    file = tmp_path / "bad.py"
    file.write_text(
        "def f():\n    from jointnas_jax.study.run import run_study\n"
        "    import jointnas_jax.train.step\n"
        "    from jointnas_jax import report\n"
    )
    assert _imports(file) == {"study", "train", "report"}
    file.write_text("from . import run")
    with pytest.raises(AssertionError, match="relative"):
        _imports(file)


@pytest.mark.parametrize(
    "module",
    [
        "config",
        "command_line",
        "errors",
        "space",
        "space.joint",
        "space.features",
        "report.architecture",
        "report.card",
        "report.figures",
        "report.page",
        "report.claims",
        "study.record",
        "study.display",
        "study.status",
        "report.simulation",
        "simulation.fleet",
        "simulation.player",
        "simulation.sweep",
        "bench.scaling",
        "claims.entry",
        "claims.verdict",
        "zoo",
        "library.space",
    ],
)
def test_imports_without_jax(module):
    code = f"import sys, jointnas_jax.{module}; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_no_file_is_a_drawer_for_everything():
    names = {p.stem for p in ROOT.rglob("*.py") if ".venv" not in p.parts}
    assert not names & {"utils", "helpers", "common", "misc"}
