"""The paper's claims, tried on the colour set; like `claims.py`, which is on Fashion-MNIST.

    python scripts/claim_joint.py --config=configs/claims_signs.py --config.data.dir=DIR

1,650 images of hand signs, 40 % of them for validation, at 24x24 at most; recipes from far too
timid to far too wild.
"""

import runpy
from pathlib import Path


def get_config():
    load = lambda name: runpy.run_path(str(Path(__file__).with_name(name)))["get_config"]()
    config, claims = load("sign_digits.py"), load("claims.py")
    config.name = "claims_signs"
    config.budget.flops = "700K"
    config.data.val_fraction = 0.4
    config.space.resolution = [16, 24]
    config.default.resolution = 24  # within the budget, since recipes alone are searched for it
    for knob in ("lr", "dropout", "stochastic_depth", "mixup", "weight_decay"):
        config.space.recipe[knob] = claims.space.recipe[knob]
    config.train.epochs = 12
    config.train.final_epochs = 18
    config.search = claims.search
    config.study.seeds = 3
    return config
