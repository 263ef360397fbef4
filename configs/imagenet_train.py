"""The paper's full training on ImageNet: 400 epochs of one network, and a teacher if there is one.

    python scripts/train_candidate.py --config=configs/imagenet_train.py --config.data.dir=DIR \
        --candidate=fbnetv3_b --config.train.teacher=MODEL

MODEL is the folder of a trained model, of `import_weights.py` or of this script; the paper's
teacher is FBNetV3-G. All devices share every batch, and BN has the statistics of all of it. Expect
what the paper reports: 80.2 % top-1 for FBNetV3-B, 81.3 % for E. Not run in full by this project.
"""

import runpy
from pathlib import Path


def get_config():
    joint = runpy.run_path(str(Path(__file__).parent / "imagenet_joint.py"))
    config = joint["get_config"]()
    config.name = "imagenet_train"
    config.arch_file = "fbnetv3_b"
    config.mode = "recipe"
    config.budget.flops = ""
    config.data.classes = 0
    config.data.val_images = 0  # it trains on all images and measures on the test split
    config.data.image_size = 352  # FBNetV3-G's resolution is 320
    config.data.transforms = 2  # RandAugment; the paper used AutoAugment
    config.data.strength = 0.9
    # What a recipe fixes here holds for every candidate, whatever it was searched with.
    config.space.recipe.lr_end = 0.9875**399  # the paper's 0.9875 per epoch
    config.space.recipe.warmup = 5 / 400
    config.space.recipe.label_smoothing = 0.1  # not published
    with config.ignore_type():
        config.space.recipe.ema = True
    del config.default.ema
    config.train.epochs = 400
    config.train.batch_size = 1024  # of all devices; not published
    config.train.data_parallel = "always"
    config.train.dtype = "auto"
    config.train.teacher_share = 0.8
    return config
