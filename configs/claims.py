"""The paper's claims, tried on a part of Fashion-MNIST; README.md shows what came out.

Like `fashion_mnist.py`, with half the budget, so that a candidate trains in seconds: 5,000 of the
60,000 training images, 30 % of them for validation, which is what accuracies are ranked by.

    python scripts/claim_pretraining.py --config=configs/claims.py --config.data.dir=DIR \
        --trials=runs/claims.jsonl --out=pretraining.json
    python scripts/claim_early_stop.py --config=configs/claims.py --config.data.dir=DIR \
        --trials=runs/claims.jsonl --out=early_stop.json
    python scripts/claim_joint.py --config=configs/claims.py --config.data.dir=DIR --out=joint.json
    python scripts/claim_swap.py --config=configs/claims.py --config.data.dir=DIR \
        --candidates=A/winner0.json,B/winner0.json --out=swap.json
"""

import runpy
from pathlib import Path


def get_config():
    config = runpy.run_path(str(Path(__file__).with_name("fashion_mnist.py")))["get_config"]()
    config.name = "claims"
    config.budget.flops = "500K"
    config.data.train_split = "train[:5000]"
    config.data.val_fraction = 0.3
    config.space.resolution = [14, 20]
    config.default.resolution = 20  # within the budget, since recipes alone are searched for it
    config.space.recipe.lr_decay = 0.7
    config.train.epochs = 8
    config.train.final_epochs = 10
    config.search.rounds = 3
    config.search.per_round = 5
    config.search.finalists = 1
    config.study.seeds = 2
    return config
