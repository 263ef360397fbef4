"""What a workdir stores comes back as it was."""

import json
from pathlib import Path

import pytest
from absl import flags
from rich.console import Console

from jointnas_jax.command_line import parse_config
from jointnas_jax.errors import ConfigError
from jointnas_jax.nets import zoo
from jointnas_jax.space.fbnetv3 import FBNETV3
from jointnas_jax.storage import workdir as workdirs
from jointnas_jax.storage.provenance import Provenance

ROOT = Path(__file__).parent.parent.parent
FILES = [
    *sorted((ROOT / "configs").glob("*.py")),
    Path(__file__).parent.parent / "support" / "tiny.py",
]


def kinds(value):
    """The types of everything in a config: a range is no list of choices, 1 is no 1.0."""
    if isinstance(value, dict):
        return {key: kinds(v) for key, v in value.items()}
    if isinstance(value, tuple | list):
        return type(value), [kinds(v) for v in value]
    return type(value)


def stored_again(workdir, config):
    workdirs.clear(workdir)
    workdirs.start(workdir, config)
    stored = workdirs.stored_config(workdir)
    assert stored == config
    assert kinds(stored.to_dict()) == kinds(config.to_dict())
    return stored


@pytest.mark.parametrize("file", FILES, ids=lambda p: p.stem)
def test_every_config_comes_back_exactly(tmp_path, file):
    config = parse_config(["run"], str(file), flags.FlagValues())
    stored_again(tmp_path, config)


def test_overrides_come_back_exactly(tmp_path):
    arguments = [
        "--config.search.evolution.mutation=(0.1,1)",
        "--config.budget.params=20K",
        "--config.seed=7",
    ]
    file = str(ROOT / "tests" / "support" / "tiny.py")
    config = parse_config(["run", *arguments], file, flags.FlagValues())
    stored = stored_again(tmp_path, config)
    assert stored.search.evolution.mutation == (0.1, 1)
    assert stored.budget.limits() == {"flops": 60_000, "params": 20_000}


def test_the_papers_space_comes_back_exactly():
    plain = json.loads(json.dumps(workdirs.jsonable(FBNETV3)))
    again = workdirs._from_jsonable(plain)
    assert again == FBNETV3
    assert kinds(again) == kinds(FBNETV3)


def test_a_config_comes_back_where_its_architecture_file_is_gone(tmp_path):
    file = tmp_path / "arch.json"
    file.write_text(json.dumps(zoo.fbnetv3("a").to_dict()))
    tiny = str(ROOT / "tests" / "support" / "tiny.py")
    arguments = ["--config.mode=recipe", f"--config.arch_file={file}"]
    config = parse_config(["run", *arguments], tiny, flags.FlagValues())
    workdirs.clear(tmp_path / "study")
    workdirs.start(tmp_path / "study", config)
    file.unlink()
    assert workdirs.stored_config(tmp_path / "study") == config


def test_a_study_goes_on_with_the_images_that_it_began_with(tmp_path):
    config = parse_config(["run"], str(FILES[-1]), flags.FlagValues())
    begun = Provenance.here(config, {"device": "cpu"}, (1.0, 1.0), "pets_1/1.0.0")
    begun.write(tmp_path)
    stored = Provenance.read(tmp_path)
    check = lambda dataset: stored.check(
        config, {"device": "cpu"}, Console(quiet=True), dataset=dataset
    )
    check("pets_1/1.0.0")
    with pytest.raises(ConfigError, match=r"`pets_1/1.0.0`, here are those of `pets_2/1.0.0`"):
        check("pets_2/1.0.0")
