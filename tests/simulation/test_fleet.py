"""Descriptions of fleets, and reports of fleets of many sizes."""

import dataclasses
import json

import pytest
from test_player import rounds_of

from jointnas_jax.errors import ConfigError, InputError
from jointnas_jax.report.simulation import draw
from jointnas_jax.simulation.asking import ASKERS
from jointnas_jax.simulation.fleet import Fleet, parse_speeds, read_speeds, speed_at
from jointnas_jax.simulation.sweep import scaling, sentences, sweep, table
from jointnas_jax.simulation.validation import compare

nan = float("nan")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("devices", 0), ("devices", 5000), ("speed", 0.0), ("speed", nan), ("memory_gb", -1.0)],
        *[("preemptions_per_hour", nan), ("preemptions_per_hour", float("inf")), ("spread", 3.0)],
        *[("sharing", 1.1), ("devices_per_trial", 0), ("checkpoint_minutes", -1.0)],
    ],
)
def test_a_fleet_that_cannot_be_is_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=f"`--{name}` must be "):
        Fleet(**{name: value})


def test_speeds_are_of_the_nearest_number_below():
    speeds = parse_speeds(["1:1", "2:0.8", "4:0.4"])
    assert [speed_at(speeds, n) for n in (1, 2, 3, 4, 100)] == [1, 0.8, 0.8, 0.4, 0.4]
    assert speed_at(parse_speeds(["0.5"]), 7) == 0.5


@pytest.mark.parametrize("text", ["", "a", "0", "-1", "nan", "2:1", "1:1,b:2", "1:1:1", "1:inf"])
def test_other_speeds_are_refused(text):
    with pytest.raises(ConfigError, match="`--speed`"):
        parse_speeds(text.split(","))


def test_measured_speeds_are_per_device(tmp_path):
    rows = [(1, 100.0), (2, 160.0), (4, 160.0)]
    report = [{"devices": n, "side_by_side": {"steps_per_second": r}} for n, r in rows]
    file = tmp_path / "scaling.json"
    file.write_text(json.dumps({"rows": report}))
    assert read_speeds(file) == {1: 1.0, 2: 0.8, 4: 0.4}
    for content in ("", "{}", "[]", '{"rows": [{"devices": 2}]}', json.dumps({"rows": report[1:]})):
        file.write_text(content)
        with pytest.raises(InputError, match=r"scaling\.json|--speed"):
            read_speeds(file)


# -- reports ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report():
    workload = rounds_of(*[[3600.0 * n for n in range(1, 9)]] * 2, before=10.0)
    fleet = Fleet(preemptions_per_hour=0.05, checkpoint_minutes=1.0)
    return sweep(workload, fleet, [16, 1, 4, 8], speeds={1: 1.0}, seeds=2)


def test_a_report_has_a_row_for_each_fleet_and_way(report):
    assert [(r["devices"], r["rounds"]) for r in report["rows"]] == [
        (devices, way) for devices in (1, 4, 8, 16) for way in ASKERS
    ]
    assert report["device_hours"] == pytest.approx(72)
    for row in report["rows"]:
        assert 0 < row["utilisation"] <= 1
        assert row["search_hours"] <= row["hours"]
        assert row["lost_device_hours"] > 0
        assert row["delay"] > -0.2
    json.dumps(report, allow_nan=False)


def test_a_search_stops_scaling_where_twice_as_many_devices_save_little(report):
    assert report["scaling"]["sync"]["stops"] == 8  # candidates of a round
    row = lambda n, hours, busy: {
        "devices": n, "rounds": "sync", "hours": hours, "utilisation": busy,
    }  # fmt: skip
    rows = [
        row(1, 10.0, 1.0),
        row(2, 5.0, 1.0),
        row(3, 4.9, 0.7),
        row(4, 4.6, 0.5),
        row(8, 4.5, 0.1),
    ]
    assert scaling(rows, "sync") == {"stops": 2, "half_busy": 4}
    assert scaling(rows[:2], "sync") == {"stops": None, "half_busy": 2}


def test_gains_are_over_synchronous_rounds(report):
    rows = {(r["devices"], r["rounds"]): r for r in report["rows"]}
    (gain,) = (g for g in report["gains"] if g["devices"] == 4)
    expected = 1 - rows[4, "async"]["search_hours"] / rows[4, "sync"]["search_hours"]
    assert gain["async"]["search"] == expected
    assert gain["known"] == 8  # a whole round


def test_the_report_can_be_read_and_seen(report, tmp_path):
    assert table(report).count("\n") == 1 + len(report["rows"])
    assert any("sync: stops scaling at 8 devices" in line for line in sentences(report))
    assert draw(report, tmp_path / "a.png").stat().st_size > 10_000


def test_candidates_that_do_not_fit_fail_and_a_round_of_them_is_an_error():
    workload = rounds_of([1.0, 2.0], [3.0, 4.0])
    large = lambda t: t._replace(memory=int(3e9) if t.number in (1, 3) else int(1e9))
    phases = tuple(p._replace(trainings=tuple(map(large, p.trainings))) for p in workload.phases)
    workload = dataclasses.replace(workload, phases=phases)
    look = lambda memory, **more: sweep(
        workload, Fleet(memory_gb=memory, **more), [4], speeds={1: 1.0}, seeds=1
    )["rows"][0]
    assert look(2.0)["too_large"] == 2
    assert look(2.0)["hours"] * 3600 == pytest.approx(1 + 3)
    assert look(2.0, devices_per_trial=2)["too_large"] == 0
    with pytest.raises(InputError, match=r"smallest one needs 1\.0 GB"):
        look(0.5)


def test_a_validation_is_right_within_a_fifth():
    workload = rounds_of([10.0] * 4)
    measured = {1: {"a": 30.0, "b": 10.0}, 2: {"a": 24.0}, 4: {"a": 21.0}}
    found = compare(workload, measured, {1: 1.0, 2: 0.8, 4: 0.5})
    assert [row["simulated"] for row in found["rows"]] == [40.0, 25.0, 20.0]
    assert found["right"]
    assert not compare(workload, {1: {"a": 40.0}, 2: {"a": 33.0}}, {1: 1.0, 2: 0.8})["right"]
