"""Workloads of studies that ran, and of studies that did not."""

from pathlib import Path

import pytest
from absl.flags import FlagValues

from jointnas_jax.command_line import parse_config
from jointnas_jax.errors import WorkdirError
from jointnas_jax.files import write_json
from jointnas_jax.nets.cost import count
from jointnas_jax.problem.problem import build_problem
from jointnas_jax.simulation.fleet import Fleet
from jointnas_jax.simulation.forecasted import Images, forecasted
from jointnas_jax.simulation.player import play
from jointnas_jax.simulation.recorded import recorded
from jointnas_jax.storage.database import sqlite_url
from jointnas_jax.storage.distributions import distributions
from jointnas_jax.storage.provenance import Provenance
from jointnas_jax.storage.trial_store import Trial, TrialStore
from jointnas_jax.storage.workdir import SCHEMA, start

ROOT = Path(__file__).parent.parent.parent
TINY = str(ROOT / "tests" / "support" / "tiny.py")
SECONDS = {
    "data": 1.0, "pool": 2.0, "pretraining": 3.0, "coarse stage": 50.0, "fine stage": 4.0,
    "random search": 0.0, "finalists": 25.0, "retraining": 11.0,
}  # fmt: skip


def config(*arguments, file=TINY):
    return parse_config(["run", *arguments], file, FlagValues())


def trial(problem, number, stage, seconds, vector, round=None, epochs=3, pack="exact"):
    values = problem.space.values(vector)
    costs = {"macs": count(problem.space.decode(vector).arch).macs}
    return Trial(
        number=number,
        stage=stage,
        round=round,
        seed=None,
        knobs=values,
        costs=costs,
        predicted=None,
        epochs=epochs,
        accuracies=(0.5,) * epochs,
        score=0.5,
        status="COMPLETED",
        reason=None,
        pack=pack,
        seconds=seconds,
    )


@pytest.fixture(scope="module")
def problem():
    return build_problem(config())


@pytest.fixture
def written(problem, tmp_path):
    """Writes the workdir of a study that was on so many devices."""

    def write(trials, devices=1, seconds=SECONDS):
        start(tmp_path, config())
        machine = {"devices": devices}
        Provenance(SCHEMA, machine, (1.0, 1.0), "", "tiny").write(tmp_path)
        store = TrialStore(sqlite_url(tmp_path), "tiny")
        store.create()
        for one in trials:
            store.append(one, distributions(problem.space.knobs))
        store.close()
        write_json(tmp_path / "winner0.json", problem.default.to_dict())
        write_json(
            tmp_path / "result.json", {"trials": len(trials), "seconds": seconds}, digest=True
        )
        return tmp_path

    return write


def test_a_study_on_one_device_is_played_in_its_own_time(problem, written):
    pool = problem.pool()
    trials = [
        *(trial(problem, i, "coarse", 10.0, pool[i], round=1 + i // 2) for i in range(4)),
        *(trial(problem, 4 + i, "validate", 10.0, pool[i], epochs=6) for i in range(2)),
        trial(problem, 6, "retrain", 10.0, pool[0], epochs=6),
    ]
    workload = recorded(written(trials))
    assert play(workload, Fleet(1)).seconds == pytest.approx(sum(SECONDS.values()))
    first, _, final, retrain = workload.phases
    # Ten seconds of the coarse stage are the driver's, five in each round.
    assert [p.before for p in workload.phases] == pytest.approx([6 + 5, 5, 4 + 5, 1])
    assert [p.coarse for p in workload.phases] == [True, True, False, False]
    alike = first.trainings[0]
    assert alike.compile_seconds + 3 * alike.epoch_seconds >= 10 - 1e-9
    # A winner is retrained in the program that it had as a finalist.
    assert retrain.trainings[0].program == final.trainings[0].program
    assert all(t.memory > 0 for t in workload.trainings)


def test_seconds_of_lanes_side_by_side_are_of_all_devices(problem, written):
    pool = problem.pool()
    trials = [
        *(trial(problem, i, "coarse", 10.0, pool[0], 1, pack="envelope-1") for i in range(4)),
        *(trial(problem, 4 + i, "validate", 10.0, pool[i]) for i in range(2)),
    ]
    seconds = SECONDS | {"coarse stage": 40.0, "finalists": 10.0, "retraining": 0.0}
    workload = recorded(written(trials, devices=2, seconds=seconds), one_host=True)
    assert [t.seconds for t in workload.phases[0].trainings] == pytest.approx([20.0] * 4)
    assert [t.seconds for t in workload.phases[1].trainings] == pytest.approx([10.0] * 2)
    assert play(workload, Fleet(2)).seconds == pytest.approx(sum(seconds.values()))


def test_compiling_is_told_from_training_by_those_who_did_not_wait_for_it(problem, written):
    one, other = problem.pool()[:2]
    trials = [
        *(trial(problem, i, "coarse", 16.0 - 6 * i, one, 1) for i in range(2)),
        trial(problem, 2, "coarse", 50.0, other, 1),
    ]
    first, second, third = recorded(written(trials)).trainings
    assert (first.seconds, second.seconds) == pytest.approx((10, 10))
    assert first.compile_seconds == second.compile_seconds == pytest.approx(6)
    macs = [t.costs["macs"] for t in (trials[0], trials[2])]
    assert third.seconds == pytest.approx(10 * macs[1] / macs[0])
    assert third.seconds + third.compile_seconds == pytest.approx(50)


def test_a_folder_without_a_finished_study_is_refused(tmp_path):
    with pytest.raises(WorkdirError, match="holds no study"):
        recorded(tmp_path)
    start(tmp_path, config())
    with pytest.raises(WorkdirError, match="no finished study"):
        recorded(tmp_path)


# -- the cost model --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def paper():
    """The paper's search, of fewer rounds than it has."""
    file = str(ROOT / "configs" / "imagenet_joint.py")
    own = config("--config.search.per_round=6", "--config.search.rounds=2", file=file)
    return own, forecasted(own, Images(256_116), stop_epochs=75)


def test_the_papers_search_is_planned_without_its_images(paper):
    own, workload = paper
    assert [len(p.trainings) for p in workload.phases] == [6, 6, 15, 6]
    assert [p.coarse for p in workload.phases] == [True, True, False, False]
    assert [p.trainings[0].epochs for p in workload.phases] == [150, 75, 150, 150]
    assert [t.number for t in workload.trainings] == list(range(33))
    first = workload.phases[0].trainings
    assert len({t.program for t in first}) == 6  # each has its own
    assert len({t.seconds for t in first}) == 6  # and its own cost
    steps = (256_116 - 10_000) // own.train.batch_size
    # 450 million multiply-adds, six operations for each and image, 5e12 of them a second on v5e.
    bound = steps * own.train.batch_size * 6 * 450e6 / 5e12
    assert all(0.5 * bound < t.epoch_seconds < 1.5 * bound for t in first)
    assert all(1e9 < t.memory < 80e9 for t in first)


def test_seeds_of_a_finalist_share_its_program(paper):
    programs = [t.program for t in paper[1].phases[2].trainings]
    assert len(set(programs)) == 5
    assert all(programs.count(name) == 3 for name in programs)


def test_a_dataset_that_is_there_is_counted():
    workload = forecasted(config("--config.study.random_reference=false"), target="cpu")
    assert [len(p.trainings) for p in workload.phases if p.coarse] == [3, 3, 3]
    assert "400 images" in workload.source
    assert any(t.envelope for t in workload.trainings)
