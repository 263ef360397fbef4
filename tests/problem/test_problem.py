"""Every config as a study: its default candidate, its budget and its modes."""

import dataclasses
import runpy
from pathlib import Path

import pytest

from jointnas_jax.config import check_config
from jointnas_jax.nets.cost import count
from jointnas_jax.problem import problem as problems
from jointnas_jax.problem.problem import build_problem

FILES = sorted((Path(__file__).parent.parent.parent / "configs").glob("*.py"))
IMAGENET = [file for file in FILES if file.stem.startswith("imagenet")]


def load(file, **changes):
    config = runpy.run_path(str(file))["get_config"]()
    config.update(changes)
    return check_config(config)


@dataclasses.dataclass
class NoImages:
    """All that a problem asks of a dataset."""

    name: str
    image_shape: tuple[int, int, int]
    num_classes: int

    def check_disjoint(self, *splits):
        pass


@pytest.fixture(autouse=True)
def datasets(monkeypatch):
    shapes = dict(imagenet2012=3, sign_digits=3)
    monkeypatch.setattr(
        problems,
        "open_dataset",
        lambda data: NoImages(
            data["name"],
            (data["image_size"] or 28, data["image_size"] or 28, shapes.get(data["name"], 1)),
            data["classes"] or (1000 if data["name"] == "imagenet2012" else 10),
        ),
    )


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_the_default_candidate_is_within_the_budget(file):
    problem = build_problem(load(file))
    assert not problem.over_budget(problem.default)


@pytest.mark.parametrize("mode", ["joint", "recipe", "arch"])
@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_every_config_has_every_mode(file, mode):
    config = runpy.run_path(str(file))["get_config"]()
    fixed = config.arch_file if mode == "recipe" else ""
    problem = build_problem(load(file, mode=mode, arch_file=fixed))
    varies = {"joint": (True, True), "recipe": (False, True), "arch": (True, False)}[mode]
    assert (problem.space.arch_size > 1, problem.space.recipe_size > 1) == varies


def test_the_default_candidate_of_the_joint_search_is_near_its_budget():
    (file,) = [f for f in IMAGENET if f.stem == "imagenet_joint"]
    problem = build_problem(load(file))
    assert 440e6 < count(problem.default.arch).flops <= 450e6
    # It is a member of the paper's space as it stands, for all classes as well.
    assert problem.space.decode(problem.space.encode(problem.default)) == problem.default
    assert count(dataclasses.replace(problem.default.arch, num_classes=1000)).flops <= 450e6


@pytest.mark.parametrize("start", [True, False])
def test_the_search_starts_with_the_default_candidate_where_it_is_told_to(start):
    (file,) = [f for f in FILES if f.stem == "digits"]
    config = runpy.run_path(str(file))["get_config"]()
    config.search.start_with_default = start
    config.search.pool_size = 64
    problem = build_problem(check_config(config))
    pool, default = problem.pool(), problem.space.encode(problem.default)
    assert (pool[0] == default).all() == start
    assert len(pool) == len({row.tobytes() for row in pool}) == 64
    assert problem.budget_test()(pool).all()
    config.budget.flops = "100K"  # under what the default candidate costs
    assert not (build_problem(check_config(config)).pool()[0] == default).all()


@pytest.mark.parametrize("file", IMAGENET, ids=lambda f: f.stem)
def test_the_imagenet_configs_search_as_the_paper_does(file):
    config = load(file)
    predictor = config.predictor
    assert config.search.propose == "pool"
    assert not config.search.start_with_default
    assert (predictor.members, predictor.process, predictor.targets) == (1, False, "raw")
    assert config.study.seeds > 1  # a comparison has no standard error otherwise


def test_the_papers_numbers_are_in_the_configs():
    joint, autotrain, train = (
        load(next(f for f in IMAGENET if f.stem == f"imagenet_{name}"))
        for name in ("joint", "autotrain", "train")
    )
    assert (joint.data.classes, joint.data.val_images) == (200, 10_000)
    assert (joint.search.pool_size, autotrain.search.pool_size) == (25_000, 20_000)
    assert (joint.search.rounds, joint.search.per_round, joint.train.epochs) == (4, 48, 150)
    assert (joint.search.threshold, joint.space["recipe"]["lr_end"]) == (0.92, 0.963**149)
    assert (autotrain.mode, autotrain.arch_file) == ("recipe", "fbnetv3_b")
    assert (train.train.epochs_of_winners, train.space["recipe"]["lr_end"]) == (400, 0.9875**399)
    assert (train.data.classes, train.train.teacher_share) == (0, 0.8)
    assert train.data.val_images == 0  # it trains on all images
