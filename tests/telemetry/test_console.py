"""How a run is shown: bars on a terminal, lines elsewhere."""

import dataclasses
import io
import time

from rich.console import Console

from jointnas_jax.telemetry.console import Bars, Lines, describe_progress, render
from jointnas_jax.telemetry.progress import Progress, Snapshot

NOW = Snapshot(
    time=100.0,
    began=40.0,
    stage="coarse stage",
    round=2,
    rounds=3,
    done=12,
    planned=56,
    failed=1,
    best=0.986,
    kendall=0.3,
    spearman=0.52,
    images_per_second=12_345.6,
    useful=0.51,
    seconds_left=80.0,
    groups=(("envelope-6a3836f7", 2, 3, 10), ("exact", 1, 5, 20)),
)


def test_the_progress_has_every_number_that_is_there():
    assert "; ".join(describe_progress(NOW)) == (
        "12 of 56 trainings, 1 failed; best so far 98.60%; rank correlation 0.52; 12,346 images/s; "
        "51% of the executed FLOPs useful; about 1 min 20 s left"
    )
    assert describe_progress(Snapshot(0.0, 0.0)) == []


def test_bars_show_stage_round_packs_and_epochs():
    console = Console(file=io.StringIO(), width=100)
    console.print(render(NOW))
    text = console.file.getvalue()
    for shown in (
        "coarse stage, round 2 of 3",
        "12/56",
        "envelope-6a3836f7, 2 side by side",
        "epoch 3/10",
        "epoch 5/20",
        "12,346 images/s",
    ):
        assert shown in text
    console.print(render(Snapshot(0.0, 0.0)))


def test_bars_vanish_and_leave_the_terminal_its_cursor():
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    watch = Progress(console, [Bars(console)])
    with watch.shown():
        watch.stage("coarse stage")
        watch.say("a line above")
        time.sleep(0.1)
    text = console.file.getvalue()
    assert "a line above" in text
    assert "coarse stage" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


def test_without_a_terminal_a_long_batch_prints_a_line_now_and_then():
    console, clock = Console(file=io.StringIO(), width=300), [0.0]
    lines = Lines(console, lambda: clock[0])
    for second in range(1, 301):
        clock[0] = float(second)
        lines.tick(dataclasses.replace(NOW, time=40.0 + second))
    printed = console.file.getvalue().splitlines()
    assert len(printed) == 5
    assert "coarse stage, round 2 of 3: epoch 3 of 10, epoch 5 of 20; 12 of 56" in printed[0]
    for second in range(301, 3600):  # of ten hours
        clock[0] = float(second)
        lines.tick(dataclasses.replace(NOW, time=40.0 + second, seconds_left=36_000.0 - second))
    assert len(console.file.getvalue().splitlines()) <= 5 + 10
