"""A joint study from Python: networks and recipes for a dataset. A minute on two cores.

    python examples/joint_study.py [WORKDIR]

Digits, in a space so small that it can be read at a glance; see `configs/` for real ones. For your
own images set `config.data.name` and `config.data.dir` to a prepared TFDS folder.
"""

import sys

import jointnas_jax as jn


def main(workdir: str = "runs/joint_study") -> None:
    config = jn.default_config()
    config.name = "joint_study"
    config.data.name = "digits"
    config.data.train_split = "train[:400]"
    config.budget.flops = "60K"
    config.space = dict(
        resolution=8,
        stem=dict(channels=8, stride=2),
        stages=(dict(kernel=3, expand=(1, 2), channels=[8, 16], depth=1),),
        head=dict(expand=1, channels=[16, 32]),
        recipe=dict(lr=(0.01, 0.05, 0.01), optimizer=["sgd", "rmsprop"]),
    )
    # What one would try by hand: a value for every knob.
    config.default = dict(
        stage1_expand=1, stage1_channels=8, head_channels=16, lr=0.02, optimizer="sgd"
    )
    config.train.epochs = 3
    config.train.batch_size = 32
    config.train.fast_compile = True
    config.search.pool_size = 32
    config.search.rounds = 2
    config.search.per_round = 3
    config.search.finalists = 1
    config.predictor.members = 2
    config.study.seeds = 1
    config.study.random_reference = False

    result = jn.run_study(config, workdir)
    winner = result["winners"][0]
    print(f"found {winner['knobs']}")
    print(f"test accuracy {winner['test']['mean']:.1%}, {winner['costs']['flops']:,} FLOPs")


if __name__ == "__main__":
    main(*sys.argv[1:])
