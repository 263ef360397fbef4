"""Searches architecture and training recipe jointly. README.md shows what comes out.

python scripts/run_joint.py --config=configs/digits.py --config.search.pool_size=512

Images in folders, one for each class, get a config that fits them:

python scripts/run_joint.py --config.data.dir=IMAGES --config.budget.flops=2M
"""

import sys
from pathlib import Path
from typing import Any

from absl import flags

from jointnas_jax.command_line import (
    check_target,
    define_path_or_url,
    define_target,
    parse_config,
    run_script,
    wants_auto_config,
)
from jointnas_jax.runtime.interrupt import Interrupt, run_interruptible

DEFAULT_CONFIG = Path(__file__).parent.parent / "configs" / "digits.py"

WORKDIR = define_path_or_url(
    "workdir", "", "Folder for everything, or its URL such as gs://bucket/x; default runs/NAME."
)
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the plan and train nothing.")
TARGET = define_target("For --dry_run: plan for this chip, which need not be there.")
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace the study that the workdir holds.")
QUIET = flags.DEFINE_bool("quiet", False, "Print errors and the final result only.")
TENSORBOARD = flags.DEFINE_bool(
    "tensorboard", False, "Write scalars for TensorBoard into the workdir; needs tensorboardX."
)


def main(argv: list[str], train_fn: Any = None) -> int:
    """Runs one study; returns the exit code. Tests give a `train_fn`, see `LocalExecutor`."""
    return run_interruptible(lambda interrupt: _work(argv, interrupt, train_fn))


def _work(argv: list[str], interrupt: Interrupt, train_fn: Any) -> int:
    if wants_auto_config(argv):
        # Only now: the import takes seconds.
        from jointnas_jax.problem.auto_config import with_auto_config

        argv = with_auto_config(argv, str(DEFAULT_CONFIG))
    config = parse_config(argv, str(DEFAULT_CONFIG), flags.FLAGS)
    check_target(TARGET.value, DRY_RUN.value)
    # Only now: the imports below take seconds, and a config error should not.
    from jointnas_jax.study.entry import Options, run

    workdir = WORKDIR.value or str(Path("runs") / config.name)
    options = Options(
        workdir,
        dry=DRY_RUN.value,
        target=TARGET.value or "",
        overwrite=OVERWRITE.value,
        quiet=QUIET.value,
        tensorboard=TENSORBOARD.value,
        argv=argv,
    )
    return run(config, options, interrupt, train_fn)


if __name__ == "__main__":
    sys.exit(run_script(sys.argv, __doc__, main))
