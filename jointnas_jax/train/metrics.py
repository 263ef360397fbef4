"""What the images that a network is judged by say of it: accuracy, and finer scores.

A score is what candidates are compared by; more is better. Accuracy on a few hundred images is
mostly noise. Proper scores of the same probabilities (Gneiting & Raftery 2007) repeat better from
one training of a candidate to the next.

L = number of classes, T = number of temperatures.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jointnas_jax.config import TOP

# Least log probability, which float32 cannot tell from 0: metrics are finite, and can be stored.
_LEAST = -200.0
# By which logits are divided; the first one changes nothing.
_TEMPERATURES = np.array([1.0, 0.5, 0.7, 0.85, 1.2, 1.4, 2.0, 2.8], np.float32)


@dataclasses.dataclass(frozen=True)
class Metrics:
    """Measured on some images.

    Attributes:
      accuracy, top5: fractions in [0, 1].
      log_loss: mean of -log p of the right class, in nats.
      brier: mean of the squared distance between probabilities and the one-hot label, in [0, 2].
      calibrated_log_loss, calibrated_brier: the same at the temperature of the least log loss of
        these images (Guo et al. 2017). Mixup and label smoothing make networks less sure than they
        are right, which says nothing about their accuracy.
      balanced_accuracy, balanced_log_loss, balanced_brier: the same, the latter two calibrated,
        where each class that has images counts alike.
    """

    accuracy: float
    top5: float
    log_loss: float
    brier: float
    balanced_accuracy: float
    balanced_log_loss: float
    balanced_brier: float
    calibrated_log_loss: float
    calibrated_brier: float

    def score(self, name: str, metric: str = "accuracy") -> float:
        """A `config.search.score` that stands for a `config.search.metric`, in [0, 1].

        1 - Brier score / 2, exp(-log loss), both calibrated, or the metric itself.
        """
        if name == "accuracy":
            return getattr(self, metric)
        kind = "balanced" if metric == "balanced_accuracy" else "calibrated"
        value = getattr(self, f"{kind}_{name}")
        return {"brier": 1 - value / 2, "log_loss": math.exp(-value)}[name]

    @classmethod
    def of(cls, sums: np.ndarray) -> "Metrics":
        """The metrics of `float[(3 + 2 T) L]`, sums of `sums_of` over all images."""
        rows = sums.reshape(3 + 2 * len(_TEMPERATURES), -1)
        images = rows[0]
        mean = rows[1:].sum(1) / images.sum()
        balanced = (rows[1:, images > 0] / images[images > 0]).mean(1)
        log_losses, briers = mean[2:].reshape(2, -1)
        best = int(log_losses.argmin())
        return cls(
            accuracy=float(mean[0]),
            top5=float(mean[1]),
            log_loss=float(log_losses[0]),
            brier=float(briers[0]),
            balanced_accuracy=float(balanced[0]),
            balanced_log_loss=float(balanced[2 + best]),
            balanced_brier=float(balanced[2 + len(_TEMPERATURES) + best]),
            calibrated_log_loss=float(log_losses[best]),
            calibrated_brier=float(briers[best]),
        )


def sums_of(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Sums over the images of a batch, from which `Metrics.of` makes metrics.

    Args:
      logits: `float32[B, L]`.
      labels: `int32[B]`; -1 marks padding.

    Returns:
      `float32[(3 + 2 T) L]`: of each class the images, right predictions, right ones among the top
      five, log loss at each temperature, Brier score at each. All are finite: an image whose logits
      are not has no probable class.
    """
    truth = jax.nn.one_hot(labels, logits.shape[-1])  # zeros for padding

    def proper(temperature: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        logs = jax.nn.log_softmax(logits / temperature)
        logs = jnp.maximum(jnp.nan_to_num(logs, nan=_LEAST), _LEAST)
        right_class = jnp.where(truth > 0, logs, 0.0).sum(-1)
        return logs, right_class, jnp.square(jnp.exp(logs) - truth).sum(-1)

    logs, right_class, briers = jax.vmap(proper)(jnp.asarray(_TEMPERATURES))
    above = (logs[0] > right_class[0][:, None]).sum(-1)
    images: Any = [
        jnp.ones_like(right_class[0]),
        1.0 * (logits.argmax(-1) == labels),
        1.0 * ((above < TOP) & (right_class[0] > _LEAST)),
        *-right_class,
        *briers,
    ]
    return (jnp.stack(images) @ truth).ravel()


def answers_of(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """What a network says of each image.

    Args:
      logits: `float32[B, L]`.
      labels: `int32[B]`; what is said of -1 means nothing.

    Returns:
      `int32[2, B]`: the most probable class, and how many classes are more probable than the right
      one; L where the logits are not finite.
    """
    right = jnp.take_along_axis(logits, jnp.maximum(labels, 0)[:, None], -1)
    above = (logits > right).sum(-1)
    sound = jnp.isfinite(logits).all(-1)
    return jnp.stack([logits.argmax(-1), jnp.where(sound, above, logits.shape[-1])]).astype(
        jnp.int32
    )


def confusion(answers: Sequence[np.ndarray], labels: np.ndarray, classes: int) -> np.ndarray:
    """Counts what each class is taken for, over trainings of one network.

    Args:
      answers: `int[2, N]` of each training, see `answers_of`.
      labels: `int[N]`.
      classes: L.

    Returns:
      `int64[L, L]`: images of each class (row) that were taken for each class (column). The sum is
      N for each training.
    """
    counts = np.zeros((classes, classes), np.int64)
    for said in answers:
        np.add.at(counts, (labels, said[0]), 1)
    return counts


def right_answers(answers: np.ndarray, labels: np.ndarray, metric: str) -> np.ndarray:
    """Which images count as right for a `config.search.metric`: `bool[..., N]`.

    Args:
      answers: `int[..., 2, N]`, see `answers_of`.
      labels: `int[N]`.
      metric: where it is `balanced_accuracy`, those of accuracy, which weighs them alike.
    """
    return answers[..., 1, :] < TOP if metric == "top5" else answers[..., 0, :] == labels
