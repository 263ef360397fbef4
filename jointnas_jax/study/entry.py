"""From a checked config to a finished study: prepares JAX and the workdir, runs, reports."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jointnas_jax.config import Config
from jointnas_jax.files import write_json
from jointnas_jax.runtime.distributed import connected, is_first, preempt
from jointnas_jax.runtime.interrupt import Interrupt
from jointnas_jax.runtime.jax_setup import prepare_jax
from jointnas_jax.storage import workdir as workdirs
from jointnas_jax.storage.study_reader import read_record
from jointnas_jax.study.budgets import print_budgets, search_budgets, write_budgets
from jointnas_jax.study.latency_profile import print_profile, profile_network, profile_space
from jointnas_jax.study.result import print_result
from jointnas_jax.study.resume import resume_command
from jointnas_jax.study.run import dry_run, run_study
from jointnas_jax.study.train_one import print_accuracy, train_candidate
from jointnas_jax.telemetry.console import plain_console, watched
from jointnas_jax.telemetry.progress import Progress
from jointnas_jax.telemetry.tensorboard import Scalars


class Options(NamedTuple):
    """How a script runs, whatever it runs.

    Attributes:
      workdir: where everything is written.
      dry: print the plan and train nothing.
      overwrite: replace what the workdir holds.
      quiet: tell errors and the final result only.
      tensorboard: write scalars for TensorBoard.
      argv: of the script, as `sys.argv`.
    """

    workdir: Path
    dry: bool = False
    overwrite: bool = False
    quiet: bool = False
    tensorboard: bool = False
    argv: Sequence[str] = ()

    def progress(self) -> Progress:
        """A run that is shown as these options say; raises `ConfigError` if it cannot be."""
        scalars = [Scalars()] if self.tensorboard else []
        command = resume_command(self.argv) if self.argv else ""
        return watched(plain_console(self.quiet and not self.dry), *scalars, command=command)


@contextlib.contextmanager
def _started(config: Config, options: Options, interrupt: Interrupt) -> Iterator[Progress]:
    """Prepares JAX and connects the processes of a pod, of which process 0 alone tells anything."""
    progress, pod = options.progress(), config.pod
    prepare_jax(config.study.devices)
    interrupt.check()
    if options.dry or config.executor != "pod":
        yield progress
        return
    interrupt.on_signal = preempt
    with connected(
        pod.coordinator, processes=pod.processes, process=pod.process, timeout=pod.timeout
    ):
        yield progress if is_first() else Progress(command=progress.command)


def run(config: Config, options: Options, interrupt: Interrupt) -> int:
    """Runs a study in a workdir, or prints its plan; returns the exit code."""
    workdir = options.workdir
    with _started(config, options, interrupt) as progress:
        console = progress.console
        if options.dry:
            dry_run(config, console)
            return 0
        result = run_study(config, workdir, console, options.overwrite, interrupt, progress)
        if not is_first():
            return 0
        # Only now: Matplotlib looks for its cache when it is imported, and says what it finds.
        from jointnas_jax.report.page import is_current, write_report

        if not is_current(workdir):
            page, *_ = write_report(read_record(workdir, config.study.storage))
            for path in (workdir / workdirs.RESULT, page):
                console.print(f"  wrote {path}", highlight=False, soft_wrap=True)
        else:
            print_result(result, console)
        if options.quiet:
            print_result(result, plain_console())
    return 0


def train(config: Config, name: str, options: Options, interrupt: Interrupt) -> int:
    """Trains one candidate in a workdir, or prints the plan of it; returns the exit code."""
    workdir = options.workdir
    with _started(config, options, interrupt) as progress:
        result = train_candidate(
            config,
            name,
            workdir,
            progress.console,
            dry=options.dry,
            overwrite=options.overwrite,
            interrupt=interrupt,
            progress=progress,
        )
        if result and is_first():
            progress.say(f"wrote {workdir / workdirs.RESULT}")
            if options.quiet:
                print_accuracy(result, plain_console())
    return 0


def run_budgets(workdir: Path, budgets: Sequence[Mapping[str, int]], out: Path, seed: int) -> int:
    """Searches the study in a workdir for other budgets; returns the exit code."""
    prepare_jax(devices=1)
    console = plain_console()
    report = search_budgets(workdir, budgets, seed)
    print_budgets(report, console)
    for path in write_budgets(report, out):
        console.print(f"  wrote {path}", highlight=False, soft_wrap=True)
    return 0


def run_profile(
    name: str, batch: int, repeats: int, lowering: str, dtype: str, as_json: bool
) -> int:
    """Measures how fast a network is on this device; returns the exit code."""
    prepare_jax(devices=1)
    report = profile_network(name, batch, repeats, lowering, dtype)
    if as_json:
        print(json.dumps(report, indent=1))
    else:
        print_profile(report, plain_console())
    return 0


def run_table(config: Config, out: str, as_json: bool, **wanted: Any) -> int:
    """Times the blocks of a space on this device, see `profile_space`; returns the exit code."""
    prepare_jax(devices=1)
    report = profile_space(config, plain_console(stderr=as_json), **wanted)
    if out:
        write_json(Path(out), report)
    if as_json:
        print(json.dumps(report, indent=1))
    return 0
