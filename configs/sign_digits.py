"""Sign language digits in colour: a joint search on little data.

Data: ten hand signs, 64x64 colour, as a prepared TFDS dataset, read at 32x32. 1,650 images to train
on (30 % of them for validation), 412 to test. The space is that of `fashion_mnist.py`.

    python scripts/run_joint.py --config=configs/sign_digits.py --config.data.dir=DIR

DIR is the folder that holds `sign_digits/`, or `sign_digits/1.0.0` itself.

On two cores, searching one network (--config.search.front=""): 6 min 30 s. Three study seeds:
winner 97.6 % test accuracy, best of 22 random candidates 98.1 %, default candidate 96.7 % in the
mean; one test image is .24 points.
"""

import runpy
from pathlib import Path


def get_config():
    config = runpy.run_path(str(Path(__file__).with_name("fashion_mnist.py")))["get_config"]()
    config.name = "sign_digits"
    config.budget.flops = "1.2M"
    config.data.name = "sign_digits"
    config.data.train_split = "train"
    config.data.val_fraction = 0.3
    config.data.image_size = 32
    config.data.crop_padding = 3  # and flips: the other hand shows the same digit
    config.space.resolution = [16, 24, 32]
    config.default.resolution = 32
    config.train.epochs = 20
    config.train.batch_size = 32
    return config
