"""Studies whose trainings cost nothing."""

import numpy as np

from jointnas_jax.execution.job import TrainResult
from jointnas_jax.train.paused import Paused


def fake_train_fn(accuracy_of, score_of=None):
    """Instead of training, functions: job -> accuracy, or None for a failure; job -> score."""

    def train_one(job):
        accuracy = accuracy_of(job)
        count = 1 if job.on_full_split else job.epochs - job.first_epoch
        if accuracy is None:
            return TrainResult((), "made to fail", None)
        scores = (score_of(job),) * count if score_of else ()
        variables = {"params": {"w": np.zeros(2)}}
        paused = Paused(job.epochs, {"step": np.array(job.epochs)}) if job.pauses else None
        accuracies = (accuracy,) * count
        return TrainResult(accuracies, None, variables, scores=scores, paused=paused)

    return lambda assignment, jobs, stop: [train_one(job) for job in jobs]
