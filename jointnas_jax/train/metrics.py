"""What the images that a network is judged by say of it: accuracy, and finer scores.

A score is what candidates are compared by; more is better. Accuracy on a few hundred images is
mostly noise. Proper scores of the same probabilities (Gneiting & Raftery 2007) repeat better from
one training of a candidate to the next.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Right predictions count as such among so many.
_TOP = 5
# Least log probability, which float32 cannot tell from 0: metrics are finite, and can be stored.
_LEAST = -200.0


@dataclasses.dataclass(frozen=True)
class Metrics:
    """Measured on some images; each class that has images counts alike in `balanced_accuracy`.

    Attributes:
      accuracy, balanced_accuracy, top5: fractions in [0, 1].
      log_loss: mean of -log p of the right class, in nats.
      brier: mean of the squared distance between probabilities and the one-hot label, in [0, 2].
    """

    accuracy: float
    balanced_accuracy: float
    top5: float
    log_loss: float
    brier: float

    def score(self, name: str) -> float:
        """A `config.search.score`, in [0, 1]: 1 - `brier` / 2, exp(-`log_loss`), or `accuracy`."""
        scores = {
            "brier": 1 - self.brier / 2,
            "log_loss": math.exp(-self.log_loss),
            "accuracy": self.accuracy,
        }
        return scores[name]

    @classmethod
    def of(cls, sums: np.ndarray) -> "Metrics":
        """The metrics of `float[3 + 2 L]`, sums of `sums_of` over all images."""
        (top5, log_loss, brier), classes = sums[:3], sums[3:].reshape(2, -1)
        right, images = classes
        count = images.sum()
        return cls(
            accuracy=float(right.sum() / count),
            balanced_accuracy=float((right[images > 0] / images[images > 0]).mean()),
            top5=float(top5 / count),
            log_loss=float(log_loss / count),
            brier=float(brier / count),
        )


def sums_of(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Sums over the images of a batch, from which `Metrics.of` makes metrics.

    Args:
      logits: `float32[B, L]`.
      labels: `int32[B]`; -1 marks padding.

    Returns:
      `float32[3 + 2 L]`: right among the top five, log loss, Brier score; for each class right
      predictions, and images. All are finite: an image whose logits are not has no probable class.
    """
    ours = (labels >= 0)[:, None]
    truth = jax.nn.one_hot(labels, logits.shape[-1])  # zeros for padding
    logs = jnp.maximum(jnp.nan_to_num(jax.nn.log_softmax(logits), nan=_LEAST), _LEAST)
    right_class = jnp.where(truth > 0, logs, 0.0).sum(-1, keepdims=True)
    top = ((logs > right_class).sum(-1, keepdims=True) < _TOP) & (right_class > _LEAST) & ours
    brier = jnp.where(ours, jnp.square(jnp.exp(logs) - truth), 0.0).sum()
    right = (logits.argmax(-1) == labels)[:, None] * truth
    whole: Any = [top.sum() * 1.0, -right_class.sum(), brier]
    return jnp.concatenate([jnp.stack(whole), right.sum(0), truth.sum(0)])
