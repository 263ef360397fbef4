"""Sign language digits in colour: a joint search on little data.

Data: ten hand signs, 64x64 colour, as a prepared TFDS dataset, read at 32x32. 1,650 images to train
on (30 % of them for validation), 412 to test.

    python scripts/run_joint.py --config=configs/sign_digits.py --config.data.dir=DIR

DIR is the folder that holds `sign_digits/`, or `sign_digits/1.0.0` itself.
"""

from jointnas_jax.config import default_config


def get_config():
    config = default_config()
    config.name = "sign_digits"
    config.budget.flops = "1.2M"
    config.data.name = "sign_digits"
    config.data.image_size = 32
    config.data.val_fraction = 0.3
    config.data.crop_padding = 3
    config.data.flip = True  # the other hand shows the same digit

    config.space = dict(
        resolution=[16, 24, 32],
        stem=dict(channels=(8, 16, 4), stride=1),
        stages=(
            dict(kernel=[3, 5], expand=1, channels=(8, 16, 4), depth=(1, 2), stride=2),
            dict(
                kernel=[3, 5],
                expand=dict(first=(3, 6), rest=(2, 4)),
                channels=(16, 40, 8),
                depth=(1, 3),
                stride=2,
                se=[False, True],
            ),
            dict(
                kernel=[3, 5], expand=(2, 5), channels=(32, 72, 8), depth=(1, 2), stride=2, se=True
            ),
        ),
        head=dict(expand=3, channels=128),
        recipe=dict(
            lr=(0.004, 0.02, 0.002),
            optimizer=["sgd", "rmsprop"],
            sgd_lr_scale=20.0,
            ema=[False, True],
            dropout=(0.0, 0.3, 0.05),
            stochastic_depth=(0.0, 0.2, 0.05),
            mixup=(0.0, 0.4, 0.05),
            weight_decay=[1e-5, 1e-4, 1e-3],
            lr_decay=0.82,
            warmup_epochs=1,
            ema_decay=0.98,
        ),
    )
    # What one would try first by hand.
    config.default = dict(
        resolution=32,
        stem_channels=8,
        stage1_kernel=3,
        stage1_channels=12,
        stage1_depth=1,
        stage2_kernel=3,
        stage2_expand_first=4,
        stage2_expand_rest=3,
        stage2_channels=24,
        stage2_depth=2,
        stage2_se=True,
        stage3_kernel=3,
        stage3_expand=4,
        stage3_channels=48,
        stage3_depth=1,
        lr=0.01,
        optimizer="sgd",
        ema=True,
        dropout=0.1,
        stochastic_depth=0.1,
        mixup=0.1,
        weight_decay=1e-4,
    )

    config.train.epochs = 16
    config.train.final_epochs = 24
    config.train.batch_size = 32
    config.train.fast_compile = True
    config.search.pool_size = 4096
    config.search.rounds = 4
    config.search.per_round = 6
    config.search.finalists = 2
    return config
