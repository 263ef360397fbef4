"""What the recipe tests share."""

import jax
import numpy as np

from jointnas_jax.space import Recipe

# What every recipe test starts from: nothing regularises, nothing is averaged.
PLAIN = Recipe(
    lr=0.02,
    optimizer="sgd",
    ema=False,
    dropout=0.0,
    stochastic_depth=0.0,
    mixup=0.0,
    weight_decay=0.0,
    label_smoothing=0.0,
    lr_end=1.0,
    warmup=0.0,
    sgd_lr_scale=1.0,
)


def flat(training) -> np.ndarray:
    """All trained parameters as one vector."""
    return np.concatenate(
        [np.ravel(leaf) for leaf in jax.tree.leaves(training.variables["params"])]
    )
