"""Asking without rounds: what is proposed follows from what is known, whoever came first."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jointnas_jax.strategy.asking import Asking

POOL = np.array([[i, j] for i in range(8) for j in range(8)], np.int32)
SCORE = lambda vector: float((vector * [3, 5]).sum() % 17)


@pytest.fixture(autouse=True)
def no_warnings():
    with np.errstate(all="raise"):
        yield


class Search:
    """Asks for the best of the pool by a predictor that is the mean of its trials."""

    def __init__(self):
        self.fits, self.pending = [], []
        self.asking = Asking(
            *(POOL[:3], np.array([SCORE(v) for v in POOL[:3]])),
            *(self.fit, lambda vectors: np.full(len(vectors), self.mean), self.propose),
        )

    def fit(self, vectors, scores):
        self.mean = np.nanmean(scores)
        self.fits.append((vectors.tolist(), scores.tolist()))

    def propose(self, pending):
        self.pending.append(pending.tolist())
        shift = int(10 * self.mean) + len(pending)
        return np.roll(POOL, shift, 0)

    def play(self, order):
        """Asks, or tells of the result of one that trains: a number of those that do, oldest 0."""
        asked, training = [], []
        for event in order:
            if event is None or not training:
                training.append(len(asked))
                asked.append(self.asking.ask())
            else:
                number = training.pop(event % len(training))
                self.asking.tell(number, SCORE(asked[number][0]))
        return [(vector.tolist(), predicted) for vector, predicted in asked]


ORDERS = st.lists(st.one_of(st.none(), st.integers(0, 5)), max_size=25)


@given(ORDERS)
def test_no_candidate_comes_twice_and_the_same_order_gives_the_same(order):
    first = Search().play(order)
    vectors = [tuple(vector) for vector, _ in first]
    assert len(set(vectors)) == len(vectors)
    assert not {tuple(v) for v in POOL[:3].tolist()} & set(vectors)
    assert Search().play(order) == first


@given(ORDERS)
def test_results_between_two_questions_may_come_in_any_order(order):
    """Two that train, told of the older or the younger one first."""
    ends = [[*order, None, None, *told, None, None] for told in ([0, 0], [1, 0])]
    searches = [Search() for _ in ends]
    events = [search.play(end) for search, end in zip(searches, ends, strict=True)]
    known = [search.fits[-1] for search in searches]
    assert known[0] == known[1]
    assert events[0] == events[1]


def test_what_trains_is_given_in_the_order_of_asking_and_what_is_told_is_fitted_once():
    search = Search()
    asked = [vector for vector, _ in search.play([None, None, None])]
    assert search.pending == [[], asked[:1], asked[:2]]
    assert len(search.fits) == 1
    search.asking.tell(1, np.nan)
    search.asking.ask()
    assert search.pending[-1] == [asked[0], asked[2]]
    vectors, scores = search.fits[-1]
    assert vectors[-1] == asked[1]
    assert np.isnan(scores[-1])


def test_where_there_is_nothing_new_there_is_no_candidate():
    pool = POOL[:4]
    asking = Asking(
        *(pool[:3], np.ones(3)),
        *(lambda vectors, scores: None, lambda vectors: np.ones(len(vectors))),
        lambda pending: pool,
    )
    assert asking.ask()[0].tolist() == pool[3].tolist()
    assert asking.ask() is None
