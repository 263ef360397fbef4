"""Training recipes as plain data: no JAX."""

import dataclasses
import math
from typing import Any

from jointnas_jax.errors import SpaceError, nearest, one_line, shown

OPTIMIZERS = ("sgd", "rmsprop")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The training recipe, for a training of any length.

    All of it reaches the training program as arrays.

    Attributes:
      lr: learning rate after warm-up, before decay; `sgd` multiplies it by `sgd_lr_scale`.
      optimizer: `sgd` or `rmsprop`, both with momentum 0.9.
      ema: whether the exponential moving average of weights and BN statistics is what counts.
      dropout: drop probability before the classifier.
      stochastic_depth: drop probability of the last block; earlier ones less, linearly.
      mixup: alpha of the Beta(alpha, alpha) distribution of mixing weights; 0 is off.
      weight_decay: L2 coefficient added to the gradients of convolution and dense weights.
      label_smoothing: share of the label spread over all classes.
      lr_end: share of the learning rate that is left at the end; it decays epoch by epoch.
      warmup: share of the training for linear warm-up.
      ema_decay: decay of the moving average per step.
      sgd_lr_scale: factor on `lr` for `sgd` (4 in the paper's space, from recollection).
      body_lr: factor on the learning rate of all but the classifier, where a training starts from
        given weights (`train.init`).
      frozen: share of the network, from the stem on, whose weights stay as they are, likewise.
    """

    lr: float = 0.01
    optimizer: str = "sgd"
    ema: bool = True
    dropout: float = 0.1
    stochastic_depth: float = 0.1
    mixup: float = 0.1
    weight_decay: float = 1e-5
    label_smoothing: float = 0.0
    lr_end: float = 0.05
    warmup: float = 0.0
    ema_decay: float = 0.99
    sgd_lr_scale: float = 4.0
    body_lr: float = 1.0
    frozen: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Any) -> "Recipe":
        """Inverse of `to_dict`; raises `SpaceError` naming the field that breaks a rule."""
        names = [f.name for f in dataclasses.fields(cls)]
        if not isinstance(data, dict):
            raise SpaceError(f"recipe must be an object with the fields {names}, got {shown(data)}")
        for name, value in data.items():
            check_recipe_slot(name, value)
        return cls(**data)


_RETIRED = {
    "lr_decay": "`lr_end` is the share of the learning rate that is left at the end, "
    "`lr_decay` ** epochs",
    "warmup_epochs": "`warmup` is a share of the training, `warmup_epochs` / epochs",
}
# The interval of each number, in words and as a test.
_ABOVE_0 = ("in (0, inf)", lambda v: 0 < v < math.inf)
_FROM_0 = ("in [0, inf)", lambda v: 0 <= v < math.inf)
_SHARE = ("in [0, 1)", lambda v: 0 <= v < 1)
_LIMITS = dict(
    lr=_ABOVE_0,
    dropout=_SHARE,
    stochastic_depth=_SHARE,
    mixup=_FROM_0,
    weight_decay=_SHARE,
    label_smoothing=_SHARE,
    lr_end=("in (0, 1]", lambda v: 0 < v <= 1),
    warmup=_SHARE,
    ema_decay=_SHARE,
    sgd_lr_scale=_ABOVE_0,
    body_lr=_FROM_0,
    frozen=("in [0, 1]", lambda v: 0 <= v <= 1),
)
# Fields that mean something where a training starts from given weights.
OF_FINE_TUNING = ("body_lr", "frozen")


def check_recipe_slot(name: str, value: Any) -> None:
    """Raises `SpaceError` if the recipe has no field `name` or `value` can never stand in it."""
    if name == "optimizer":
        rule, good = f"one of {list(OPTIMIZERS)}", value in OPTIMIZERS
    elif name == "ema":
        rule, good = "true or false", isinstance(value, bool)
    elif name in _LIMITS:
        interval, holds = _LIMITS[name]
        number = isinstance(value, int | float) and not isinstance(value, bool)
        rule, good = f"a number {interval}", number and holds(value)
    else:
        if name in _RETIRED:
            raise SpaceError(f"the recipe has no field `{name}` any more: {_RETIRED[name]}")
        names = [f.name for f in dataclasses.fields(Recipe)]
        raise SpaceError(f"the recipe has no field `{one_line(name)}`{nearest(name, names)}")
    if not good:
        raise SpaceError(f"`{name}` must be {rule}, got {shown(value)}")
