"""A study on digits that takes seconds."""

from jointnas_jax.config import default_config


def get_config():
    config = default_config()
    config.name = "tiny"
    config.budget.flops = "60K"
    config.data.crop_padding = 1
    config.data.train_split = "train[:400]"
    config.space = dict(
        resolution=8,
        stem=dict(channels=8, stride=2),
        stages=(dict(kernel=3, expand=(1, 2), channels=[8, 16], depth=1),),
        head=dict(expand=1, channels=[16, 32]),
        recipe=dict(
            lr=(0.01, 0.05, 0.01),
            optimizer=["sgd", "rmsprop"],
            ema=False,
            dropout=0.0,
            mixup=0.0,
            stochastic_depth=0.0,
            lr_end=0.9,  # three epochs are soon over
        ),
    )
    config.default = dict(
        stage1_expand=1, stage1_channels=8, head_channels=16, lr=0.02, optimizer="sgd"
    )
    config.train.epochs = 3
    config.train.batch_size = 32
    config.train.fast_compile = True
    config.search.pool_size = 32
    config.search.rounds = 3
    config.search.per_round = 3
    config.search.finalists = 1
    config.search.evolution.population = 16
    config.predictor.members = 2
    config.predictor.width = 16
    config.predictor.pretrain_samples = 64
    config.study.seeds = 2
    return config
