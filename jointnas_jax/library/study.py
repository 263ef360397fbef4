"""`jn.run_study`: a whole study from Python, as `scripts/run_joint.py` runs it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from rich.console import Console

from jointnas_jax.arguments import check_flag, check_path_or_url
from jointnas_jax.command_line import load_config
from jointnas_jax.config import check_config
from jointnas_jax.runtime.interrupt import Interrupt
from jointnas_jax.runtime.jax_setup import prepare_jax
from jointnas_jax.study.mirrored import mirrored
from jointnas_jax.study.run import run_study as run
from jointnas_jax.telemetry.console import plain_console, watched


def run_study(
    config: ConfigDict | Mapping[str, Any] | str | Path,
    workdir: str | Path,
    *,
    overwrite: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Searches networks and recipes for a dataset, and trains the best.

    A study that was interrupted goes on, and one that is finished is read.

    Args:
      config: what `default_config()` returns with `space`, `default` and `data` filled in, or the
        path of a config file.
      workdir: folder for trials, weights and `result.json`, made if it is not there; or its URL in
        a bucket, such as `gs://bucket/x`.
      overwrite: replace what the workdir holds of a study.
      quiet: print nothing.

    Returns:
      The content of `result.json`, which the README describes: `result["winners"][0]["knobs"]`.

    Raises:
      JointNASError: with one line that says what to do; a mistake in the config before anything
        trains.
    """
    name = check_path_or_url("workdir", workdir)
    overwrite, quiet = check_flag("overwrite", overwrite), check_flag("quiet", quiet)
    if isinstance(config, str | Path):
        config = load_config(str(config), ["jointnas_jax"])
    checked = check_config(config)
    prepare_jax(checked.study.devices)
    console = Console(quiet=True) if quiet else plain_console()
    interrupt, progress = Interrupt(), watched(console)
    with mirrored(name, progress, interrupt, overwrite=overwrite) as folder:
        return run(
            checked, folder, console, overwrite=overwrite, interrupt=interrupt, progress=progress
        )
