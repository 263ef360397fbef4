"""The paper's AutoTrain on ImageNet: the recipe alone, for a fixed network (section 4).

As `imagenet_joint.py`, with a pool of 20,000, and like there the paper's search; the flags for this
project's own are the same. The paper's fixed networks were others' and its own; here FBNetV3-B, or
any with --config.arch_file=.

    python scripts/run_joint.py --config=configs/imagenet_autotrain.py --config.data.dir=DIR
"""

import runpy
from pathlib import Path


def get_config():
    joint = runpy.run_path(str(Path(__file__).parent / "imagenet_joint.py"))
    config = joint["get_config"]()
    config.name = "imagenet_autotrain"
    config.mode = "recipe"
    config.arch_file = "fbnetv3_b"
    config.budget.flops = ""
    config.search.pool_size = 20_000
    return config
