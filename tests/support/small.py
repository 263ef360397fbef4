"""A predictor that fits in a moment, where a test is not about what it learns."""

import jointnas_jax as jn

PREDICTOR = jn.PredictorConfig(
    process=False,
    members=1,
    width=4,
    embedding=4,
    pretrain_samples=16,
    pretrain_epochs=1,
    frozen_epochs=1,
    full_epochs=1,
)
