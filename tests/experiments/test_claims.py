"""Each claim is tried as its module says, on made-up trainings or very little data."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from rich.console import Console

from experiments import early_stop, joint, pretraining, swapped_recipes
from experiments.figures import draw_claim
from experiments.random_trials import RandomTrials, random_trials
from experiments.verdict import HOLDS, NOISE
from jointnas_jax.command_line import parse_config
from jointnas_jax.config import SearchConfig
from jointnas_jax.errors import ConfigError, InputError, SpaceError, WorkdirError
from jointnas_jax.execution.job import TrainResult
from jointnas_jax.files import read_json, write_json
from jointnas_jax.problem.problem import build_problem
from jointnas_jax.storage import workdir as workdirs

TINY = str(Path(__file__).parent.parent / "support" / "tiny.py")
CONSOLE = Console(quiet=True)


def config_of(*arguments):
    return parse_config(["claim", *arguments], TINY, flags.FlagValues())


class Trained:
    """Makes executors that train nothing.

    Attributes:
      jobs: of all of them so far.
    """

    schedules = ("none",)

    def __init__(self, result_of):
        self.jobs = []
        self._result_of = result_of

    def __call__(self, problem, candidates):
        return self

    def train(self, jobs, *, later=0, stored=()):
        for position, job in enumerate(jobs):
            if position not in stored:
                self.jobs.append(job)
                yield position, self._result_of(job)


@pytest.fixture
def trained():
    """Accuracies rise with the epochs to 20 times the learning rate."""

    def result_of(job):
        end = 20 * job.candidate.recipe.lr + job.candidate.arch.head.channels / 1e4
        epochs = range(1 if job.on_full_split else job.epochs)
        return TrainResult(tuple(end * (t + 1) / job.epochs for t in epochs), None, None, 0.0)

    return Trained(result_of)


def tried(make, path, wanted, twice, config=None):
    return random_trials(
        config or config_of(), path, wanted=wanted, twice=twice, console=CONSOLE, make=make
    )


def made_up(curves, twice=()):
    """Random trials of the tiny space with these curves."""
    problem = build_problem(config_of())
    vectors = problem.random_candidates(len(curves))
    return RandomTrials(problem, vectors, np.array(curves), np.reshape(twice, (-1, 2)), 0)


# -- random trials -------------------------------------------------------------------------------


def test_trials_are_trained_once_and_more_of_them_start_with_the_same(trained, tmp_path):
    path = tmp_path / "new" / "trials.jsonl"
    few = tried(trained, path, 6, 2)
    assert (len(trained.jobs), few.curves.shape, few.twice.shape) == (8, (6, 3), (2, 2))
    again = tried(trained, path, 6, 2)
    assert len(trained.jobs) == 8
    np.testing.assert_array_equal(again.curves, few.curves)
    more = tried(trained, path, 9, 3)
    assert len(trained.jobs) == 12
    np.testing.assert_array_equal(more.vectors[:6], few.vectors)
    np.testing.assert_array_equal(more.curves[:6], few.curves)
    assert len(path.read_text().splitlines()) == 1 + 12


def test_an_interrupted_run_goes_on_where_it_was(trained, tmp_path):
    path = tmp_path / "trials.jsonl"
    whole = tried(trained, path, 6, 2)
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:4]) + "\n")
    rest = tried(trained, path, 6, 2)
    assert len(trained.jobs) == 8 + 5
    np.testing.assert_array_equal(whole.curves, rest.curves)
    assert sorted(path.read_text().splitlines()[1:]) == sorted(lines[1:])


def test_a_second_training_has_another_key(trained, tmp_path):
    tried(trained, tmp_path / "trials.jsonl", 4, 4)
    assert len({str(job.key) for job in trained.jobs}) == 8
    assert len({str(job.candidate) for job in trained.jobs}) == 4


def test_failed_trainings_are_counted_and_left_out(tmp_path):
    def result_of(job):
        if job.candidate.recipe.optimizer == "rmsprop":
            return TrainResult((), "made to fail", None, 0.0)
        return TrainResult((0.1, 0.2, 0.3), None, None, 0.0)

    found = tried(Trained(result_of), tmp_path / "trials.jsonl", 12, 0)
    assert found.failed > 0
    assert found.failed + len(found.curves) == 12
    position = found.problem.space.positions["optimizer"]
    assert len(np.unique(found.vectors[:, position])) == 1


@pytest.mark.parametrize(
    ("change", "section"),
    [
        ("--config.train.epochs=4", "train"),
        ("--config.seed=1", "seed"),
        ("--config.space.recipe.dropout=0.1", "space"),
        ("--config.data.train_split=train[:300]", "data"),
        ("--config.budget.flops=70K", "budget"),
    ],
)
def test_trials_of_another_config_are_refused(trained, tmp_path, change, section):
    path = tmp_path / "trials.jsonl"
    tried(trained, path, 4, 0)
    with pytest.raises(WorkdirError, match=f"another `{section}`"):
        tried(trained, path, 4, 0, config_of(change))
    assert len(tried(trained, path, 4, 0, config_of("--config.predictor.width=8")).curves) == 4
    assert len(trained.jobs) == 4


@pytest.mark.parametrize("text", ["", "{", "[]\n", "no JSON\n"])
def test_a_file_of_something_else_is_one_line_and_stays_as_it_is(tmp_path, text):
    path = tmp_path / "trials.jsonl"
    path.write_text(text)
    with pytest.raises(WorkdirError, match=r"trials\.jsonl") as error:
        tried(Trained(None), path, 4, 0)
    assert "\n" not in str(error.value)
    assert path.read_text() == text


# -- pretraining ---------------------------------------------------------------------------------


class Cheat:
    """A predictor that knows the candidates that it learnt from, and nothing about others."""

    def __init__(self, features, settings, capacity, costs):
        self.pretrains = settings.pretrain_epochs > 0

    def pretrain(self, vectors, costs, key):
        return self.pretrains

    def fit(self, pretrained, vectors, scores, key):
        return pretrained, {v.tobytes(): s for v, s in zip(vectors, scores, strict=True)}

    def predict(self, state, vectors):
        pretrained, known = state
        noise = np.random.default_rng(len(known)).random(len(vectors))
        scores = [known.get(v.tobytes(), n) for v, n in zip(vectors, noise, strict=True)]
        # Where it is pretrained it has seen all: the order of the candidates is that of the scores.
        return (np.arange(len(vectors)) if pretrained else np.array(scores)), None


def test_a_predictor_is_tested_on_candidates_that_it_did_not_learn_from(tmp_path):
    curves = np.linspace(0.1, 0.9, 60)[:, None] * [0.5, 1.0]
    found = pretraining.compare(made_up(curves), [10, 30, 50], 5, make=Cheat)
    assert [row["label"] for row in found["rows"]][:3] == [
        f"default, N = {n}" for n in (10, 30, 50)
    ]
    for row in found["rows"]:
        assert row["numbers"]["with"] == pytest.approx(1.0)
        # Knowing 50 of 60 would give a tau of 0.7 and more if they were tested on.
        assert abs(row["numbers"]["without"]) < 0.3
    first, *_, last = found["rows"][:3]
    assert first["difference"]["units"] == 6
    assert first["difference"]["verdict"] == HOLDS
    assert (last["difference"]["units"], last["difference"]["verdict"]) == (1, NOISE)
    json.dumps(found, allow_nan=False)
    assert draw_claim("pretraining", found, tmp_path / "a.png").stat().st_size > 1000


def test_the_predictors_differ_in_their_pretraining_only():
    seen = []

    def make(features, settings, capacity, costs):
        seen.append(settings)
        return Cheat(features, settings, capacity, costs)

    pretraining.compare(made_up([[0.1], [0.2]] * 10), [5], 2, make=make)
    assert [s.pretrain_epochs > 0 for s in seen] == [True, False] * 2
    assert dataclasses.replace(seen[1], pretrain_epochs=seen[0].pretrain_epochs) == seen[0]
    assert dataclasses.replace(seen[3], pretrain_epochs=seen[2].pretrain_epochs) == seen[2]
    assert (seen[2].members, seen[2].process, seen[2].targets) == (1, False, "raw")


@pytest.mark.slow
def test_real_predictors_rank_with_and_without_pretraining():
    rng = np.random.default_rng(0)
    trials = made_up(rng.random((24, 3)), twice=[[0.1, 0.2], [0.2, 0.3], [0.3, 0.1]])
    found = pretraining.compare(trials, [6, 12], 2)
    assert np.shape(found["taus"]["paper's"]["6"]["with"]) == (2, 4)
    assert found["ceiling"]["kendall"] == pytest.approx(-1 / 3)
    json.dumps(found, allow_nan=False)


def test_a_config_without_pretraining_cannot_try_it():
    bare = dataclasses.replace(config_of().predictor, pretrain_epochs=0)
    trials = made_up(np.random.default_rng(0).random((8, 2)))
    problem = dataclasses.replace(
        trials.problem, config=dataclasses.replace(config_of(), predictor=bare)
    )
    with pytest.raises(ConfigError, match="pretrain_epochs"):
        pretraining.compare(trials._replace(problem=problem), [3], 1)


# -- the early-stop rule -------------------------------------------------------------------------


def test_where_the_ranking_stands_early_the_rule_saves_epochs_and_keeps_it(tmp_path):
    """From epoch 2 of 5 on candidates rank as at the end, but for two neighbours."""
    end = np.linspace(0.5, 0.9, 40)
    late = end - 0.1
    late[[0, 1]] = late[[1, 0]]
    first = np.random.default_rng(0).random(40)
    found = early_stop.compare(made_up(np.stack([first, late, late, late, end], 1)), [8, 20, 37], 4)
    for row in found["rows"]:
        assert row["numbers"]["epochs"] == pytest.approx(2.0)
        assert row["numbers"]["saved"] == pytest.approx(0.6)
    assert [r["difference"]["verdict"] for r in found["rows"]] == [HOLDS, HOLDS, NOISE]
    assert found["by_epoch"]["spearman"][4] == 1.0
    json.dumps(found, allow_nan=False)
    assert draw_claim("early_stop", found, tmp_path / "a.png").stat().st_size > 1000


def test_rounds_that_save_nothing_do_not_count_as_keeping_the_ranking():
    """Only the last epoch ranks."""
    rng = np.random.default_rng(0)
    found = early_stop.compare(made_up(rng.random((40, 4))), [12], 3)
    (row,) = found["rows"]
    assert (row["numbers"]["epochs"], row["numbers"]["stopped"]) == (4.0, 0.0)
    assert row["numbers"]["kept"] is None
    assert row["difference"]["verdict"] == NOISE
    np.testing.assert_allclose(found["rounds"]["12"]["kept"], 1.0)


def test_kept_is_measured_on_others_than_the_rule_saw():
    """The first three rank at once; the others turn round at the end."""
    end = np.linspace(0.1, 0.9, 10)
    then = np.r_[end[:3], end[3:][::-1]]
    curves, search = np.stack([then, end], 1), SearchConfig(threshold=0.92, correlation="spearman")
    assert early_stop.apply_rule(curves, np.arange(3), search) == (
        1,
        -1.0,
        pytest.approx(end[-1] - end[3]),
    )


# -- joint search --------------------------------------------------------------------------------


def studies(**tests):
    return {
        mode: [{"test": test, "trained": 9, "seed": i} for i, test in enumerate(values)]
        for mode, values in tests.items()
    }


def test_modes_are_compared_seed_by_seed():
    """Seeds differ by far more than modes do."""
    found = joint.report(
        studies(joint=[0.5, 0.7, 0.9], arch=[0.48, 0.679, 0.881], recipe=[0.6, 0.65, 0.9]),
        [0.4, 0.5, None],
    )
    assert [row["difference"]["verdict"] for row in found["rows"]] == [HOLDS, NOISE]
    assert found["default"] == [0.4, 0.5, None]


def test_a_study_whose_winner_failed_does_not_count():
    found = joint.report(
        studies(joint=[0.5, 0.7, None], arch=[0.48, 0.679, 0.9], recipe=[0.4, 0.5, 0.6]), [0.4] * 3
    )
    assert found["rows"][0]["difference"]["units"] == 2


def test_areas_of_fronts_are_compared(tmp_path):
    """A front that reaches as high at half the cost has more area; one point has an area, too."""
    fronts = {
        "joint": [(1e5, 0.9), (2e5, 0.95)],
        "arch": [(2e5, 0.9), (4e5, 0.95)],
        "recipe": [(2e5, 0.95)],
    }
    made = {
        mode: [
            {"test": 0.5, "trained": 9, "members": [(c, a + s / 100) for c, a in front]}
            for s in range(3)
        ]
        for mode, front in fronts.items()
    }
    rows = joint.report(made, [0.4] * 3)["rows"]
    assert [row["difference"]["verdict"] for row in rows] == [HOLDS, HOLDS]
    areas = rows[0]["numbers"]
    assert 1 == areas["joint"] > areas["other"] > 0
    rows = joint.report(made | {"arch": made["joint"]}, [0.4] * 3)["rows"]
    assert rows[0]["difference"]["mean"] == 0
    found = joint.report(made, [0.4] * 3) | {"dataset": "digits"}
    assert draw_claim("joint", found, tmp_path / "a.png").stat().st_size > 1000
    failed = [{"test": None, "members": []}] * 3
    rows = joint.report(made | {"recipe": failed}, [None] * 3)["rows"]
    assert rows[1]["difference"]["units"] == 0


class Runs:
    """Studies that write their result at once; the test accuracy is a tenth of the seed.

    Attributes:
      configs: of the studies that ran.
    """

    def __init__(self):
        self.configs = []

    def __call__(self, config, workdir, overwrite):
        if not overwrite and workdirs.look(workdir, config) is workdirs.WorkdirState.FINISHED:
            return read_json(workdir / "result.json")
        self.configs.append(config)
        measured = {"mean": config.seed / 10, "seeds": [config.seed / 10]}
        entry = {"test": measured, "validation": measured, "source": "fine stage"}
        result = {
            "seed": config.seed,
            "dataset": {"name": "digits"},
            "epochs": {"search": 3, "final": 3},
            "winners": [entry | {"costs": {"flops": 1}}],
            "references": {"default": entry},
            "rounds": [{"trained": 3, "best": 0.5}, {"trained": 3, "best": None}],
            "early_stop": {"epochs": 2},
            "seconds": {"data": 1.0},
        }
        workdirs.clear(workdir)
        workdirs.start(workdir, config)
        write_json(workdir / "result.json", result, digest=True)
        return result


def test_studies_differ_in_mode_and_seed_only_and_run_once(tmp_path):
    run, first = Runs(), config_of("--config.seed=3")
    ran = run.configs
    found = joint.compare(first, tmp_path, 2, overwrite=False, run=run)
    assert [(c.seed, c.mode) for c in ran] == [(s, m) for s in (3, 4) for m in joint.MODES]
    alike = {dataclasses.replace(c, seed=3, mode="joint") == ran[0] for c in ran}
    assert alike == {True}
    assert not ran[0].study.random_reference
    assert found["default"] == [0.3, 0.4]
    assert [s["trained"] for mode in joint.MODES for s in found["studies"][mode]] == [6] * 6
    assert joint.compare(first, tmp_path, 2, overwrite=False, run=run) == found
    assert len(ran) == 6
    json.dumps(found, allow_nan=False)
    assert draw_claim("joint", found, tmp_path / "a.png").stat().st_size > 1000


def test_an_unfinished_study_goes_on_and_another_one_is_overwritten_if_told_to(tmp_path):
    run = Runs()
    ran = run.configs
    joint.compare(config_of(), tmp_path, 2, overwrite=False, run=run)
    (tmp_path / "arch-seed1" / "result.json").unlink()
    joint.compare(config_of(), tmp_path, 2, overwrite=False, run=run)
    assert [(c.seed, c.mode) for c in ran[6:]] == [(1, "arch")]
    other = config_of("--config.train.epochs=4")
    with pytest.raises(WorkdirError, match="another config"):
        joint.compare(other, tmp_path, 2, overwrite=False, run=run)
    assert len(ran) == 7
    joint.compare(other, tmp_path, 2, overwrite=True, run=run)
    assert len(ran) == 13


# -- swapped recipes -----------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    """Two candidates, the wide network with the high learning rate."""
    problem = build_problem(config_of())
    paths = []
    for lr, channels in ((0.01, 16), (0.05, 32)):
        values = dict(
            stage1_expand=1, stage1_channels=8, head_channels=channels, lr=lr, optimizer="sgd"
        )
        candidate = problem.space.decode(problem.space.vector_from_values(values))
        paths.append(tmp_path / f"{channels}.json")
        paths[-1].write_text(json.dumps(candidate.to_dict()))
    return paths


def test_every_network_is_trained_with_every_recipe(trained, files, tmp_path):
    config = config_of("--config.train.winner_epochs=6")
    found = swapped_recipes.compare(config, files, 3, make=trained)
    assert len(trained.jobs) == 12
    assert all(job.on_full_split and job.epochs == 6 for job in trained.jobs)
    cells = {(job.candidate.arch.head.channels, job.candidate.recipe.lr) for job in trained.jobs}
    assert cells == {(c, lr) for c in (16, 32) for lr in (0.01, 0.05)}
    assert len({str(job.key) for job in trained.jobs}) == 3
    accuracies = np.array(found["accuracies"])
    assert accuracies.shape == (2, 2, 3)
    # As the recipe, in the columns, says.
    assert (accuracies[:, 1] > accuracies[:, 0]).all()
    assert [n["flops"] > 0 for n in found["networks"]] == [True, True]
    assert draw_claim("swapped_recipes", found, tmp_path / "a.png").stat().st_size > 1000


def test_the_own_recipe_is_on_the_diagonal():
    accuracies = np.full((3, 3, 2), 0.5)
    accuracies[[0, 1, 2], [0, 1, 2]] = [[0.6, 0.61], [0.7, 0.72], [0.5, 0.5]]
    rows = swapped_recipes.report(["a", "b", "c"], accuracies)["rows"]
    assert [row["difference"]["mean"] for row in rows] == pytest.approx([0.105, 0.21, 0.0, 0.105])


def test_failed_trainings_leave_no_accuracy():
    accuracies = np.full((2, 2, 2), 0.5)
    accuracies[0, 1, 0] = np.nan
    found = swapped_recipes.report(["a", "b"], accuracies)
    assert found["accuracies"][0][1] == [None, 0.5]
    assert [row["difference"]["units"] for row in found["rows"]] == [1, 2, 1]


def test_candidates_that_cannot_be_swapped_are_refused(files, tmp_path):
    with pytest.raises(InputError, match="two files or more, got 1"):
        swapped_recipes.compare(config_of(), files[:1], 1)
    data = json.loads(files[0].read_text())
    data["recipe"]["lr"] = 0.5
    files[0].write_text(json.dumps(data))
    with pytest.raises(SpaceError, match=r"16\.json. is not of this config's space"):
        swapped_recipes.compare(config_of(), files, 1)
