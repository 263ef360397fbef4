"""Jobs become packs, packs become few programs, and nothing is lost on the way."""

import dataclasses
import threading
import time

import jax
import numpy as np
import pytest
import tiny
from compilations import compilations

from jointnas_jax.config import check_config
from jointnas_jax.data.source import Split, SplitOnDisk
from jointnas_jax.execution.job import Job, TrainResult
from jointnas_jax.execution.local import LocalExecutor
from jointnas_jax.problem.problem import build_problem


@pytest.fixture(scope="module")
def problem():
    return build_problem(check_config(tiny.get_config()))


@pytest.fixture(scope="module")
def split(problem):
    return problem.dataset.load("train[:96]")


def make(problem, split, train_fn=None, **train):
    train = dataclasses.replace(problem.config.train, batch_size=16, **train)
    config = dataclasses.replace(problem.config, train=train)
    images = (split, np.arange(len(split)) < 32, split)
    return LocalExecutor(config, problem.space, images, train_fn=train_fn)


def jobs(problem, count, seed=0, epochs=1):
    vectors = problem.space.sample(np.random.default_rng(seed), count)
    return [
        Job(problem.space.decode(v), jax.random.key(1000 * seed + i), epochs)
        for i, v in enumerate(vectors)
    ]


def test_rounds_after_the_first_compile_nothing(problem, split):
    worker = make(problem, split, program="envelope")
    first = worker.run(jobs(problem, 48))
    assert all(o.reason is None for o in first)
    assert len(worker._programs) == worker.schedules[0].estimate.envelopes <= 4
    with compilations() as compiled:
        assert all(o.reason is None for o in worker.run(jobs(problem, 47, seed=1)))
    assert compiled == []


def test_a_dataset_stays_on_disk_above_the_configured_size(problem):
    for memory_gb, kind in ((8.0, Split), (0.0, SplitOnDisk)):
        data = dataclasses.replace(problem.config.data, memory_gb=memory_gb)
        config = dataclasses.replace(problem.config, data=data)
        images = dataclasses.replace(problem, config=config).images()
        assert [type(split) for split in images] == [kind, kind]


def test_envelopes_and_exact_programs_agree(problem, split):
    some = jobs(problem, 3, epochs=2)
    results = [list(make(problem, split, program=p).run(some)) for p in ("envelope", "exact")]
    for shared, own in zip(*results, strict=True):
        np.testing.assert_allclose(shared.accuracies, own.accuracies, atol=1 / 32 + 1e-6)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
            shared.variables,
            own.variables,
        )


@pytest.mark.parametrize(
    ("program", "on_full_split"),
    [
        ("envelope", True),
        pytest.param("exact", False, marks=pytest.mark.slow),
        pytest.param("envelope", False, marks=pytest.mark.slow),
        pytest.param("exact", True, marks=pytest.mark.slow),
    ],
)
def test_images_on_disk_give_what_images_in_memory_give(problem, split, program, on_full_split):
    on_disk = SplitOnDisk(problem.dataset, "train[:96]")
    some = jobs(problem, 5)
    some = [dataclasses.replace(job, on_full_split=on_full_split) for job in some]
    memory, disk = (make(problem, s, program=program).run(some) for s in (split, on_disk))
    for a, b in zip(memory, disk, strict=True):
        assert a.accuracies == b.accuracies
        jax.tree.map(np.testing.assert_array_equal, a.variables, b.variables)


def test_every_device_trains_exact_programs(problem, split):
    """More architectures than devices, so that every device has a worker."""
    worker = make(problem, split, program="exact")
    some = {job.candidate.arch: job for job in jobs(problem, 40)}
    assert len(some) > worker.devices
    assert [o.reason for o in worker.run([*some.values()][: worker.devices + 1])] == [None] * (
        worker.devices + 1
    )


def test_a_device_without_work_helps_another_with_its_architecture(problem, split):
    trained, both_have_begun = [], threading.Barrier(2)

    def train_fn(assignment, some, stop):
        trained.append((assignment.device, assignment.shape, some[0].key))
        if len(trained) <= 2:
            both_have_begun.wait(60)
        time.sleep(0.02)
        return [TrainResult((0.5,), None, None)]

    study = dataclasses.replace(problem.config.study, devices=2)
    two = dataclasses.replace(problem, config=dataclasses.replace(problem.config, study=study))
    first, second = [*{job.candidate.arch: job for job in jobs(problem, 40)}.values()][:2]
    many = [dataclasses.replace(first, key=jax.random.key(100 + i)) for i in range(9)]
    assert len(make(two, split, train_fn, program="exact").run([*many, second])) == 10
    assert {device for device, shape, _ in trained if shape == first.candidate.arch} == {0, 1}
    assert len({int(jax.random.key_data(key)[-1]) for *_, key in trained}) == len(trained) == 10


def test_a_pack_that_does_not_fit_is_split_and_tried_again(problem, split):
    tried = []

    def train_fn(assignment, some, stop):
        tried.append(assignment.lanes)
        if assignment.lanes > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return [TrainResult((0.5,), None, None)] * len(some)

    worker = make(problem, split, train_fn, program="envelope", lanes=8)
    outcomes = worker.run([jobs(problem, 1)[0]] * 40)
    assert [o.accuracies for o in outcomes] == [(0.5,)] * 40
    assert tried[:3] == [8, 4, 2]
    assert set(tried[3:]) == {2}


def test_other_errors_are_not_tried_again(problem, split):
    calls = []

    def broken(*_):
        calls.append(1)
        raise RuntimeError("broken")

    outcomes = make(problem, split, broken, program="envelope", lanes=8).run(jobs(problem, 1))
    assert [o.reason for o in outcomes] == ["RuntimeError: broken"]
    assert len(calls) == 1
