"""What a play takes, where arithmetic or a rule says it."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jointnas_jax.errors import InputError
from jointnas_jax.simulation.asking import ASKERS
from jointnas_jax.simulation.fleet import Fleet
from jointnas_jax.simulation.player import play
from jointnas_jax.simulation.workload import Phase, Training, Workload


def rounds_of(*rounds, before=0.0, **more):
    """A study of rounds, lists of seconds of trainings of one epoch, each in its own program."""
    number = iter(range(sum(map(len, rounds))))
    phases = [
        Phase(f"round {i}", before, tuple(Training(n, f"p{n}", s, 1, **more) for n, s in own), True)
        for i, own in enumerate([[(next(number), s) for s in seconds] for seconds in rounds])
    ]
    return Workload("study", "made up", tuple(phases))


times = st.lists(st.lists(st.floats(0.5, 100), min_size=1, max_size=6), min_size=1, max_size=4).map(
    lambda rounds: rounds_of(*rounds)
)
ways = st.sampled_from(sorted(ASKERS))
fleets = st.builds(
    Fleet,
    st.integers(1, 12),
    speed=st.sampled_from([0.5, 1.0, 3.0]),
    compile_seconds=st.sampled_from([-1.0, 0.0, 7.0]),
    preemptions_per_hour=st.sampled_from([0.0, 5.0]),
    checkpoint_minutes=st.just(0.1),
    spread=st.sampled_from([0.0, 0.3]),
)


# -- closed forms ----------------------------------------------------------------------------------


@given(times, ways)
def test_one_device_takes_the_sum(workload, way):
    played = play(workload, Fleet(1), way)
    assert played.seconds == pytest.approx(workload.device_seconds)
    assert played.training == pytest.approx(played.seconds)


@given(times)
def test_as_many_devices_as_candidates_take_the_longest_of_each_round(workload):
    longest = sum(max(t.seconds for t in phase.trainings) for phase in workload.phases)
    assert play(workload, Fleet(6)).seconds == pytest.approx(longest)
    assert play(workload, Fleet(4096)).seconds == pytest.approx(longest)


def test_equal_trainings_fill_devices_row_by_row():
    workload = rounds_of([10.0] * 7, [10.0] * 7)
    for devices in range(1, 9):
        assert play(workload, Fleet(devices)).seconds == 2 * 10.0 * math.ceil(7 / devices)


def test_the_driver_works_before_every_round():
    assert play(rounds_of([5.0], [5.0, 5.0], before=2.0), Fleet(2)).seconds == 2 + 5 + 2 + 5


def test_fits_of_asynchronous_rounds_delay_the_next_candidates():
    workload = rounds_of([10.0, 20.0], [10.0, 10.0], before=1.0)
    # One worker is free at 11, asks, trains from 12 to 22; the other one at 21, until 32.
    assert play(workload, Fleet(2), "async").seconds == 32
    assert play(workload, Fleet(2), "sync").seconds == 1 + 20 + 1 + 10
    # With a barrier both ask at 21.
    assert play(workload, Fleet(2), "mixed").seconds == 32


def test_a_device_compiles_a_program_once():
    own = rounds_of([10.0] * 4, compile_seconds=3.0)
    shared = dataclasses.replace(
        own,
        phases=tuple(
            p._replace(trainings=tuple(t._replace(program="p") for t in p.trainings))
            for p in own.phases
        ),
    )
    assert play(own, Fleet(2)).seconds == 2 * (3 + 10)
    assert play(shared, Fleet(2)).seconds == 3 + 2 * 10
    assert play(shared, Fleet(2, compile_seconds=5.0)).seconds == 5 + 2 * 10
    assert play(shared, Fleet(2)).compiling == 2 * 3


def test_devices_that_share_batches_are_one_worker_that_loses_at_each_doubling():
    workload = rounds_of([80.0, 80.0])
    shared = Fleet(8, devices_per_trial=4, sharing=0.9)
    assert (shared.workers, shared.worker_speed) == (2, pytest.approx(4 * 0.81))
    assert play(workload, shared).seconds == pytest.approx(80 / (4 * 0.81))


def test_trainings_of_an_envelope_wait_for_each_other_on_one_host():
    workload = rounds_of([10.0, 8.0, 2.0, 1.0])
    phase = workload.phases[0]
    same = tuple(t._replace(program="p", envelope=True) for t in phase.trainings)
    workload = dataclasses.replace(workload, phases=(phase._replace(trainings=same),))
    host = dataclasses.replace(workload, one_host=True)
    assert play(host, Fleet(2)).seconds == 10 + 2
    assert play(workload, Fleet(2)).seconds == 11


def test_wide_rounds_are_as_wide_as_the_fleet_and_know_as_much_as_has_ended():
    workload = rounds_of([10.0] * 2, [10.0] * 2, [10.0] * 2, [10.0] * 2)
    played = play(workload, Fleet(4), "wide")
    assert played.seconds == 10 + 2 * 10
    assert [played.seen[n] for n in range(8)] == [0, 0, 2, 2, 2, 2, 6, 6]
    assert play(workload, Fleet(2), "wide") == play(workload, Fleet(2), "sync")


# -- early stop ------------------------------------------------------------------------------------


def stopping(short):
    """Round 1 of ten epochs of 1 s, round 2 of fewer."""
    first = tuple(Training(n, f"p{n}", seconds, 10) for n, seconds in enumerate([1.0, 2.0]))
    later = tuple(Training(n, f"p{n}", 1.0, short) for n in (2, 3))
    return Workload("s", "", (Phase("1", 0.0, first, True), Phase("2", 0.0, later, True)))


def test_what_began_before_the_rule_ends_after_its_epoch():
    # Training 2 begins at 10, the rule decides at 20, when it has trained all of its ten epochs.
    assert play(stopping(4), Fleet(2), "async").seconds == 24
    # A third worker: 2 begins at 10 and 3 too, both end with the rule at 20.
    assert play(stopping(4), Fleet(3), "async").seconds == 20
    # In rounds they begin at 20.
    assert play(stopping(4), Fleet(3), "sync").seconds == 24


def test_what_runs_when_the_rule_decides_trains_on_as_long_as_the_rule_wants():
    first = tuple(Training(n, f"p{n}", s, 10) for n, s in enumerate([1.0, 1.25]))
    later = (Training(2, "p2", 1.0, 6),)
    workload = Workload("s", "", (Phase("1", 0.0, first, True), Phase("2", 0.0, later, True)))
    assert play(workload, Fleet(2), "async").seconds == 10 + 6
    early = dataclasses.replace(
        workload, phases=(workload.phases[0], Phase("2", 0.0, (later[0]._replace(epochs=1),), True))
    )
    # Two and a half epochs are trained at 12.5: the third one ends.
    assert play(early, Fleet(2), "async").seconds == 13


# -- preemptions -----------------------------------------------------------------------------------

LONG = Workload("l", "", (Phase("1", 0.0, (Training(0, "p", 60.0, 600, 30.0),), True),))


def test_without_preemptions_nothing_is_lost():
    played = play(LONG, Fleet(1, spread=0.2))
    assert (played.lost, played.preemptions) == (0.0, 0)


def test_a_preempted_training_goes_on_from_its_last_saved_state():
    fleet = Fleet(1, preemptions_per_hour=0.5, replacement_minutes=0.0, checkpoint_minutes=10.0)
    played = play(LONG, fleet)
    assert played.preemptions > 0
    assert played.training == pytest.approx(600 * 60)  # every epoch counts once
    assert played.compiling == 30
    assert played.seconds == pytest.approx(played.training + played.compiling + played.lost)
    # At most ten epochs, the epoch that ran and a compilation each time.
    assert 0 < played.lost <= played.preemptions * (10 * 60 + 60 + 30)


def test_rarer_states_lose_more_and_a_later_replacement_takes_longer():
    base = Fleet(1, preemptions_per_hour=0.5, replacement_minutes=0.0, checkpoint_minutes=1.0)
    rare = dataclasses.replace(base, checkpoint_minutes=30.0)
    late = dataclasses.replace(base, replacement_minutes=10.0)
    assert play(LONG, rare).lost > play(LONG, base).lost
    waited = play(LONG, late)
    assert waited.seconds == pytest.approx(
        play(LONG, base).seconds + 600 * waited.preemptions, abs=1e-6
    )


def test_the_expected_number_of_preemptions_comes():
    fleet = Fleet(1, preemptions_per_hour=1.0, replacement_minutes=0.0, checkpoint_minutes=0.0)
    plays = [play(LONG, fleet, seed=seed) for seed in range(40)]
    mean = sum(p.preemptions for p in plays) / 40
    hours = sum(p.seconds for p in plays) / 40 / 3600
    assert mean == pytest.approx(hours, rel=0.15)


def test_devices_that_do_not_last_for_an_epoch_are_refused():
    workload = Workload("l", "", (Phase("1", 0.0, (Training(0, "p", 36000.0, 2),), True),))
    with pytest.raises(InputError, match="preempted 1000 times"):
        play(workload, Fleet(1, preemptions_per_hour=10.0))


# -- rules that hold for every play ----------------------------------------------------------------


@given(times, fleets, ways, st.integers(0, 3))
def test_every_play_ends_counts_each_epoch_once_and_is_the_same_again(workload, fleet, way, seed):
    played = play(workload, fleet, way, seed=seed)
    assert played == play(workload, fleet, way, seed=seed)
    busy = played.training + played.compiling + played.lost
    assert 0 < busy <= fleet.devices * played.seconds * (1 + 1e-9)  # no more than all the time
    assert played.search_seconds == played.seconds
    assert set(played.seen) == {t.number for t in workload.trainings}
    if not fleet.preemptions_per_hour:
        assert played.lost == 0
    if not fleet.spread:
        wanted = sum(t.seconds for t in workload.trainings) / fleet.speed
        assert played.training == pytest.approx(wanted)


@given(st.integers(1, 9), st.integers(1, 4), st.integers(1, 20), ways)
def test_of_equal_trainings_more_devices_never_take_longer(per_round, rounds, devices, way):
    workload = rounds_of(*[[10.0] * per_round] * rounds)
    fewer, more = (play(workload, Fleet(n), way).seconds for n in (devices, devices + 1))
    assert more <= fewer


@given(st.integers(1, 9), st.integers(1, 4), st.integers(1, 12))
def test_of_equal_trainings_asking_as_results_arrive_never_takes_longer(per_round, rounds, devices):
    workload, fleet = rounds_of(*[[10.0] * per_round] * rounds), Fleet(devices)
    assert play(workload, fleet, "async").seconds <= play(workload, fleet, "sync").seconds


@given(times, st.integers(1, 12))
def test_nothing_but_the_first_round_is_asked_for_without_a_result(workload, devices):
    first = {t.number for t in workload.phases[0].trainings}
    for way in ASKERS:
        seen = play(workload, Fleet(devices), way).seen
        assert all(count >= 1 for number, count in seen.items() if number not in first)
    for way in ("sync", "wide", "mixed"):  # the whole first round
        seen = play(workload, Fleet(devices), way).seen
        assert all(count >= len(first) for number, count in seen.items() if number not in first)


def test_another_seed_has_other_stragglers_and_fleets_share_them():
    workload = rounds_of([10.0] * 4)
    one, other = (play(workload, Fleet(1, spread=0.3), seed=seed) for seed in (0, 1))
    assert one.seconds != other.seconds
    assert play(workload, Fleet(4, spread=0.3)).training == pytest.approx(one.training)
