"""The command line that all experiments share; JSON, figure and verdict come out of it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from rich.console import Console

from experiments.verdict import check_sizes, sentence, table
from jointnas_jax.command_line import define_path, integers, parse_config, run_measurement
from jointnas_jax.config import Config
from jointnas_jax.errors import ConfigError

flags.disclaim_key_flags()

DEFAULT_CONFIG = Path(__file__).parent.parent / "configs" / "digits.py"


def on_random_trials(
    compare: Callable[[Any, Sequence[int], int], dict[str, Any]], flag: str
) -> Callable[[Config, Console], dict[str, Any]]:
    """An experiment on `random_trials`, and its flags.

    Args:
      compare: tries the claim on trials, with sets of several sizes, divided so many times.
      flag: name of the flag with the sizes.
    """
    define_path("trials", "runs/trials.jsonl", "File of trained random candidates.")
    flags.DEFINE_integer("candidates", 100, "Random candidates to train.", 3)
    flags.DEFINE_integer("twice", 20, "How many of them to train twice, for the noise.", 0)

    def measure(config: Config, console: Console) -> dict[str, Any]:
        from experiments.random_trials import random_trials

        values = flags.FLAGS
        count, twice, path = values.candidates, values.twice, Path(values.trials)
        sizes = integers(flag, values[flag].value or (), low=1, high=10**6)
        check_sizes(flag, sizes, count)
        trials = random_trials(config, path, wanted=count, twice=twice, console=console)
        return compare(trials, sizes, values.seeds)

    return measure


def run_experiment(
    doc: str, measure: Callable[[Config, Console], dict[str, Any]], figure: str
) -> int:
    """Tries a claim and prints what came out.

    Args:
      doc: docstring of the experiment, shown by `--help`.
      measure: tries the claim; returns the report, with a `claim` and `rows`.
      figure: its name in `experiments/figures.py`.

    Returns:
      The exit code.
    """
    flags.DEFINE_integer("seeds", 3, "Repetitions; what of, says the text above.", 1)

    def work(argv: list[str]) -> dict[str, Any]:
        config = parse_config(argv, str(DEFAULT_CONFIG), flags.FLAGS)
        if config.mode != "joint":
            raise ConfigError(f"`config.mode` must be `joint` for a claim, got `{config.mode}`")
        # Only now: these imports take seconds, and a config error should not.
        from jointnas_jax.runtime.jax_setup import prepare_jax
        from jointnas_jax.telemetry.console import plain_console

        prepare_jax(config.study.devices)
        report = measure(config, plain_console())
        report["sentence"] = sentence(report["claim"], report["rows"])
        print(f"{table(report['rows'])}\n{report['sentence']}")
        return report

    def draw(report: dict[str, Any], path: Path) -> Path:
        from experiments.figures import draw_claim

        return draw_claim(figure, report, path)

    return run_measurement(doc, work, draw)
