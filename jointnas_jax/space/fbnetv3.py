"""FBNetV3's joint space, to be read beside the paper's table 1 (arXiv 2006.02049).

1.759e17 architectures, resolutions left out, and 18,905,040 recipes. The paper does not print all
ranges; resolutions and most recipe ranges are reconstructed.
"""

_EXPAND = dict(first=(4, 7), rest=(2, 5))

FBNETV3 = dict(
    resolution=(224, 272, 8),
    stem=dict(channels=(16, 24, 2)),
    stages=(
        dict(kernel=[3, 5], expand=1, channels=(16, 24, 2), depth=(1, 4)),
        dict(kernel=[3, 5], expand=_EXPAND, channels=(20, 32, 4), depth=(4, 7), stride=2),
        dict(kernel=[3, 5], expand=_EXPAND, channels=(24, 48, 4), depth=(4, 7), stride=2, se=True),
        dict(kernel=[3, 5], expand=_EXPAND, channels=(56, 84, 4), depth=(4, 8), stride=2),
        dict(kernel=[3, 5], expand="=stage4_expand", channels=(96, 144, 4), depth=(6, 10), se=True),
        dict(kernel=[3, 5], expand=(4, 7), channels=(180, 224, 4), depth=(5, 9), stride=2, se=True),
        dict(kernel=[3, 5], expand=6, channels=(180, 224, 4), depth=1, se=True),
    ),
    head=dict(channels=1984, expand=6),
    recipe=dict(
        lr=(0.02, 0.03, 0.001),
        optimizer=["rmsprop", "sgd"],
        ema=[True, False],
        dropout=(0.01, 0.31, 0.01),
        stochastic_depth=(0.1, 0.31, 0.01),
        mixup=(0.0, 0.41, 0.01),
        weight_decay=(7e-6, 21e-6, 1e-6),
    ),
)
