"""Scripts that train, after parsing: prepares JAX, runs, reports."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from jointnas_jax.config import Config
from jointnas_jax.execution.lane_batches import TrainFn
from jointnas_jax.rules import is_url
from jointnas_jax.runtime.distributed import connected, is_first, preempt
from jointnas_jax.runtime.interrupt import Interrupt
from jointnas_jax.runtime.jax_setup import prepare_jax
from jointnas_jax.storage import workdir as workdirs
from jointnas_jax.storage.study_reader import read_record
from jointnas_jax.study.mirrored import mirrored
from jointnas_jax.study.result import print_result
from jointnas_jax.study.resume import resume_command
from jointnas_jax.study.run import dry_run, run_study
from jointnas_jax.study.train_one import print_accuracy, train_candidate
from jointnas_jax.telemetry.console import plain_console, watched
from jointnas_jax.telemetry.progress import Progress
from jointnas_jax.telemetry.tensorboard import Scalars


class Options(NamedTuple):
    """Options of all scripts that train.

    Attributes:
      workdir: Folder for all files, or its URL in a bucket.
      dry: Print the schedule and train nothing.
      target: Chip that the schedule is for; "": this machine.
      overwrite: Replace the content of the workdir.
      quiet: Print errors and the result only.
      tensorboard: Write scalars for TensorBoard.
      argv: Command line, as `sys.argv`.
    """

    workdir: str | Path
    dry: bool = False
    target: str = ""
    overwrite: bool = False
    quiet: bool = False
    tensorboard: bool = False
    argv: Sequence[str] = ()

    def progress(self) -> Progress:
        """A run with the display of these options; raises `ConfigError` without tensorboardX."""
        scalars = [Scalars()] if self.tensorboard else []
        command = resume_command(self.argv) if self.argv else ""
        return watched(plain_console(self.quiet and not self.dry), *scalars, command=command)


@contextlib.contextmanager
def _started(config: Config, options: Options, interrupt: Interrupt) -> Iterator[Progress]:
    """Prepares JAX and connects the processes of a pod, of which process 0 alone shows anything."""
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


def run(
    config: Config, options: Options, interrupt: Interrupt, train_fn: TrainFn | None = None
) -> int:
    """Runs a study in a workdir, or prints its forecast; returns the exit code.

    Args:
      config: config of the study.
      options: options of the script.
      interrupt: tells when to save and stop.
      train_fn: see `LocalExecutor`.
    """
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(_started(config, options, interrupt))
        console, url = progress.console, str(options.workdir)
        if options.dry:
            dry_run(config, console, options.target)
            return 0
        workdir = stack.enter_context(
            mirrored(options.workdir, progress, interrupt, overwrite=options.overwrite)
        )
        result = run_study(
            config,
            workdir,
            console,
            overwrite=options.overwrite,
            interrupt=interrupt,
            progress=progress,
            train_fn=train_fn,
        )
        if not is_first():
            return 0
        # Only now: Matplotlib looks for its cache when it is imported, and says what it finds.
        from jointnas_jax.report.page import is_current, write_report

        if not is_current(workdir):
            record = read_record(workdir, config.study.storage)
            if is_url(url):
                record = dataclasses.replace(record, url=url)
            page, *_ = write_report(record)
            for path in (workdir / workdirs.RESULT, page):
                console.print(f"  wrote {path}", highlight=False, soft_wrap=True)
        else:
            print_result(result, console)
        if options.quiet:
            print_result(result, plain_console())
    return 0


def train(config: Config, name: str, options: Options, interrupt: Interrupt) -> int:
    """Trains one candidate in a workdir, or prints its schedule; returns the exit code."""
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(_started(config, options, interrupt))
        workdir = Path(options.workdir)
        if not options.dry:
            workdir = stack.enter_context(
                mirrored(options.workdir, progress, interrupt, overwrite=options.overwrite)
            )
        result = train_candidate(
            config,
            name,
            workdir,
            console=progress.console,
            dry=options.dry,
            target=options.target,
            overwrite=options.overwrite,
            interrupt=interrupt,
            progress=progress,
        )
        if result:
            progress.say(f"wrote {workdir / workdirs.RESULT}")
            if options.quiet:
                print_accuracy(result, plain_console())
    return 0
