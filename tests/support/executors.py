"""Executors of a small problem, and what they give."""

import dataclasses

import jax
import numpy as np

from jointnas_jax.config import RayConfig
from jointnas_jax.execution.factory import make_executor
from jointnas_jax.execution.job import Job, RunContext

_CONTEXT = RunContext(speed_factors=(1.0, 1.0))


def make(problem, name, devices):
    """An executor of so many devices in all."""
    study = dataclasses.replace(problem.config.study, devices=1 if name == "ray" else devices)
    ray = RayConfig(workers=devices, cpus=1)
    config = dataclasses.replace(problem.config, study=study, executor=name, ray=ray)
    problem = dataclasses.replace(problem, config=config)
    images = problem.divided_images()
    return make_executor(config, problem.space, images, sample=(), context=_CONTEXT)


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
