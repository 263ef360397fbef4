"""What the scripts of the claims share: the command line, errors, JSON, figure and table."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from rich.console import Console

from jointnas_jax.command_line import parse_config
from jointnas_jax.config import Config
from jointnas_jax.errors import ConfigError, JointNASError, WorkdirError
from jointnas_jax.files import write_json

INTERRUPTED = 3

SEEDS = flags.DEFINE_integer("seeds", 3, "Repetitions; what of, says the script.", 1)
OUT = flags.DEFINE_string("out", "", "JSON file for the results; a figure is drawn beside it.")


def run_claim(
    argv: list[str],
    doc: str,
    default_config: Path,
    test: Callable[[Config, Console], dict[str, Any]],
    draw: str,
) -> int:
    """Tries a claim and tells what came out.

    Args:
      argv: as `sys.argv`.
      doc: of the script, shown by `--help`.
      default_config: config file where `--config` is not given.
      test: returns the report.
      draw: name of its figure in `experiments/figures.py`.

    Returns:
      The exit code.
    """
    if any(a in ("--help", "-h", "-help", "--helpfull") for a in argv[1:]):
        own = flags.FLAGS.main_module_help()
        print(f"{doc}\n{own}\n{flags.FLAGS.module_help(sys.modules[__name__])}")
        return 0
    try:
        config = parse_config(argv, str(default_config), flags.FLAGS)
        if config.mode != "joint":
            raise ConfigError(f"`config.mode` must be `joint` for a claim, got `{config.mode}`")
        out = Path(OUT.value) if OUT.value else None
        if out and (out.suffix != ".json" or not out.parent.is_dir()):
            raise WorkdirError(
                f"`--out` must be a .json file in an existing folder, got `{OUT.value}`"
            )
        report = _quietly(config, test)
        _tell(report, out, draw)
    except JointNASError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; what was finished is kept", file=sys.stderr, flush=True)
        # Worker threads may be deep in compiled code; nothing of theirs needs saving.
        os._exit(INTERRUPTED)
    return 0


def integers(flag: str, texts: Sequence[str]) -> list[int]:
    """The values of a flag as integers; raises `ConfigError` if one is not."""
    try:
        return [int(text) for text in texts]
    except ValueError as error:
        raise ConfigError(f"`--{flag}` must be integers such as 10,20, got {texts}") from error


def _quietly(config: Config, test: Callable[[Config, Console], dict[str, Any]]) -> dict[str, Any]:
    """Runs the test with JAX prepared and other libraries quiet."""
    # Only now: this import takes seconds, and a config error should not.
    from jointnas_jax.runtime.jax_setup import prepare_jax
    from jointnas_jax.telemetry.console import plain_console

    prepare_jax(config.study.devices)
    return test(config, plain_console())


def _tell(report: dict[str, Any], out: Path | None, draw: str) -> None:
    from experiments.figures import draw_claim
    from experiments.verdict import sentence, table

    report["sentence"] = sentence(report["claim"], report["rows"])
    print("\n".join([*table(report["rows"]), report["sentence"]]))
    if out:
        write_json(out, report)
        figure = draw_claim(draw, report, out.with_suffix(".png"))
        print(f"  wrote {out} and {figure}")
