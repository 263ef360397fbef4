import numpy as np
import pytest

from jointnas_jax.strategy.coarse import coarse_stage

POOL = np.arange(40, dtype=np.int32)[:, None]


def _run(evaluate, rounds=3, per_round=5, predict=lambda v: v[:, 0].astype(np.float32), pool=POOL):
    fitted = []
    done = list(
        coarse_stage(
            pool,
            rounds * per_round,
            per_round,
            evaluate,
            lambda v, s: fitted.append((v.copy(), s.copy())),
            predict,
            lambda chosen: pool[np.argsort(-predict(pool), kind="stable")],
        )
    )
    return done, fitted


def test_the_first_round_is_the_head_of_the_pool_and_later_ones_the_best_predicted():
    done, _ = _run(lambda number, v, p: v[:, 0].astype(np.float32))
    assert [r.vectors[:, 0].tolist() for r in done] == [
        [0, 1, 2, 3, 4],
        [39, 38, 37, 36, 35],
        [34, 33, 32, 31, 30],
    ]


def test_a_proposal_knows_what_was_chosen_for_the_round():
    known = []
    propose = lambda chosen: known.append(chosen[:, 0].tolist()) or POOL[20:]
    score = lambda number, v, p: v[:, 0].astype(np.float32)
    list(coarse_stage(POOL, 6, 3, score, lambda v, s: None, lambda v: v[:, 0], propose))
    assert known == [[], [20], [20, 21]]


def test_no_candidate_is_evaluated_twice_and_the_pool_may_run_out():
    done, _ = _run(lambda number, v, p: v[:, 0].astype(np.float32), rounds=20, per_round=7)
    seen = np.concatenate([r.vectors[:, 0] for r in done])
    assert sorted(seen.tolist()) == list(range(40))


@pytest.mark.parametrize(("evaluations", "sizes"), [(10, [4, 4, 2]), (8, [4, 4]), (3, [3])])
def test_never_more_is_evaluated_than_asked_for(evaluations, sizes):
    score = lambda number, v, p: v[:, 0].astype(np.float32)
    stage = coarse_stage(POOL, evaluations, 4, score, lambda *a: None, lambda v: v[:, 0], _any)
    assert [len(r.vectors) for r in stage] == sizes


_any = lambda chosen: POOL[::-1]


def test_a_fit_sees_what_failed():
    done, fitted = _run(
        lambda number, v, p: np.where(v[:, 0] % 2, np.nan, v[:, 0]).astype(np.float32)
    )
    for vectors, scores in fitted:
        np.testing.assert_array_equal(np.isnan(scores), vectors[:, 0] % 2)
    assert [len(v) for v, _ in fitted] == [5, 10, 15]
    assert np.isnan(done[0].scores).sum() == 2


def test_predictions_are_compared_with_what_came_after_them():
    """The predictor is right in round 2 and wrong in round 3."""
    done, _ = _run(lambda number, v, p: (v[:, 0] if number < 3 else -v[:, 0]).astype(np.float32))
    assert np.isnan(done[0].spearman)
    assert np.isnan(done[0].predicted).all()
    assert [done[1].spearman, done[2].kendall] == pytest.approx([1.0, -1.0])


def test_nothing_is_fitted_while_everything_fails():
    done, fitted = _run(lambda number, v, p: np.full(len(v), np.nan, np.float32))
    assert fitted == []
    assert [r.vectors[0, 0] for r in done] == [0, 5, 10]
