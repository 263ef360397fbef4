"""The paper's claims, tried on the colour set; like `claims.py`, which is on Fashion-MNIST.

    python scripts/claim_joint.py --config=configs/claims_signs.py --config.data.dir=DIR

1,650 images of hand signs, 40 % of them for validation, at 24x24 at most; recipes from far too
timid to far too wild.
"""

import runpy
from pathlib import Path


def get_config():
    config = runpy.run_path(str(Path(__file__).with_name("sign_digits.py")))["get_config"]()
    config.name = "claims_signs"
    config.budget.flops = "700K"
    config.data.val_fraction = 0.4
    config.space.resolution = [16, 24]
    config.default.resolution = 24  # within the budget, since recipes alone are searched for it
    config.space.recipe.lr = (0.001, 0.037, 0.003)
    config.space.recipe.dropout = (0.0, 0.6, 0.1)
    config.space.recipe.stochastic_depth = (0.0, 0.5, 0.1)
    config.space.recipe.mixup = (0.0, 1.0, 0.1)
    config.space.recipe.weight_decay = [1e-5, 1e-4, 1e-3, 1e-2]
    config.train.epochs = 12
    config.train.final_epochs = 18
    config.search.rounds = 3
    config.search.per_round = 5
    config.search.finalists = 1
    config.study.seeds = 3
    return config
