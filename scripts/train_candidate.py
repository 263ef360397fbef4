"""Trains one candidate fully, on any dataset; goes on where it was interrupted.

python scripts/train_candidate.py --candidate=runs/digits/winner0.json --config=configs/digits.py
python scripts/train_candidate.py --candidate=fbnetv3_b --config=configs/imagenet_train.py --dry_run
"""

import sys
from pathlib import Path

from absl import flags

from jointnas_jax.command_line import (
    check_target,
    define_path,
    define_path_or_url,
    define_target,
    parse_config,
    run_script,
)
from jointnas_jax.runtime.interrupt import Interrupt, run_interruptible

DEFAULT_CONFIG = Path(__file__).parent.parent / "configs" / "digits.py"

CANDIDATE = define_path(
    "candidate", "", "File of a candidate, or a published network; default the config's."
)
WORKDIR = define_path_or_url(
    "workdir", "", "Folder or gs://bucket/x for everything; default runs/NAME-CANDIDATE."
)
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the plan and train nothing.")
TARGET = define_target("For --dry_run: plan for this chip, which need not be there.")
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace the training that the workdir holds.")
QUIET = flags.DEFINE_bool("quiet", False, "Print errors and the final result only.")
TENSORBOARD = flags.DEFINE_bool(
    "tensorboard", False, "Write scalars for TensorBoard into the workdir; needs tensorboardX."
)


def main(argv: list[str]) -> int:
    """Trains one candidate; returns the exit code."""
    return run_interruptible(lambda interrupt: _work(argv, interrupt))


def _work(argv: list[str], interrupt: Interrupt) -> int:
    config = parse_config(argv, str(DEFAULT_CONFIG), flags.FLAGS)
    check_target(TARGET.value, DRY_RUN.value)
    # Only now: the imports below take seconds, and a config error should not.
    from jointnas_jax.study.entry import Options, train

    name = f"{config.name}-{Path(CANDIDATE.value or 'default').stem}"
    workdir = WORKDIR.value or str(Path("runs") / name)
    options = Options(
        workdir,
        dry=DRY_RUN.value,
        target=TARGET.value or "",
        overwrite=OVERWRITE.value,
        quiet=QUIET.value,
        tensorboard=TENSORBOARD.value,
        argv=argv,
    )
    return train(config, CANDIDATE.value, options, interrupt)


if __name__ == "__main__":
    sys.exit(run_script(sys.argv, __doc__, main))
