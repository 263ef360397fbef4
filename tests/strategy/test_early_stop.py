import numpy as np
import pytest

from jointnas_jax.strategy.early_stop import early_stop, kendall, spearman


def test_the_first_epoch_above_the_threshold_is_chosen():
    final = np.arange(8.0)
    reversed_, nearly = final[::-1], np.array([0, 1, 2, 3, 4, 5, 7, 6.0])
    curves = np.stack([reversed_, nearly, final, nearly, final], axis=1)
    assert early_stop(curves, 0.92, "spearman").epochs == 2
    assert early_stop(curves, 0.99, "spearman").epochs == 3
    assert early_stop(curves, 0.92, "kendall").epochs == 2
    assert early_stop(curves, 0.95, "kendall").epochs == 3


def test_correlations_are_reported_for_every_epoch():
    rng = np.random.default_rng(0)
    curves = rng.random((10, 6))
    stop = early_stop(curves, 0.92, "spearman")
    expected = [spearman(curves[:, t], curves[:, -1]) for t in range(6)]
    assert stop.correlations == pytest.approx(expected)
    assert stop.correlations[-1] == pytest.approx(1.0)


@pytest.mark.parametrize(
    "curves", [np.ones((5, 4)), np.random.default_rng(0).random((2, 4)), np.zeros((1, 4))]
)
def test_where_nothing_ranks_training_stays_long(curves):
    assert early_stop(curves, 0.92, "spearman").epochs == 4


def test_rank_correlations_ignore_scale_and_are_nan_without_spread():
    a = np.array([1.0, 2, 3, 4])
    assert spearman(a, np.exp(a)) == pytest.approx(1.0)
    assert kendall(a, -a) == pytest.approx(-1.0)
    assert np.isnan(spearman(a, np.ones(4)))
    assert np.isnan(kendall(a[:1], a[:1]))
