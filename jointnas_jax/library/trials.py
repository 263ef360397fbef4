"""`jn.trials`: the trials of a study as a frame of pandas."""

from pathlib import Path
from typing import TYPE_CHECKING

from jointnas_jax.arguments import check_path_or_url
from jointnas_jax.errors import InputError, needs_extra
from jointnas_jax.storage.manifest import at_top, fetched
from jointnas_jax.storage.study_reader import read_trials
from jointnas_jax.storage.trial_table import rows_of

if TYPE_CHECKING:
    import pandas


def trials(workdir: str | Path) -> "pandas.DataFrame":
    """Reads the trials of a study, finished or not; the same as `trials.csv` in the workdir.

    Args:
      workdir: folder of the study, or its URL in a bucket.

    Returns:
      A row for each trial: `number`, `stage`, `round`, `seed`, `status`, `resumed`, `epochs`,
      `predicted`, `score`, `accuracy`, `seconds`, `pack`, `reason`, a column `cost_NAME` for each
      cost and one for each knob.

    Raises:
      InputError: pandas is not installed, or the bucket cannot be read.
      WorkdirError: the workdir holds no study, or cannot be read.
      DamagedError: a trial is not what was written.
    """
    name = check_path_or_url("workdir", workdir)
    try:
        import pandas
    except ImportError as error:
        needs = needs_extra("`jn.trials`", "pandas", "pandas")
        raise InputError(f"{needs}; `trials.csv` in the workdir has the same") from error
    with fetched(name, at_top) as folder:
        return pandas.DataFrame(rows_of(read_trials(folder)))
