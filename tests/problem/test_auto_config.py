"""A config that fits the data: sizes, classes, numbers of images, budgets, devices."""

import numpy as np
import pytest
from PIL import Image

from jointnas_jax.command_line import wants_auto_config
from jointnas_jax.config import DataConfig, check_config
from jointnas_jax.errors import ConfigError, DataError
from jointnas_jax.problem import auto_config
from jointnas_jax.problem.auto_config import fitted_config, with_auto_config
from jointnas_jax.problem.problem import build_problem

DIGITS = DataConfig()


@pytest.fixture
def images(tmp_path, monkeypatch):
    """Writes noise as class folders: (classes, images of each, their sizes, Pillow's mode)."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def write(classes, each, sizes, mode="RGB"):
        root, rng = tmp_path / "images", np.random.default_rng(0)
        for c in range(classes):
            (root / f"class{c:03}").mkdir(parents=True)
            for i in range(each):
                width, height = sizes[i % len(sizes)]
                shape = (height, width, 3) if mode == "RGB" else (height, width)
                image = Image.fromarray(rng.integers(0, 256, shape, np.uint8))
                image.save(root / f"class{c:03}" / f"{i}.jpg")
        return DataConfig(dir=str(root))

    return write


def fitted(data, flops="", accelerator=False):
    """The config, read as a file is."""
    _, text = fitted_config(data, flops, accelerator=accelerator)
    scope = {}
    exec(text, scope)
    assert max(map(len, text.splitlines())) <= 120
    return check_config(scope["get_config"]())


@pytest.mark.parametrize(
    ("classes", "each", "sizes", "mode"),
    [
        (2, 20, [(24, 24)], "L"),
        (200, 10, [(16, 16)], "L"),
        (3, 12, [(256, 64)], "RGB"),
        (3, 12, [(320, 240), (300, 400)], "RGB"),
        (2, 10, [(5, 5)], "L"),
    ],
    ids=["40 images", "200 classes", "wide", "photos", "tiny"],
)
@pytest.mark.parametrize("accelerator", [False, True])
def test_it_is_a_study_of_any_images(images, classes, each, sizes, mode, accelerator):
    config = fitted(images(classes, each, sizes, mode), accelerator=accelerator)
    problem = build_problem(config)
    assert problem.dataset.num_classes == classes
    limit = config.budget.limits()["flops"]
    assert 0.4 * limit < problem.default.costs["flops"] <= limit
    train, validation, test = problem.divided_images()
    assert validation.any()
    assert len(test) == classes * each // 5
    assert (~validation).sum() >= config.train.batch_size
    assert len(problem.pool()) > 1000
    assert train.images.shape[1:] == problem.dataset.image_shape


def test_the_whole_of_wide_images_counts(images):
    config = fitted(images(2, 8, [(256, 16)]))
    assert config.data.image_size == 0
    assert max(config.space["resolution"]) == 32  # of 256 x 16 = 64 x 64 pixels
    assert config.data.crop_padding == 1


def test_images_of_a_pixel_are_too_small(images):
    with pytest.raises(DataError, match="must have 4 pixels a side, have 1x1"):
        fitted(images(2, 8, [(1, 1)]))


@pytest.mark.parametrize(("each", "batch"), [(5, 2), (8, 4), (20, 8), (80, 16)])
def test_small_sets_have_small_batches(images, each, batch):
    config = fitted(images(2, each, [(8, 8)], "L"))
    _, validation, _ = build_problem(config).divided_images()
    assert config.train.batch_size == batch <= (~validation).sum()


@pytest.mark.parametrize(("accelerator", "size"), [(False, 32), (True, 224)])
def test_photos_are_read_at_the_size_that_is_used(images, accelerator, size):
    config = fitted(images(2, 8, [(320, 240), (300, 400)]), accelerator=accelerator)
    assert config.data.image_size == max(config.space["resolution"]) == size


@pytest.mark.parametrize("flops", ["100K", "400K", "5M"])
def test_a_budget_is_kept_and_used(flops):
    config = fitted(DIGITS, flops)
    assert config.budget.flops == flops
    limit = config.budget.limits()["flops"]
    assert 0.4 * limit < build_problem(config).default.costs["flops"] <= limit


def test_more_budget_buys_resolution_before_width_on_large_images(images):
    data = images(2, 8, [(320, 320)])
    small, large = fitted(data, "1M"), fitted(data, "60M")
    assert max(small.space["resolution"]) == 28
    assert max(large.space["resolution"]) == 216


def test_an_impossible_budget_names_what_is_possible():
    with pytest.raises(ConfigError, match=r"`config.budget.flops` must be at least [\d,]+ for"):
        fitted(DIGITS, "2K")


def test_no_data_is_an_error():
    with pytest.raises(DataError, match="existing folder"):
        fitted(DataConfig(dir="/nowhere"))


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ([], False),
        (["--config=auto"], True),
        (["--config", "auto"], True),
        (["--config.data.dir=x"], True),
        (["--config.data.dir", "x", "--quiet"], True),
        (["--config=digits.py", "--config.data.dir=x"], False),
        (["--config.data.dir="], False),
    ],
)
def test_who_gets_one(arguments, wanted):
    assert wants_auto_config(["run", *arguments]) == wanted


@pytest.fixture
def on_a_cpu(monkeypatch):
    monkeypatch.setattr(auto_config, "in_a_process", lambda *_: "cpu")


def commanded(workdir, *arguments):
    argv = ["run", "--config=auto", "--workdir", str(workdir), *arguments]
    return with_auto_config(argv, "configs/digits.py")


@pytest.mark.usefixtures("on_a_cpu")
def test_it_is_written_into_the_workdir_and_stays_with_its_study(tmp_path):
    file = tmp_path / "study" / "config.py"
    command = commanded(file.parent, "--config.study.seeds=2", "--quiet")
    assert command[:2] == ["run", f"--config={file}"]
    assert command[2:] == [f"--workdir={file.parent}", "--config.study.seeds=2", "--quiet"]
    first = file.read_text()
    commanded(file.parent, "--config.budget.flops=1M")
    assert '"1M"' in file.read_text()  # no study yet
    file.write_text(first)
    (file.parent / "config.json").write_text("{}")
    commanded(file.parent, "--config.budget.flops=1M")
    assert file.read_text() == first
    commanded(file.parent, "--config.budget.flops=1M", "--overwrite")
    assert '"1M"' in file.read_text()


@pytest.mark.usefixtures("on_a_cpu")
@pytest.mark.parametrize(
    "wrong", ["--config.search.rouds=2", "--config.budget.flops=2K", "--config.data.nam=x"]
)
def test_a_mistake_leaves_no_trace(tmp_path, wrong):
    with pytest.raises(ConfigError):
        commanded(tmp_path / "study", wrong)
    assert not (tmp_path / "study").exists()


@pytest.mark.usefixtures("on_a_cpu")
def test_a_dry_run_prints_it(tmp_path, capsys):
    commanded(tmp_path / "study", "--dry_run")
    assert "def get_config():" in capsys.readouterr().out
    assert not (tmp_path / "study").exists()
