"""Display of a run: bars on a terminal, a few lines elsewhere."""

import dataclasses
import os
import sys
import time
from collections.abc import Callable, Mapping

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from jointnas_jax.report.words import seconds
from jointnas_jax.runtime.output import unfailing
from jointnas_jax.telemetry.progress import Listener, Progress, Snapshot

# Most packs on display; there is one for each device.
_PACKS = 8
_BAR = 32  # characters
_WIDTH = 120  # without a terminal
# Without a terminal there is a line each minute, and on long runs one for each percent.
_LINE_SECONDS, _LINE_SHARE = 60.0, 0.01


def plain_console(quiet: bool = False, stderr: bool = False) -> Console:
    """A console that prints names and errors as they are: `[/x]` and `:x:` are no commands.

    Nothing printed can fail. Without a terminal it has 120 columns: with the 80 of Rich, tables cut
    numbers off.
    """
    file = unfailing(sys.stderr if stderr else sys.stdout)
    console = Console(markup=False, emoji=False, quiet=quiet, file=file)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _WIDTH
    return console


def print_lines(lines: Mapping[str, str], console: Console) -> None:
    """Prints lines, each behind its name."""
    for name, text in lines.items():
        console.print(f"  {name:<15} {text}", highlight=False)


class Bars(Listener):
    """Bars at the bottom of a terminal, drawn by a thread of Rich; they vanish in the end."""

    def __init__(self, console: Console):
        self._console = console
        self._live: Live | None = None

    def start(self, look: Callable[[], Snapshot]) -> None:
        """Begins to draw."""
        self._live = Live(
            console=self._console,
            get_renderable=lambda: render(look()),
            refresh_per_second=2,
            transient=True,
        )
        self._live.start()
        # A second Ctrl-C ends the process at once, and would leave the terminal without a cursor.
        self._console.show_cursor(True)

    def close(self) -> None:
        """Removes the bars."""
        if self._live:
            self._live.stop()


class Lines(Listener):
    """A line after each batch of trainings, and now and then while one takes long."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic):
        """Starts with the present time of the clock, in seconds."""
        self._console = console
        self._clock = clock
        self._last = clock()

    def tick(self, now: Snapshot) -> None:
        """Prints the progress if the run trains and the last line was long ago."""
        whole = now.time - now.began + (now.seconds_left or 0.0)
        if self._clock() - self._last >= max(_LINE_SECONDS, _LINE_SHARE * whole) and now.groups:
            training = ", ".join(f"epoch {epoch} of {of}" for _, _, epoch, of in now.groups)
            self._print([f"{describe_stage(now)}: {training}", *describe_progress(now)])

    def milestone(self, now: Snapshot) -> None:
        """Prints the trainings done; the study itself has printed the results."""
        now = dataclasses.replace(now, best=None, spearman=None, useful=None)
        self._print(describe_progress(now))

    def _print(self, parts: list[str]) -> None:
        self._last = self._clock()
        self._console.print(f"    {'; '.join(parts)}", highlight=False)


def watched(console: Console, *others: Listener, command: str = "") -> Progress:
    """A run displayed on the console, in the way that suits it, and by other listeners."""
    display: list[Listener] = []
    if not console.quiet:
        display.append(Bars(console) if console.is_terminal else Lines(console))
    return Progress(console, [*display, *others], command)


def describe_stage(now: Snapshot) -> str:
    """The stage that runs, and its round."""
    of = f" of {now.rounds}" if now.rounds else ""
    return now.stage + (f", round {now.round}{of}" if now.round else "")


def describe_progress(now: Snapshot) -> list[str]:
    """The progress of a run, as parts of a sentence."""
    parts = []
    if now.planned:
        failed = f", {now.failed} failed" if now.failed else ""
        parts.append(f"{now.done} of {now.planned} trainings{failed}")
    if now.best is not None:
        parts.append(f"best so far {now.best:.2%}")
    if now.spearman is not None:
        parts.append(f"rank correlation {now.spearman:.2f}")
    if now.images_per_second is not None:
        parts.append(f"{now.images_per_second:,.0f} images/s")
    if now.useful is not None:
        parts.append(f"{now.useful:.0%} of the executed FLOPs useful")
    if now.seconds_left is not None and now.done < now.planned:
        parts.append(f"about {seconds(now.seconds_left, ' ')} left")
    return parts


def render(now: Snapshot) -> RenderableType:
    """The bars of a run."""

    def bar(done: int, of: int) -> ProgressBar:
        return ProgressBar(total=max(1, of), completed=done, width=_BAR)

    table = Table.grid(padding=(0, 1))
    if now.planned:
        table.add_row("", "all trainings", bar(now.done, now.planned), f"{now.done}/{now.planned}")
    for pack, trainings, epoch, epochs in now.groups[:_PACKS]:
        side = f"{pack}, {trainings} side by side" if trainings > 1 else pack
        table.add_row("", Text(side), bar(epoch, epochs), f"epoch {epoch}/{epochs}")
    if len(now.groups) > _PACKS:
        table.add_row("", f"and {len(now.groups) - _PACKS} more")
    head = Text(f"  {describe_stage(now) or 'preparing'}", style="bold")
    return Group(head, table, Text("  " + " · ".join(describe_progress(now)[bool(now.planned) :])))
