import matplotlib.image
import pytest

from jointnas_jax.report.figures import draw_figures


def entry(source, flops, mean):
    return dict(
        source=source,
        costs=dict(flops=flops),
        validation=dict(mean=mean, std=0.01, seeds=[mean] * 3),
    )


def trial(stage, round_, flops, score, predicted=None):
    curve = None if score is None else [score / 3, score / 2, score]
    return dict(
        stage=stage,
        round=round_,
        costs=dict(flops=flops),
        score=score,
        predicted=predicted,
        accuracies=curve or [],
    )


@pytest.mark.parametrize("ranked", [True, False])
def test_every_figure_is_a_picture(tmp_path, ranked):
    """Also where a trial failed, a reference is missing and nothing could be ranked."""
    correlation = 0.5 if ranked else None
    result = dict(
        name="study",
        winners=[entry("fine stage", 2e6, 0.95)],
        references=dict(default=entry("default candidate", 1e6, 0.9)),
        budget=dict(flops=3e6) if ranked else {},
        early_stop=dict(
            epochs=2, of=3, threshold=0.92, correlation="spearman", by_epoch=[None, 0.95, 1.0]
        ),
        rounds=[dict(round=1, spearman=None), dict(round=2, spearman=correlation)],
    )
    trials = [
        trial("coarse", 1, 1e6, 0.8),
        trial("coarse", 1, 2e6, None),
        trial("coarse", 2, 2e6, 0.9, 0.85),
        trial("random", None, 3e6, 0.7),
    ]
    paths = draw_figures(tmp_path, result, trials)
    assert set(paths) == set((tmp_path / "figures").iterdir())
    assert [p.name for p in paths] == ["accuracy_flops.png", "predictor.png", "learning_curves.png"]
    for path in paths:
        height, width, _ = matplotlib.image.imread(path).shape
        assert width > height > 500
