"""A recipe as arrays, so that one compiled program serves every recipe."""

import flax.struct
import jax
import numpy as np

from jointnas_jax.space import Recipe

# On the device or the host.
AnyArray = jax.Array | np.ndarray


class RecipeArrays(flax.struct.PyTreeNode):
    """The fields of `space.Recipe` as `float32[]`, choices as 0 or 1."""

    lr: AnyArray
    rmsprop: AnyArray
    ema: AnyArray
    dropout: AnyArray
    stochastic_depth: AnyArray
    mixup: AnyArray
    weight_decay: AnyArray
    label_smoothing: AnyArray
    lr_decay: AnyArray
    warmup_epochs: AnyArray
    ema_decay: AnyArray

    @classmethod
    def of(cls, recipe: Recipe) -> "RecipeArrays":
        """Converts a recipe, with the factor of its optimizer in `lr`."""
        fields = recipe.to_dict()
        sgd = fields.pop("optimizer") == "sgd"
        scale = fields.pop("sgd_lr_scale")
        fields["lr"] *= scale if sgd else 1.0
        fields["rmsprop"] = not sgd
        return cls(**{name: np.asarray(value, np.float32) for name, value in fields.items()})
