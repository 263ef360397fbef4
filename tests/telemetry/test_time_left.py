"""How long a study still takes, on timelines that are made up or were recorded."""

import json
from pathlib import Path

import pytest

from jointnas_jax.telemetry.time_left import Lanes, Part, Timeline, speeds

# Compiling 10 s, training 20 s each time but the first.
PLAN = [Part("coarse", 4, 10, 20), Part("coarse", 4, 0, 20), Part("validate", 2, 10, 20)]
RECORDED = json.loads((Path(__file__).parent / "digits_timeline.json").read_text())


def trained(line, start, compiling, training, part, epochs=10, device=None, batches=1):
    """Trains the lane batches of a part one after the other; returns when it has ended."""
    line.begin(start, part)
    now = start + compiling
    for _ in range(batches):
        lanes = Lanes("pack", part.trainings // batches, epochs, device)
        line.lanes.append(lanes)
        for epoch in range(1, epochs + 1):
            now += training / batches / epochs
            line.epoch(now, lanes, epoch)
    line.end(now)
    return now


def test_before_anything_is_measured_the_forecast_stands():
    left = Timeline(PLAN, compile_scale=0.0).seconds_left(0.0)
    assert left == pytest.approx(80, rel=0.02)


def test_compiling_and_training_are_corrected_apart():
    line = Timeline(PLAN, compile_scale=0.0)
    end = trained(line, 0.0, compiling=5.0, training=60.0, part=PLAN[0])
    # Compiling takes half as long as forecast, training three times as long.
    assert line.seconds_left(end) == pytest.approx(10 / 2 + 3 * 40, rel=0.02)


def test_while_a_batch_trains_its_own_speed_counts():
    line = Timeline(PLAN[:1], compile_scale=0.0)
    line.begin(0.0, PLAN[0])
    assert line.seconds_left(4.0) == pytest.approx(26)
    lanes = Lanes("pack", 4, 10)
    line.lanes.append(lanes)
    for epoch in (1, 2, 3, 4, 5):
        line.epoch(10.0 + 8 * epoch, lanes, epoch)
    assert line.seconds_left(50.0) == pytest.approx(40)


def test_epochs_of_an_earlier_run_are_done_and_took_no_time_here():
    line = Timeline(PLAN[:1], compile_scale=0.0)
    line.begin(0.0, PLAN[0])
    lanes = Lanes("pack", 4, 10)
    line.lanes.append(lanes)
    for epoch in (6, 7, 8):
        line.epoch(10.0 + 4 * (epoch - 5), lanes, epoch)
    assert line.seconds_left(22.0) == pytest.approx(8)


def test_the_end_of_a_batch_that_tells_no_epochs_is_told_by_its_trainings():
    line = Timeline(PLAN[:1], compile_scale=0.0)
    line.begin(0.0, PLAN[0])
    for _ in range(3):
        line.trained()
    assert line.seconds_left(25.0) == pytest.approx(5)


def test_devices_side_by_side_take_the_time_of_the_slowest():
    part = Part("validate", 4, 10, 20)
    line = Timeline([part, part], compile_scale=0.0)
    line.begin(0.0, part)
    for i, device in enumerate((0, 0, 1, 1)):
        lanes = Lanes("exact", 1, 10, device)
        line.lanes.append(lanes)
        for epoch in range(1, 11):
            line.epoch(10 + 10 * (i % 2) + epoch, lanes, epoch)
    line.end(30.0)
    assert line.seconds_left(30.0) == pytest.approx(30, rel=0.02)


def test_the_early_stop_rule_shortens_later_rounds_and_nothing_else():
    line = Timeline(PLAN, compile_scale=0.0)
    end = trained(line, 0.0, 10.0, 20.0, PLAN[0])
    whole = line.seconds_left(end)
    line.shorten("coarse", 0.3)
    assert whole - line.seconds_left(end) == pytest.approx(14)


def test_what_is_stored_is_not_waited_for():
    line = Timeline(PLAN, compile_scale=0.0)
    line.stored({"coarse": 6})
    assert line.seconds_left(0.0) == pytest.approx(10 + 30, rel=0.02)


def test_what_was_planned_and_does_not_come_is_dropped_and_returned():
    line = Timeline(PLAN)
    assert line.begin(0.0, Part("validate", 2, 5, 5)) == PLAN


def test_the_time_between_batches_is_learned():
    line, part = Timeline([PLAN[1]] * 4, compile_scale=0.0), PLAN[1]
    end = trained(line, 0.0, 0.0, 20.0, part)
    end = trained(line, end + 50.0, 0.0, 20.0, part)  # programs are compiled there
    end = trained(line, end + 5.0, 0.0, 20.0, part)
    assert line.seconds_left(end) == pytest.approx(25)
    assert line.seconds_left(end + 3) == pytest.approx(22)


def test_after_the_last_batch_nothing_is_left():
    line, end = Timeline(PLAN), 0.0
    for part in PLAN:
        end = trained(line, end, part.compiling, part.training, part)
    assert line.seconds_left(end) == 0


def test_a_batch_without_compiling_tells_of_training_alone():
    for part, expected in ((Part("coarse", 1, 0, 10), (1, 2)), (Part("coarse", 1, 5, 5), (2, 2))):
        line = Timeline([part, Part("retrain", 1, 10, 10)], compile_scale=0.0)
        line.begin(0.0, part)
        line.end(20.0)
        left = 10 * expected[0] + 10 * expected[1]
        assert line.seconds_left(20.0) == pytest.approx(left, rel=0.02)
    assert speeds([]) == (1.0, 1.0)


@pytest.mark.parametrize("name", RECORDED)
def test_after_the_first_round_it_is_right_within_30_percent(name):
    """Real runs of the digits on two cores, compiling all or with a cache of programs."""
    run = RECORDED[name]
    plan = [Part(*part) for part in run["plan"]]
    line, every = Timeline(plan, run["compile_scale"]), []
    end = run["events"][-1][0]
    seen = []
    for now, event, *values in run["events"]:
        if event == "begin":
            line.begin(now, Part(*values))
        elif event == "group":
            every.append(Lanes(*values))
            line.lanes.append(every[-1])
        elif event == "epoch":
            line.epoch(now, every[values[0]], values[1])
        elif event == "trained":
            line.trained()
        elif event == "shorten":
            line.shorten("coarse", *values)
        elif event == "end":
            line.end(now)
        elif event == "round":
            seen.append((now, line.seconds_left(now)))
    first, left = seen[0]
    assert left == pytest.approx(end - first, rel=0.3)


@pytest.mark.parametrize("times", [2.0, 6.5])
def test_on_a_busy_machine_the_time_left_catches_up_while_the_first_round_compiles(times):
    """Everything takes so many times as long as was forecast for an idle one."""
    line, end = Timeline(PLAN, compile_scale=0.0), times * 80
    line.begin(0.0, PLAN[0])
    errors = []
    for share in (0.5, 0.75, 0.99):
        now = share * end / 8  # it compiles for end / 8
        errors.append(abs(line.seconds_left(now) - (end - now)) / (end - now))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.05
    lanes = Lanes("pack", 4, 10)
    line.lanes.append(lanes)
    for epoch in (1, 2, 3):
        now = end / 8 + epoch * 2 * times
        line.epoch(now, lanes, epoch)
        assert line.seconds_left(now) == pytest.approx(end - now, rel=0.15)


def test_a_batch_that_compiles_as_long_as_forecast_changes_nothing():
    line = Timeline(PLAN, compile_scale=0.0)
    line.begin(0.0, PLAN[0])
    for now in (0.0, 5.0, 10.0):
        assert line.seconds_left(now) == pytest.approx(80 - now, rel=0.02)


def test_a_later_batch_that_compiles_slowly_leaves_the_measured_training_as_it_is():
    line = Timeline(PLAN[:2] + PLAN[2:] * 2, compile_scale=0.0)
    end = trained(line, 0.0, 10.0, 20.0, PLAN[0])
    end = trained(line, end, 0.0, 20.0, PLAN[1])
    line.begin(end, PLAN[2])
    # The last part compiles for 40 s, as this one does; both train for 20 s.
    assert line.seconds_left(end + 40) == pytest.approx(20 + 40 + 20, rel=0.02)
