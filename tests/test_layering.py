"""Imports point downwards, file by file (README, Design)."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "jointnas_jax"

# Rooms and single files from top to bottom: each imports from those below it only.
ORDER = (
    *(
        "cli",
        "library",
        "simulation",
        "study",
        "execution",
        "models",
        "problem",
        "telemetry",
        "storage",
    ),
    *("report", "strategy", "predictor", "train", "data", "nets"),
    *("command_line", "config", "space", "arguments", "rules", "runtime", "files", "errors"),
)
# What rooms do without although it is below them.
FORBIDDEN = {
    "strategy": {"train", "data", "nets"},
    "predictor": {"train", "data", "nets"},
    "problem": {"predictor", "train"},
    "report": {"predictor", "train", "data"},
    "storage": {"predictor", "strategy", "train", "data", "nets"},
    "telemetry": {"predictor", "strategy", "train", "data", "nets"},
    "execution": {"predictor", "strategy"},
    "simulation": {"predictor", "strategy"},
    "library": {"train", "data"},
    "space": {"runtime", "files"},
    "config": {"runtime", "files"},
}
# Rooms outside of the package: they import from it, and nothing in it imports them.
OUTSIDE = ("benchmarks", "experiments")


def _imports(path: Path) -> Iterator[str]:
    """Dotted names of our own modules that a file imports, wherever in it and in whatever form."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative imports hide what is imported"
            assert node.module
            for alias in node.names:
                dotted = f"{node.module}.{alias.name}"
                yield dotted if _file(dotted) else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def _file(dotted: str) -> Path | None:
    """The file of a module of ours; None where it is none."""
    if dotted.split(".")[0] not in ("jointnas_jax", *OUTSIDE):
        return None
    path = ROOT.joinpath(*dotted.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file
    return None


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _edges(path: Path) -> set[Path]:
    """Files of ours that a file imports, packages by their `__init__.py`."""
    files = {_file(dotted) for dotted in _imports(path)}
    return {file for file in files if file and file != path}


FILES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_downwards(path):
    room = _room(path)
    for file in _edges(path):
        assert PACKAGE in file.parents, f"{path.name} imports `{file}`, which is not in the wheel"
        if file == PACKAGE / "__init__.py":
            continue
        other = _room(file)
        assert ORDER.index(other) >= ORDER.index(room), f"{path.name} imports upwards: {other}"
        assert other not in FORBIDDEN.get(room, ()), f"`{room}` does without `{other}`"


def test_every_room_has_its_place():
    rooms = {p.name for p in PACKAGE.iterdir() if p.is_dir() and not p.name.startswith("__")}
    files = {p.stem for p in PACKAGE.glob("*.py")} - {"__init__"}
    assert rooms | files == set(ORDER)


def test_no_circle_between_files():
    everywhere = [*FILES, *(p for room in OUTSIDE for p in (ROOT / room).rglob("*.py"))]
    graph = {path: _edges(path) for path in everywhere}
    assert not _circle(graph)


def _circle(graph: dict[Path, set[Path]]) -> list[Path]:
    """The files of one circle; [] where there is none."""
    done: set[Path] = set()

    def visit(path: Path, trail: list[Path]) -> list[Path]:
        if path in trail:
            return trail[trail.index(path) :]
        if path in done:
            return []
        for file in graph.get(path, ()):
            if circle := visit(file, [*trail, path]):
                return circle
        done.add(path)
        return []

    return next((circle for path in graph if (circle := visit(path, []))), [])


def test_a_circle_would_be_seen():
    a, b, c = Path("a"), Path("b"), Path("c")
    assert _circle({a: {b}, b: {c}, c: {b}}) == [b, c]
    assert _circle({a: {b, c}, b: {c}, c: set()}) == []


def test_an_upward_import_would_be_seen(tmp_path):
    file = tmp_path / "bad.py"
    file.write_text(
        "def f():\n    from jointnas_jax.study.run import run_study\n"
        "    import jointnas_jax.train.step\n"
        "    from jointnas_jax import report\n"
    )
    rooms = ("study/run.py", "train/step.py", "report/__init__.py")
    assert _edges(file) == {PACKAGE / name for name in rooms}
    file.write_text("from . import run")
    with pytest.raises(AssertionError, match="relative"):
        _edges(file)


WITHOUT_JAX = (
    "jointnas_jax.config",
    "jointnas_jax.command_line",
    "jointnas_jax.errors",
    "jointnas_jax.space",
    "jointnas_jax.space.joint",
    "jointnas_jax.space.features",
    "jointnas_jax.report.architecture",
    "jointnas_jax.report.card",
    "jointnas_jax.report.figures",
    "jointnas_jax.report.page",
    "jointnas_jax.report.simulation",
    "jointnas_jax.storage.study_reader",
    "jointnas_jax.telemetry.console",
    "jointnas_jax.telemetry.status",
    "jointnas_jax.simulation.fleet",
    "jointnas_jax.simulation.player",
    "jointnas_jax.simulation.sweep",
    "jointnas_jax.nets.zoo",
    "jointnas_jax.library.space",
    "benchmarks.persistence",
    "benchmarks.population",
    "benchmarks.scaling",
    "benchmarks.tabular",
    "experiments.early_stop",
    "experiments.figures",
    "experiments.joint",
    "experiments.pretraining",
    "experiments.swapped_recipes",
)


def test_these_import_without_jax():
    """All in one process, which names the first that does not."""
    code = (
        "import importlib, sys\n"
        f"for name in {WITHOUT_JAX}:\n"
        "    importlib.import_module(name)\n"
        "    assert 'jax' not in sys.modules, name\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_no_file_is_a_drawer_for_everything():
    names = {p.stem for p in ROOT.rglob("*.py") if ".venv" not in p.parts}
    assert not names & {"utils", "helpers", "common", "misc"}
