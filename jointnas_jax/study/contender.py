"""A candidate that is trained with all seeds, and what was measured."""

import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from jointnas_jax.space import Candidate


@dataclasses.dataclass
class Contender:
    """A finalist or a reference.

    Attributes:
      source: the stage or rule that proposed it.
      candidate: the candidate, with vector and costs.
      predicted: predicted score.
      validation: accuracy per seed without the validation images in training; None: failed; empty
        if not validated.
      scores: `config.search.score` of the same trainings, by which winners are chosen.
      test: accuracy per seed after training on the whole split; empty if not retrained.
      answers: to the test images by the same trainings, `int32[2, N]` each, see `TrainResult`; None
        where they failed or are not known.
    """

    source: str
    candidate: Candidate
    predicted: float
    validation: list[float | None] = dataclasses.field(default_factory=list)
    scores: list[float | None] = dataclasses.field(default_factory=list)
    test: list[float | None] = dataclasses.field(default_factory=list)
    answers: list[np.ndarray | None] = dataclasses.field(default_factory=list)

    @property
    def identity(self) -> bytes:
        """The same for the same candidate, wherever it comes from."""
        assert self.candidate.vector is not None
        return self.candidate.vector.tobytes()

    @property
    def mean_score(self) -> float:
        """Mean over seeds; -inf where a seed failed, so that it can never win."""
        mean = over_seeds(self.scores)["mean"]
        return -math.inf if mean is None else mean

    def cost(self, name: str) -> int:
        """One of the candidate's costs."""
        assert self.candidate.costs is not None
        return self.candidate.costs[name]


@dataclasses.dataclass
class References:
    """What a search has to beat.

    Attributes:
      default: the default candidate.
      random: the best of random search; of a front, members of its front. Empty without it.
      scaled: of a front, the default candidate scaled to the costs of the winners.
    """

    default: Contender
    random: list[Contender] = dataclasses.field(default_factory=list)
    scaled: list[Contender] = dataclasses.field(default_factory=list)

    def named(self) -> dict[str, Contender]:
        """All of them, by the names of their folders of weights."""
        names = {"default": self.default}
        for kind, contenders in (("random", self.random), ("scaled", self.scaled)):
            names |= {f"{kind}{rank}": c for rank, c in enumerate(contenders)}
        return names


def over_seeds(accuracies: Sequence[float | None]) -> dict[str, Any]:
    """Mean and deviation over seeds; none where a seed failed, for the rest would flatter."""
    sound = [a for a in accuracies if a is not None]
    if len(sound) < len(accuracies):
        sound = []
    return {
        "seeds": list(accuracies),
        "mean": statistics.fmean(sound) if sound else None,
        "std": statistics.stdev(sound) if len(sound) > 1 else None,
    }
