"""The paper's claims, tried on the colour set; like `claims.py`, which is on Fashion-MNIST.

    python -m experiments.joint --config=experiments/configs/claims_signs.py --config.data.dir=DIR

1,650 images of hand signs, 40 % of them for validation, at 24x24 at most; recipes from far too
timid to far too wild.
"""

import runpy
from pathlib import Path

CONFIGS = Path(__file__).parents[2] / "configs"


def get_config():
    load = lambda file: runpy.run_path(str(file))["get_config"]()
    config, claims = load(CONFIGS / "sign_digits.py"), load(Path(__file__).with_name("claims.py"))
    config.name = "claims_signs"
    config.budget.flops = "700K"
    config.data.val_fraction = 0.4
    config.space.resolution = [16, 24]
    config.default.resolution = 24  # within the budget, since recipes alone are searched for it
    for knob in ("lr", "dropout", "stochastic_depth", "mixup", "weight_decay"):
        config.space.recipe[knob] = claims.space.recipe[knob]
    config.train.epochs = 12
    config.train.winner_epochs = 18
    config.search = claims.search
    config.study.seeds = 3
    return config
