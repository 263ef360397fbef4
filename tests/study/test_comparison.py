"""What a front is worth, of networks whose answers are made up."""

import numpy as np
import pytest

from jointnas_jax.report.answer import areas_in_words, networks, sentences
from jointnas_jax.space import Candidate, Recipe
from jointnas_jax.space.arch import ArchSpec, Head, Stage, Stem
from jointnas_jax.study.comparison import Networks, gain, hypervolumes, times_fewer
from jointnas_jax.study.contender import Contender, References, over_seeds

LABELS = np.repeat(np.arange(10), 100)
ARCH = ArchSpec(8, 1, 10, Stem(8), (Stage(8, 1, expand_first=1),), Head(16, expand=1))


def contender(flops, accuracy, *, number=None, failed=False):
    """A network that is right in the first images of a share, in two trainings."""
    ranks = (np.arange(len(LABELS)) >= accuracy * len(LABELS)).astype(np.int32)
    answers = np.stack([np.where(ranks, -1, LABELS), ranks])
    vector = np.array([flops if number is None else number], np.int32)
    candidate = Candidate(ARCH, Recipe(), vector=vector, costs={"flops": flops, "params": 1})
    made = Contender("made", candidate, accuracy)
    made.test = [accuracy, None if failed else accuracy]
    made.answers = [answers, None if failed else answers]
    return made


def result_of(winners, default=(350, 0.92), scaled=(), random=()):
    """The parts of a result that the answer is made of."""
    references = References(
        contender(*default), [contender(*r) for r in random], [contender(*s) for s in scaled]
    )
    trained = Networks.of("flops", winners, references, labels=LABELS, metric="accuracy")
    entry = lambda c: {
        "source": c.source,
        "costs": c.candidate.costs,
        "test": over_seeds(c.test),
    }
    return {
        "metric": "accuracy",
        "winners": [entry(w) for w in winners],
        "references": {"default": entry(references.default)},
        "front": {
            "cost": "flops",
            "scaled_default": [entry(c) for c in references.scaled],
            "random": [entry(c) for c in references.random],
            "fewer": times_fewer(trained),
            "gain": gain(trained),
            "hypervolume": hypervolumes(trained),
        },
    }


def test_the_cheapest_winner_that_is_as_accurate_is_told():
    result = result_of([contender(400, 0.97), contender(300, 0.95), contender(100, 0.92)])
    fewer = result["front"]["fewer"]
    assert (fewer["value"], fewer["winner"]) == (3.5, 2)
    # Equal ones stay equal in every resample: the same images and seeds.
    assert (fewer["low"], fewer["high"], fewer["reached"]) == (3.5, 3.5, 1.0)
    first, second = sentences(result)
    assert first == (
        "The default's accuracy (92.0 %) for 3.5 times fewer FLOPs (3.5 to 3.5): winner 2, "
        "100 FLOPs against 350 FLOPs."
    )
    assert second.startswith("+3.0 points (")
    assert second.endswith("at the default's FLOPs or less: winner 1, 300 FLOPs against 350 FLOPs.")


def test_a_winner_whose_seed_failed_keeps_its_rank_and_does_not_count():
    winners = [contender(400, 0.97), contender(300, 0.95, failed=True), contender(100, 0.92)]
    result = result_of(winners)
    assert result["front"]["fewer"]["winner"] == 2
    assert result["front"]["gain"]["winner"] == 2
    assert result["front"]["gain"]["value"] == 0


def test_the_default_candidate_is_no_winner_over_itself():
    result = result_of([contender(350, 0.92), contender(100, 0.90)], default=(350, 0.92))
    assert result["front"]["fewer"] is None
    first, second = sentences(result)
    assert first == (
        "No other network that was found reaches the default's accuracy (92.0 %); the best winner "
        "has 92.0 %, 350 FLOPs against 350 FLOPs."
    )
    assert "\N{MINUS SIGN}2.0 points" in second


def test_what_takes_more_says_so():
    result = result_of([contender(700, 0.97)])
    first, second = sentences(result)
    assert first.startswith("The default's accuracy (92.0 %) takes 2.0 times more FLOPs: winner 0")
    assert second == "No other winner has at most the default's FLOPs."


def test_a_failed_default_and_failed_winners():
    result = result_of([contender(400, 0.97)])
    result["references"]["default"]["test"]["mean"] = None
    assert sentences(result) == ["The default candidate failed: there is nothing to compare with."]
    lost = [contender(100, 0.9, failed=True)]
    assert sentences(result_of(lost))[0].endswith("all of them failed.")


def test_areas_are_compared_in_words():
    result = result_of(
        [contender(300, 0.97), contender(100, 0.95)],
        scaled=[(100, 0.80)],
        random=[(300, 0.97), (100, 0.95)],
    )
    assert areas_in_words(result) == (
        "By the area under it, the front is ahead of the scaled default and level with random "
        "search's (within the noise)."
    )
    names = [name for name, _ in networks(result)]
    assert names == ["winner 0 (made)", "winner 1 (made)", *["made"] * 4]


def test_classes_count_alike_for_balanced_accuracy():
    winners = [contender(100, 0.5)]
    references = References(contender(350, 0.5))
    trained = Networks.of("flops", winners, references, labels=LABELS, metric="balanced_accuracy")
    assert trained.resampled is not None
    assert trained.resampled.std() == pytest.approx(0)  # a class is right in all images, or none
