"""The local executor, given trainings that only wait, takes as long as a play says.

What is tried is how trainings are laid out on devices; real ones share the cores besides, which
`scripts/simulate.py --validate` looks at.
"""

import dataclasses
import time

import jax
import numpy as np
import pytest
import tiny

from jointnas_jax.config import check_config
from jointnas_jax.execution import local as evaluators
from jointnas_jax.execution.job import Job, TrainResult
from jointnas_jax.execution.local import LocalExecutor
from jointnas_jax.nets.cost import count
from jointnas_jax.nets.envelope import Envelope
from jointnas_jax.problem.problem import build_problem
from jointnas_jax.simulation.fleet import Fleet
from jointnas_jax.simulation.player import play
from jointnas_jax.simulation.workload import Phase, Training, Workload

LONGEST = 0.4  # seconds; so long that what else a machine does matters little


@pytest.fixture(scope="module")
def problem():
    return build_problem(check_config(tiny.get_config()))


@pytest.mark.slow
@pytest.mark.parametrize("program", ["envelope", "exact"])
def test_a_play_takes_as_long_as_the_executor(problem, monkeypatch, program):
    vectors = problem.space.sample(np.random.default_rng(0), 60)
    archs = [*{(c := problem.space.decode(v)).arch: c for v in vectors}.values()][:7]
    jobs = [Job(candidate, jax.random.key(i), 1) for i, candidate in enumerate(archs)]
    largest = max(count(c.arch).macs for c in archs)
    shapes, seconds = {}, {}

    def train_fn(assignment, some, stop):
        shape, macs = assignment.shape, executor.scheduler.packer.macs
        for job in some:
            number = next(i for i, other in enumerate(jobs) if other is job)
            shapes[number] = shape
            seconds[number] = LONGEST * macs(shape, job.candidate.arch) / largest
        time.sleep(max(seconds[i] for i, job in enumerate(jobs) if any(job is one for one in some)))
        return [TrainResult((0.5,), None, None)] * len(some)

    monkeypatch.setattr(evaluators.TrainProgram, "compile", lambda *_: None)
    split = problem.dataset.load("train[:64]")
    for devices in (1, 2, 4):
        config = problem.config
        train = dataclasses.replace(config.train, batch_size=16, program=program)
        study = dataclasses.replace(config.study, devices=devices)
        own = dataclasses.replace(config, train=train, study=study)
        images = (split, np.arange(64) < 32, split)
        executor = LocalExecutor(own, problem.space, images, train_fn=train_fn)
        start = time.perf_counter()
        executor.run(jobs)
        passed = time.perf_counter() - start
        trainings = tuple(
            Training(i, repr(shape), seconds[i], 1, envelope=isinstance(shape, Envelope))
            for i, shape in sorted(shapes.items())
        )
        workload = Workload("s", "", (Phase("1", 0.0, trainings, True),), one_host=True)
        assert passed == pytest.approx(play(workload, Fleet(devices)).seconds, rel=0.2), devices
