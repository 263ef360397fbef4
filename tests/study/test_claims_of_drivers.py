"""What one driver claims no other has, until it is dead."""

import concurrent.futures
import types

import pytest

from jointnas_jax.study import claims
from jointnas_jax.study.database import sqlite_url
from jointnas_jax.study.store import TrialStore

TIMEOUT = 1000.0  # no thread counts up on its own while a test runs


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when a test says so."""
    clock = types.SimpleNamespace(now=0.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(claims, "time", clock)
    return clock


@pytest.fixture
def driver(tmp_path):
    """Makes drivers of one study, or of others in the same database."""
    made = []

    def make(name="study"):
        driver = claims.Claims(TrialStore(sqlite_url(tmp_path), name), TIMEOUT)
        driver.join()
        made.append(driver)
        return driver

    yield make
    for each in made:
        each.leave()


def test_of_many_drivers_one_has_each_claim(driver):
    drivers, names = [driver() for _ in range(6)], [f"unit {i}" for i in range(10)]
    with concurrent.futures.ThreadPoolExecutor(len(drivers)) as pool:
        taken = list(pool.map(lambda d: [n for n in names if d.take(n)], drivers))
    assert sorted(name for some in taken for name in some) == sorted(names)


def pass_time(clock, drivers, steps):
    """Each step is less than half of the timeout: who hears less often is deaf."""
    for _ in range(steps):
        clock.now += 0.4 * TIMEOUT
        for driver in drivers:
            driver.beat()


def test_a_claim_stays_with_a_driver_that_counts_up(driver, clock):
    one, other = driver(), driver()
    assert one.take("unit 0")
    for _ in range(8):
        pass_time(clock, [one, other], 1)
        assert not other.take("unit 0")
    assert one.take("unit 0")


def test_of_those_that_find_a_driver_dead_one_takes_its_claim_over(driver, clock):
    dead, others = driver(), [driver() for _ in range(4)]
    assert dead.take("unit 0")
    pass_time(clock, others, 2)
    assert not any(other.take("unit 0") for other in others)
    pass_time(clock, others, 2)
    assert sum(other.take("unit 0") for other in others) == 1


def test_who_was_deaf_takes_nobody_for_dead(driver, clock):
    one, other = driver(), driver()
    assert one.take("unit 0")
    clock.now += 9 * TIMEOUT
    assert not other.take("unit 0")


def test_a_driver_that_nobody_knows_is_new(driver, clock):
    one = driver()
    pass_time(clock, [one], 5)
    other = driver()
    assert other.take("unit 0")
    assert not one.take("unit 0")


def test_others_are_those_that_count_up(driver, clock):
    one, dead, alive = driver(), driver(), driver()
    clock.sleep = lambda seconds: alive.beat()
    assert one.others() == [alive.driver]
    assert dead.driver not in one.others()


def test_one_whose_study_was_replaced_is_there_again(driver, clock):
    one, other = driver(), driver()
    other.forget()
    one.beat()
    assert one.take("unit 0")
    assert not other.take("unit 0")


def test_what_is_given_back_is_free(driver):
    one, other = driver(), driver()
    assert one.take("unit 0")
    one.leave()
    assert other.take("unit 0")
    assert other.others() == []


def test_studies_in_one_database_do_not_meet(driver):
    one, other = driver(), driver("another")
    assert one.take("unit 0")
    assert other.take("unit 0")
    assert one.others() == []
    one.forget()
    assert not driver("another").take("unit 0")
