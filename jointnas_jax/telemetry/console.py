"""How a run is shown: bars on a terminal, a few lines elsewhere."""

import dataclasses
import os
import time
from collections.abc import Callable

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from jointnas_jax.telemetry.progress import Listener, Progress, Snapshot

# Packs that are shown at once; there is one for each device.
_PACKS = 8
_BAR = 32  # characters
_WIDTH = 120  # without a terminal
# Without a terminal there is a line each minute, and on long runs one for each percent.
_LINE_SECONDS, _LINE_SHARE = 60.0, 0.01


def plain_console(quiet: bool = False, stderr: bool = False) -> Console:
    """A console that prints names and errors as they are: `[/x]` and `:x:` are no commands.

    Where there is no terminal its tables are as wide as they need: Rich takes 80 columns there, and
    cuts numbers off.
    """
    console = Console(markup=False, emoji=False, quiet=quiet, stderr=stderr)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _WIDTH
    return console


class Bars(Listener):
    """Bars at the bottom of a terminal, drawn by a thread of rich's; they vanish in the end."""

    def __init__(self, console: Console):
        """Shows nothing yet."""
        self._console = console
        self._live: Live | None = None

    def start(self, look: Callable[[], Snapshot]) -> None:
        """Begins to draw."""
        draw = lambda: render(look())
        self._live = Live(
            console=self._console, get_renderable=draw, refresh_per_second=2, transient=True
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
        """Prints nothing yet; the clock counts seconds."""
        self._console, self._clock = console, clock
        self._last = clock()

    def tick(self, now: Snapshot) -> None:
        """Prints where the run is, if it trains and the last line was long ago."""
        whole = now.time - now.began + (now.seconds_left or 0.0)
        if self._clock() - self._last >= max(_LINE_SECONDS, _LINE_SHARE * whole) and now.groups:
            training = ", ".join(f"epoch {epoch} of {of}" for _, _, epoch, of in now.groups)
            self._print([f"{place(now)}: {training}", *facts(now)])

    def milestone(self, now: Snapshot) -> None:
        """Prints what is done; the rest was just told."""
        self._print(facts(dataclasses.replace(now, best=None, spearman=None, useful=None)))

    def _print(self, parts: list[str]) -> None:
        self._last = self._clock()
        self._console.print(f"    {'; '.join(parts)}", highlight=False)


def watched(console: Console, *others: Listener, command: str = "") -> Progress:
    """A run that is shown in the way that suits the console, and to other listeners."""
    own = [] if console.quiet else [Bars(console) if console.is_terminal else Lines(console)]
    return Progress(console, [*own, *others], command)


def place(now: Snapshot) -> str:
    """The stage that runs, and its round."""
    of = f" of {now.rounds}" if now.rounds else ""
    return now.stage + (f", round {now.round}{of}" if now.round else "")


def facts(now: Snapshot) -> list[str]:
    """What there is to say of a run, as parts of a sentence."""
    known = []
    if now.planned:
        failed = f", {now.failed} failed" if now.failed else ""
        known.append(f"{now.done} of {now.planned} trainings{failed}")
    if now.best is not None:
        known.append(f"best so far {now.best:.2%}")
    if now.spearman is not None:
        known.append(f"rank correlation {now.spearman:.2f}")
    if now.images_per_second is not None:
        known.append(f"{now.images_per_second:,.0f} images/s")
    if now.useful is not None:
        known.append(f"{now.useful:.0%} of the executed FLOPs useful")
    if now.seconds_left is not None and now.done < now.planned:
        known.append(f"about {duration(now.seconds_left)} left")
    return known


def duration(seconds: float) -> str:
    """A time for people."""
    for unit, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 1.5 * unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.0f} seconds"


def render(now: Snapshot) -> RenderableType:
    """The bars of a run."""
    table = Table.grid(padding=(0, 1))
    bar = lambda done, of: ProgressBar(total=max(1, of), completed=done, width=_BAR)
    if now.planned:
        table.add_row("", "all trainings", bar(now.done, now.planned), f"{now.done}/{now.planned}")
    for pack, trainings, epoch, epochs in now.groups[:_PACKS]:
        side = f"{pack}, {trainings} side by side" if trainings > 1 else pack
        table.add_row("", Text(side), bar(epoch, epochs), f"epoch {epoch}/{epochs}")
    if len(now.groups) > _PACKS:
        table.add_row("", f"and {len(now.groups) - _PACKS} more")
    head = Text(f"  {place(now) or 'preparing'}", style="bold")
    return Group(head, table, Text("  " + " · ".join(facts(now)[bool(now.planned) :])))
