"""`scripts/export.py`, and `scripts/classify.py` on what it writes."""

import importlib.util
import json
import shutil

import pytest
from calls import script
from PIL import Image

import jointnas_jax

HAS_ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime"))
needs_onnx = pytest.mark.skipif(not HAS_ONNX, reason="the extra `onnx` is not installed")


@pytest.fixture(scope="module")
def workdir(finished_study, tmp_path_factory):
    return shutil.copytree(finished_study, tmp_path_factory.mktemp("runs") / "shapes")


@pytest.mark.parametrize(
    "formats", ["safetensors,stablehlo", pytest.param("onnx", marks=[pytest.mark.slow, needs_onnx])]
)
def test_an_export_classifies_as_the_study_does(workdir, study_images, tmp_path, formats):
    Image.fromarray(study_images[0]).save(tmp_path / "a.png")
    done = script("export", f"--workdir={workdir}", f"--format={formats}")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    out = workdir / "export" / formats.replace(",", "-")
    assert done.stdout.startswith(f"wrote {out}: ")
    assert "model_card.md" in done.stdout
    expected = jointnas_jax.load(workdir).classify(tmp_path / "a.png", top=2)
    command = done.stdout.splitlines()[1].partition("python scripts/")[2]
    command = command.replace("IMAGE", f"--json --top=2 {tmp_path / 'a.png'}")
    name, *arguments = command.split()
    (found,) = json.loads(script(name.removesuffix(".py"), *arguments).stdout)
    assert [c["label"] for c in found["classes"]] == [c["label"] for c in expected]
    probabilities = [c["probability"] for c in found["classes"]]
    assert probabilities == pytest.approx([c["probability"] for c in expected], abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--workdir=missing", "--format=orbax"], 2, "`missing` holds no model"),
        (["--workdir=study", "--format=orbax", "--winner=9"], 2, "there is no winner 9"),
        (["--workdir=study", "--format=orbax", "--out=study"], 2, "holds other things"),
        (["--workdir=damaged", "--format=stablehlo"], 4, "is damaged"),
    ],
)
def test_what_cannot_be_exported_is_one_line(workdir, tmp_path, arguments, code, message):
    for name in ("study", "damaged"):
        shutil.copytree(workdir, tmp_path / name, ignore=shutil.ignore_patterns("export"))
    file = tmp_path / "damaged" / "result.json"
    file.write_text(file.read_text().replace("cat", "cow"))
    before = sorted(tmp_path.rglob("*"))
    done = script("export", *arguments, cwd=tmp_path)
    assert done.returncode == code
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before
