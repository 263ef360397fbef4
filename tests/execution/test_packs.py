"""How packs share devices and programs: few programs, compiled side by side, and short queues."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny
from compilations import compilations

from jointnas_jax.config import check_config
from jointnas_jax.execution import local as evaluators
from jointnas_jax.execution.job import Job, TrainResult
from jointnas_jax.execution.local import LocalExecutor
from jointnas_jax.problem.problem import build_problem
from jointnas_jax.train.paused import Paused
from jointnas_jax.train.program import Training


@pytest.fixture(scope="module")
def problem():
    """Two resolutions, so two envelopes."""
    config = tiny.get_config()
    config.space = config.space.to_dict() | dict(resolution=[6, 8])
    config.default = config.default.to_dict() | dict(resolution=8)
    return build_problem(check_config(config))


@pytest.fixture(scope="module")
def split(problem):
    return problem.dataset.load("train[:64]")


def make(problem, split, devices=4, train_fn=None, **train):
    settings = dict(batch_size=16, program="envelope") | train
    train = dataclasses.replace(problem.config.train, **settings)
    study = dataclasses.replace(problem.config.study, devices=devices)
    config = dataclasses.replace(problem.config, train=train, study=study)
    images = (split, np.arange(len(split)) < 32, split)
    return LocalExecutor(config, problem.space, images, train_fn=train_fn)


def jobs(problem, count, seed=0):
    vectors = problem.space.sample(np.random.default_rng(seed), count)
    return [
        Job(problem.space.decode(v), jax.random.key(1000 * seed + i), 1)
        for i, v in enumerate(vectors)
    ]


def test_rounds_of_any_size_run_in_the_lanes_of_the_first(problem, split):
    """Several lanes on a device, as on accelerators."""
    worker = make(problem, split, devices=1, lanes=4)
    assert all(o.reason is None for o in worker.run(jobs(problem, 10)))
    with compilations() as compiled:
        for seed, count in ((1, 1), (2, 5), (3, 14)):
            assert all(o.reason is None for o in worker.run(jobs(problem, count, seed)))
    assert compiled == []
    assert len(worker._programs) == 2


def test_programs_of_all_packs_are_compiled_before_any_trains(problem, split, monkeypatch):
    ahead, trained = [], []

    def train_fn(assignment, some, stop):
        trained.append((assignment.shape, len(ahead)))
        return [TrainResult((0.5,), None, None)] * len(some)

    monkeypatch.setattr(
        evaluators.TrainProgram, "compile", lambda self, *_: ahead.append(self._shape)
    )
    make(problem, split, train_fn=train_fn).run(jobs(problem, 10))
    shapes = {shape for shape, _ in trained}
    assert {*ahead} == shapes
    assert {compiled for _, compiled in trained} == {len(shapes)}
    assert len(shapes) > 1


def test_what_cannot_be_compiled_ahead_is_a_failure_of_its_pack_alone(problem, split, monkeypatch):
    def broken(self, *_):
        if self._shape.resolution == 6:
            raise RuntimeError("broken")

    monkeypatch.setattr(evaluators.TrainProgram, "_compile_all", broken)
    monkeypatch.setattr(
        evaluators.TrainProgram,
        "train",
        lambda self, some, *_, **__: (
            self._compile(None, None) or [Training((0.5,), {}, None)] * len(some)
        ),
    )
    found = make(problem, split).run(some := jobs(problem, 10))
    for job, outcome in zip(some, found, strict=True):
        assert (outcome.reason == "RuntimeError: broken") == (job.candidate.arch.resolution == 6)


@pytest.mark.parametrize(
    ("program", "lanes"), [("exact", 1), ("envelope", 1), ("envelope", 4), ("auto", 1)]
)
@pytest.mark.parametrize("first", [1, 3, 9])
def test_what_goes_on_needs_no_other_program(problem, split, program, lanes, first):
    """However many of a batch go on, alone or beside others."""
    scheduler = make(problem, split, devices=2, program=program, lanes=lanes).scheduler
    fresh = [*{job.candidate.arch: job for job in jobs(problem, 60)}.values()]
    began, later = fresh[:first], fresh[first : first + 2]

    def compiled(some):
        found = scheduler.schedule(dict(enumerate(some)), later=20).estimate
        return found.envelopes + found.exact

    assert compiled(began) > 0
    go_on = [dataclasses.replace(job, epochs=2, resumed=Paused(1)) for job in began]
    assert [compiled(go_on[:count]) for count in range(1, first + 1)] == [0] * first
    compiled(later)
    assert compiled([*go_on, *later]) == 0


def seeds(problem, archs, count):
    some = {job.candidate.arch: job for job in jobs(problem, 60)}
    assert len(some) >= archs
    return [
        dataclasses.replace(job, key=jax.random.key(k))
        for job in [*some.values()][:archs]
        for k in range(count)
    ]


def test_seeds_of_an_architecture_train_to_the_same_bits_on_any_device(problem, split):
    some = seeds(problem, 3, 3)
    worker, one = (make(problem, split, devices, program="exact") for devices in (2, 1))
    found, expected = worker.run(some), one.run(some)
    assert {name[1] for name in worker._programs} == {0, 1}
    for a, b in zip(found, expected, strict=True):
        assert a.accuracies == b.accuracies
        jax.tree.map(np.testing.assert_array_equal, a.variables, b.variables)
