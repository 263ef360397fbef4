"""The paper's claims, tried on a part of Fashion-MNIST; README.md shows what came out.

Like `fashion_mnist.py`, with half the budget, so that a candidate trains in seconds. Candidates
must differ by more than the noise of a measurement, or nothing can be seen: so there are 5,000
validation images beside 3,000 to train on, and recipes reach from far too timid to far too wild.
(With 1,500 validation images and the recipes of `fashion_mnist.py` 100 candidates had a standard
deviation of 1.0 points, no more than the noise, and no claim could be told from chance.)

    python -m experiments.pretraining --config=experiments/configs/claims.py --config.data.dir=DIR \
        --trials=runs/claims.jsonl --out=pretraining.json
    python -m experiments.early_stop --config=experiments/configs/claims.py --config.data.dir=DIR \
        --trials=runs/claims.jsonl --out=early_stop.json
    python -m experiments.joint --config=experiments/configs/claims.py --config.data.dir=DIR \
        --out=joint.json
    python -m experiments.swapped_recipes --config=experiments/configs/claims.py \
        --config.data.dir=DIR --candidates=A/winner0.json,B/winner0.json --out=swap.json
"""

import runpy
from pathlib import Path


def get_config():
    file = Path(__file__).parents[2] / "configs" / "fashion_mnist.py"
    config = runpy.run_path(str(file))["get_config"]()
    config.name = "claims"
    config.budget.flops = "500K"
    config.data.train_split = "train[:8000]"
    config.data.val_images = 5_000
    config.space.resolution = [14, 20]
    config.default.resolution = 20  # within the budget, since recipes alone are searched for it
    config.space.recipe.lr = (0.001, 0.037, 0.003)
    config.space.recipe.dropout = (0.0, 0.6, 0.1)
    config.space.recipe.stochastic_depth = (0.0, 0.5, 0.1)
    config.space.recipe.mixup = (0.0, 1.0, 0.1)
    config.space.recipe.weight_decay = [1e-5, 1e-4, 1e-3, 1e-2]
    config.space.recipe.lr_end = 0.17
    config.train.epochs = 6
    config.train.winner_epochs = 10
    config.search.rounds = 3
    config.search.per_round = 5
    config.search.front = ""  # the claims are of one network
    config.search.finalists = 1
    config.search.winners = 1
    config.study.seeds = 2
    return config
