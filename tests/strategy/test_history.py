"""Ask and tell: what is asked for follows from the results, whoever came first."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jointnas_jax.errors import InputError
from jointnas_jax.strategy.history import History, ask

POOL = np.array([[i, j] for i in range(8) for j in range(8)], np.int32)
SCORE = lambda vector: float((vector * [3, 5]).sum() % 17)
NOTHING = History(POOL[:0], np.zeros(0), np.zeros(0, bool))


class Mean:
    """Proposes by the mean of all scores, and by how many are pending."""

    def __init__(self):
        self.pending = []

    def __call__(self, state):
        self.pending.append(state.pending.tolist())
        shift = int(10 * np.nanmean(state.scores)) + len(state.pending)
        return state, np.roll(POOL, shift, 0)


def begun():
    return NOTHING.asked(POOL[:3]).answered([0, 1, 2], [SCORE(v) for v in POOL[:3]])


def play(order):
    """Asks, or takes the result of one that is pending: a number of those that are, oldest 0."""
    state = begun()
    for event in order:
        pending = np.flatnonzero(~state.finished)
        if event is None or not len(pending):
            state, _ = ask(Mean(), state, 1)
        else:
            number = pending[event % len(pending)]
            state = state.answered([number], [SCORE(state.vectors[number])])
    return state


ORDERS = st.lists(st.one_of(st.none(), st.integers(0, 5)), max_size=25)


@given(ORDERS)
def test_no_candidate_comes_twice_and_the_same_order_gives_the_same(order):
    first, again = play(order), play(order)
    assert len(np.unique(first.vectors, axis=0)) == len(first.vectors)
    np.testing.assert_array_equal(first.vectors, again.vectors)
    np.testing.assert_array_equal(first.scores, again.scores)


@given(ORDERS)
def test_results_between_two_questions_may_come_in_any_order(order):
    """Two are pending, and the older or the younger one ends first."""
    ends = [play([*order, None, None, *ended, None, None]) for ended in ([0, 0], [1, 0])]
    np.testing.assert_array_equal(ends[0].vectors, ends[1].vectors)
    np.testing.assert_array_equal(ends[0].scores, ends[1].scores)


def test_what_is_pending_is_seen_in_the_order_of_asking():
    proposer = Mean()
    state, vectors = ask(proposer, begun(), 3)
    asked = vectors.tolist()
    assert proposer.pending == [[], asked[:1], asked[:2]]
    state = state.answered([4], [np.nan])
    assert state.pending.tolist() == [asked[0], asked[2]]
    assert state.failed.tolist() == [asked[1]]
    assert len(state.measured[0]) == 3


def test_the_best_come_first_and_failures_not_at_all():
    state = NOTHING.asked(POOL[:4]).answered(range(4), [1.0, np.nan, 3.0, 2.0])
    assert state.best_first.tolist() == POOL[[2, 3, 0]].tolist()


@pytest.mark.parametrize(("repeat", "count"), [(False, 1), (True, 3)])
def test_where_nothing_is_new_there_is_no_candidate_or_the_first_again(repeat, count):
    _, vectors = ask(lambda state: (state, POOL[:4]), begun(), 3, repeat=repeat)
    assert vectors.tolist() == [POOL[3].tolist(), *[POOL[0].tolist()] * 2][:count]


def test_there_is_a_score_for_each():
    with pytest.raises(InputError, match="each of 2 candidates"):
        NOTHING.asked(POOL[:2]).answered([0, 1], 1.0)
