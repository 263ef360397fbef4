"""Executors of a small problem, and what they give."""

import atexit
import dataclasses
import functools
import os
import tempfile
from pathlib import Path

import jax
import numpy as np

from jointnas_jax.config import PodConfig, RayConfig
from jointnas_jax.study.claims import Claims
from jointnas_jax.study.database import sqlite_url
from jointnas_jax.study.executor import make_executor
from jointnas_jax.study.jobs import Job, Keeping
from jointnas_jax.study.peers import Connected
from jointnas_jax.study.shared import ClaimedStore
from jointnas_jax.study.store import TrialStore

# "ADDRESS NUMBER": the tests run in one of two processes of a pod.
POD = os.environ.get("JOINTNAS_TEST_POD", "")


_KEEPING = Keeping(scales=(1.0, 1.0))


@functools.cache
def peers():
    """The processes of the pod, met before JAX is used; None outside of one."""
    if not POD:
        return None
    address, number = POD.split()
    met = Connected(PodConfig(address, 2, int(number), timeout=120), _KEEPING.interrupt)
    met.begin()
    return met


@atexit.register
def leave():
    if peers():
        peers().leave(0)


def claimed(folder):
    """A new store that this driver alone claims from."""
    store = TrialStore(sqlite_url(folder), "study")
    store.join({})
    claims = Claims(store, timeout=60)
    claims.join()
    return ClaimedStore(store, claims)


def make(problem, name, devices):
    """An executor of so many devices in all; that of a pod reads its images from disk."""
    study = dataclasses.replace(problem.config.study, devices=devices if name == "local" else 1)
    memory = 0 if name == "pod" else problem.config.data.memory_gb
    data = dataclasses.replace(problem.config.data, memory_gb=memory)
    ray = RayConfig(workers=devices, cpus=1)
    config = dataclasses.replace(problem.config, study=study, data=data, executor=name, ray=ray)
    problem = dataclasses.replace(problem, config=config)
    given = (_KEEPING, peers() if name == "pod" else None)
    made = make_executor(config, problem.space, problem.divided_images(), (), *given)
    if name == "shared":
        made.share(claimed(Path(tempfile.mkdtemp())))
    return made


def jobs(problem, count, epochs=1, seed=0):
    vectors = problem.space.sample(np.random.default_rng(seed), count)
    return [
        Job(problem.space.decode(v), jax.random.key(1000 * seed + i), epochs, kept=bool(POD))
        for i, v in enumerate(vectors)
    ]


def content(outcome):
    leaves = jax.tree_util.tree_leaves_with_path(outcome.variables)
    weights = [(jax.tree_util.keystr(path), np.asarray(leaf).tobytes()) for path, leaf in leaves]
    all_weights = not POD.endswith(" 1")  # which of a pod only process 0 gets
    return outcome.accuracies, outcome.reason, outcome.pack, weights if all_weights else []
