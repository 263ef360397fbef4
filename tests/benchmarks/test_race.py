"""Races of searches on recorded curves: epochs are counted, and the test images judge."""

import importlib.util

import numpy as np
import pytest

from benchmarks.predictors import who_can
from benchmarks.race import BUDGETS, CONTESTANTS, NEEDS, Book, Curves, race
from jointnas_jax.errors import InputError
from jointnas_jax.space import JointSpace

SPACE = dict(
    resolution=8,
    stem=dict(channels=8, stride=1),
    stages=(dict(kernel=[3, 5], expand=[1, 2, 3, 4], channels=[8, 16, 24, 32], depth=(1, 3)),),
    head=dict(channels=[16, 32, 64], expand=1),
    recipe=dict(lr=(0.01, 0.1, 0.01)),
)
STORED = SPACE | dict(
    stages=[SPACE["stages"][0] | dict(depth={"range": [1, 3]})],
    recipe=dict(lr={"range": [0.01, 0.1, 0.01]}),
)
EPOCHS = 8
# Their packages take seconds to import.
PEERS = [
    pytest.param(
        name,
        marks=[
            pytest.mark.slow,
            pytest.mark.skipif(not importlib.util.find_spec(module), reason=f"needs {module}"),
        ],
    )
    for name, module in NEEDS.items()
]


@pytest.fixture(scope="module")
def table():
    """What 120 candidates score grows with their size; halfway it is nearly known."""
    space = JointSpace.from_config(SPACE, image_channels=1, num_classes=2)
    rng = np.random.default_rng(0)
    rows = []
    for i, vector in enumerate(np.unique(space.sample(rng, 200), axis=0)[:120]):
        size, end = 1.0 + vector.sum(), -1 / (2 + vector.sum()) + 0.01 * rng.normal()
        loss = [[-end * (1 + (EPOCHS - e) / EPOCHS)] for e in range(1, EPOCHS + 1)]
        rows.append(
            dict(
                candidate=i,
                training=0,
                fold=0,
                reason=None,
                ema=bool(i % 2),
                vector=vector.tolist(),
                costs=dict(flops=int(1000 * size), params=int(100 * size)),
                curves=dict.fromkeys(("averaged", "raw", "test_averaged", "test_raw"), loss),
            )
        )
    return dict(space=STORED, trainings=rows)


@pytest.fixture(scope="module")
def curves(table):
    return Curves.of("made", table, 0)


@pytest.mark.parametrize("name", ["random", "halving", "asha", "hyperband", *PEERS])
@pytest.mark.parametrize("budget", [3, 8])
def test_a_search_takes_no_more_epochs_than_it_has(curves, name, budget):
    book = Book(curves, budget)
    CONTESTANTS[name](curves)(book, np.random.default_rng(0))
    spent = sum(book.reached.values())
    assert (budget - 1) * EPOCHS <= spent <= budget * EPOCHS
    assert max(book.reached.values()) == EPOCHS


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_searches_the_same_way_with_the_same_seed(curves, name):
    books = [Book(curves, 3) for _ in range(2)]
    for book in books:
        CONTESTANTS[name](curves)(book, np.random.default_rng(0))
    assert books[0].reached == books[1].reached


def test_who_is_not_installed_is_left_out_and_named_where_it_is_asked_for():
    needs = {"b": "no_such_module", "c": "json"}
    assert who_can([], "abc", needs) == ["a", "c"]
    assert who_can(["c", "a"], "abc", needs) == ["c", "a"]
    with pytest.raises(
        InputError, match=r"contestant `b` needs the package `no_such_module`.*\[peers\]"
    ):
        who_can(["a", "b"], "abc", needs)


def test_the_nearest_candidate_of_a_table_is_itself(curves):
    assert [curves.nearest(vector) for vector in curves.vectors] == [*range(len(curves.vectors))]


def test_finalists_are_paid_for_before_anything_else_trains(curves):
    book = Book(curves, 2)
    book.train(0, EPOCHS // 2)
    assert book.can(1, EPOCHS, finalists=[0])
    book.train(1, EPOCHS // 2)
    assert not book.can(2, EPOCHS // 2, finalists=[0, 1])
    assert book.can(0, EPOCHS, finalists=[0, 1])


def test_the_whole_table_has_the_whole_area(curves):
    area, regret = curves.judge(range(len(curves.vectors)))
    assert area == pytest.approx(1)
    assert regret >= 0
    assert curves.judge([0])[0] < 1


@pytest.mark.slow
def test_our_searches_are_ahead_of_random_ones(table):
    rows = race({"made": table}, 0, searches=3, names=["random", "none", "curve"])
    at_end = {r["search"]: r["area"] for r in rows if r["trainings"] == max(BUDGETS)}
    assert at_end["none"] > at_end["random"]
    assert at_end["curve"] > at_end["random"]


def test_small_tables_are_left_out(table):
    small = dict(table, trainings=table["trainings"][:50])
    assert race({"small": small}, 0, searches=1, names=["random"]) == []
