"""Fashion-MNIST on 3,000 training images, a third of them for validation: for tables of curves.

python -m benchmarks.curves record --config=benchmarks/configs/fashion_small.py \
    --config.data.dir=DIR --candidates=300 --again=40
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

FASHION = Path(__file__).parent.parent.parent / "configs" / "fashion_mnist.py"


def get_config() -> ConfigDict:
    config = runpy.run_path(str(FASHION))["get_config"]()
    config.name = "fashion_small"
    config.data.train_split = "train[:3000]"
    config.data.val_fraction = 1 / 3
    return config
