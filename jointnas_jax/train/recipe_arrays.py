"""A recipe as arrays, so that one compiled program serves every recipe."""

import flax.struct
import jax
import numpy as np

from jointnas_jax.space import Recipe


@flax.struct.dataclass
class RecipeArrays:
    """The fields of `space.Recipe` as `float32[]`, choices as 0 or 1."""

    lr: jax.Array
    rmsprop: jax.Array
    ema: jax.Array
    dropout: jax.Array
    stochastic_depth: jax.Array
    mixup: jax.Array
    weight_decay: jax.Array
    label_smoothing: jax.Array
    lr_decay: jax.Array
    warmup_epochs: jax.Array
    ema_decay: jax.Array

    @classmethod
    def of(cls, recipe: Recipe) -> "RecipeArrays":
        """Converts a recipe; `lr` comes out with the factor of its optimizer applied."""
        fields = recipe.to_dict()
        sgd = fields.pop("optimizer") == "sgd"
        scale = fields.pop("sgd_lr_scale")
        fields["lr"] *= scale if sgd else 1.0
        return cls(rmsprop=np.float32(not sgd), **{k: np.float32(v) for k, v in fields.items()})
