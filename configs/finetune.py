"""The recipe for fine-tuning a trained network: learning rates of body and head, what is frozen.

    python scripts/run_joint.py --config=configs/fashion_mnist.py --config.data.dir=DIR
    python scripts/run_joint.py --config=configs/finetune.py --config.data.dir=IMAGES \
        --config.train.init=runs/fashion_mnist --config.arch_file=runs/fashion_mnist/winner0.json

`train.init` is an import (`scripts/import_weights.py`), an export, or the workdir of a study or a
training; `arch_file` its network, which gets a classifier of its own for other classes, and a stem
for other channels. The default recipe is what is usual: a tenth of the rate for the body, nothing
frozen. The space has the usual one of networks, of which only the recipes are searched.
"""

import runpy
from pathlib import Path


def get_config():
    config = runpy.run_path(str(Path(__file__).with_name("fashion_mnist.py")))["get_config"]()
    config.name = "finetune"
    config.mode = "recipe"
    config.train.init = "runs/fashion_mnist"
    config.budget.flops = ""
    config.data.train_split = "train"
    config.data.val_fraction = 0.3
    config.space.recipe = dict(
        lr=(0.005, 0.1, 0.005),
        body_lr=[0.03, 0.1, 0.3, 1.0],
        frozen=[0.0, 0.25, 0.5, 0.75],
        optimizer="sgd",
        sgd_lr_scale=1.0,
        ema=[False, True],
        ema_decay=0.95,
        dropout=(0.0, 0.4, 0.1),
        stochastic_depth=(0.0, 0.2, 0.1),
        mixup=(0.0, 0.2, 0.1),
        weight_decay=[0.0, 1e-4, 1e-3],
        label_smoothing=[0.0, 0.1],
        lr_end=0.05,
        warmup=0.1,
    )
    default = dict(
        lr=0.03,
        body_lr=0.1,
        frozen=0.0,
        ema=False,
        dropout=0.1,
        stochastic_depth=0.0,
        mixup=0.0,
        weight_decay=1e-4,
        label_smoothing=0.0,
    )
    config.default = {
        name: value
        for name, value in config.default.items()
        if name.startswith(("resolution", "stem", "stage", "head"))
    } | default
    config.train.epochs = 20
    config.train.batch_size = 32
    config.search.front = ""  # the recipes of one network cost the same
    config.search.winners = 1
    config.search.finalists = 3
    config.search.rounds = 4
    return config
