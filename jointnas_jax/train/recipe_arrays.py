"""A recipe as arrays, so that one compiled program serves every recipe."""

import flax.struct
import jax
import numpy as np

from jointnas_jax.space import Recipe

# On the device or the host.
AnyArray = jax.Array | np.ndarray


class RecipeArrays(flax.struct.PyTreeNode):
    """A recipe of `space.Recipe` for a number of epochs, `float32[]` each, choices as 0 or 1.

    Attributes:
      lr_decay: factor on the learning rate per epoch.
      warmup_epochs: epochs of linear warm-up.
    """

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
    body_lr: AnyArray
    frozen: AnyArray

    @classmethod
    def of(cls, recipe: Recipe, epochs: int) -> "RecipeArrays":
        """Converts a recipe for a training, with the factor of its optimizer in `lr`."""
        fields = recipe.to_dict()
        # The last epoch has the rate at the end.
        fields["lr_decay"] = fields.pop("lr_end") ** (1 / max(epochs - 1, 1))
        fields["warmup_epochs"] = fields.pop("warmup") * epochs
        sgd = fields.pop("optimizer") == "sgd"
        scale = fields.pop("sgd_lr_scale")
        fields["lr"] *= scale if sgd else 1.0
        fields["rmsprop"] = not sgd
        return cls(**{name: np.asarray(value, np.float32) for name, value in fields.items()})
