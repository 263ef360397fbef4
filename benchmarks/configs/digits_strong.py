"""Digits with strong mixup and label smoothing: probabilities that are far from accuracy.

python -m benchmarks.curves record --config=benchmarks/configs/digits_strong.py --candidates=60
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

DIGITS = Path(__file__).parent.parent.parent / "configs" / "digits.py"


def get_config() -> ConfigDict:
    config = runpy.run_path(str(DIGITS))["get_config"]()
    config.name = "digits_strong"
    config.space.recipe.mixup = (0.0, 1.0, 0.1)
    config.space.recipe.label_smoothing = (0.0, 0.3, 0.05)
    config.default.label_smoothing = 0.0
    return config
