"""Jobs for executors, and what must come out."""

import contextlib
import dataclasses

import jax
import numpy as np
import tiny

from jointnas_jax.config import RayConfig, check_config
from jointnas_jax.study.executor import make_executor
from jointnas_jax.study.jobs import Job, Keeping
from jointnas_jax.study.problem import build_problem


def tiny_problem():
    return build_problem(check_config(tiny.get_config()))


def make(problem, name, devices):
    """An executor of so many devices in all."""
    study = dataclasses.replace(problem.config.study, devices=devices if name == "local" else 1)
    ray = RayConfig(workers=devices, cpus=1)
    config = dataclasses.replace(problem.config, study=study, executor=name, ray=ray)
    keeping = Keeping(scales=(1.0, 1.0))
    return make_executor(config, problem.space, problem.divided_images(), (), keeping)


def jobs(problem, count, epochs=1, seed=0):
    vectors = problem.space.sample(np.random.default_rng(seed), count)
    return [
        Job(problem.space.decode(v), jax.random.key(1000 * seed + i), epochs)
        for i, v in enumerate(vectors)
    ]


def content(outcome):
    leaves = jax.tree_util.tree_leaves_with_path(outcome.variables)
    weights = [(jax.tree_util.keystr(path), np.asarray(leaf).tobytes()) for path, leaf in leaves]
    return outcome.accuracies, outcome.reason, outcome.pack, weights


def expected_of(problem):
    """What one process on one device gives for the same plan."""
    some = [*jobs(problem, 5, epochs=2), dataclasses.replace(jobs(problem, 1, seed=9)[0])]
    with contextlib.closing(make(problem, "local", devices=2)) as local:
        return some, [content(outcome) for outcome in local.run(some)]
