"""Trials of earlier studies, on this space or one that shares knobs, as an expectation here.

A process learns each earlier study by itself, from the knobs that both have. What it expects of a
candidate is one more input of the process of this search, with which scores are expected to rise.
How far they do is learnt from the trials here, so that a study with which they do not rise washes
out; its trials are no trials of this search, and nothing but expectations.

Shapes: N trials, K knobs of this space, E epochs, C candidates.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jointnas_jax.config import PredictorConfig
from jointnas_jax.errors import ConfigError, SpaceError, shown
from jointnas_jax.predictor.predictor import CostFeatures, Expectation, Predictor
from jointnas_jax.space.features import FeatureTable
from jointnas_jax.space.knobs import Knob, Value
from jointnas_jax.space.vectors import VectorSpace
from jointnas_jax.strategy.constraints import SAMPLE
from jointnas_jax.strategy.rungs import at_the_end

# Trials of one study that are learnt from, at most.
_MOST = 512
# A knob of which fewer trials have one of the values here is not shared.
_SHARED = 0.5


@dataclasses.dataclass(frozen=True, eq=False)
class Foreign:
    """The trials of one earlier study, mapped to this space.

    Attributes:
      name: of the study.
      space: this space.
      vectors: `int32[N, K]`, 0 where a knob is not shared.
      shared: `bool[K]`, knobs that both spaces have.
      scores: `float64[N]`, of the ends of trainings, measured or expected.
      variances: `float64[N]`, around the measured ones, see `rungs.py`.
      dropped: names of knobs there that are not here, and number of trials with other values.
    """

    name: str
    space: VectorSpace
    vectors: np.ndarray
    shared: np.ndarray
    scores: np.ndarray
    variances: np.ndarray
    dropped: tuple[tuple[str, ...], int]

    @classmethod
    def of(
        cls,
        space: VectorSpace,
        name: str,
        knobs: Sequence[Mapping[str, Value]],
        scores: Sequence[Sequence[float]],
    ) -> "Foreign":
        """Maps trials by names and values of knobs.

        Args:
          space: this space.
          name: of the study, for people.
          knobs: N mappings from name to value.
          scores: N curves, each of the scores after 1 to E epochs.

        Raises:
          ConfigError: no knob is shared, or no trial has values of this space.
        """
        indices = np.array([[_index(k, one) for k in space.knobs] for one in knobs], np.int32)
        indices = indices.reshape(len(knobs), len(space.knobs))
        shared = (indices >= 0).mean(0) >= _SHARED if len(knobs) else np.zeros(len(space.knobs))
        shared = shared.astype(bool)
        kept = (indices[:, shared] >= 0).all(1) & shared.any()
        if not kept.any():
            raise ConfigError(
                f"`config.search.trials_from`: none of the {len(knobs)} trials of `{name}` can be "
                f"mapped to this space by names and values of the knobs, here "
                f"{shown([knob.name for knob in space.knobs])}, there "
                f"{shown(sorted({n for one in knobs for n in one}))}; leave it out"
            )
        curves = [scores[i] for i in np.flatnonzero(kept).tolist()]
        marks, variances = at_the_end(_by_length(curves))
        # Evenly of all, the best included, where there are too many.
        order = np.argsort(-marks, kind="stable")
        chosen = np.sort(order[np.linspace(0, len(order) - 1, min(len(order), _MOST)).astype(int)])
        here = {knob.name for knob, both in zip(space.knobs, shared, strict=True) if both}
        others = sorted({n for one in knobs for n in one} - here)
        return cls(
            name=name,
            space=space,
            vectors=np.where(shared, indices, 0)[kept][chosen].astype(np.int32),
            shared=shared,
            scores=marks[chosen],
            variances=variances[chosen],
            dropped=(tuple(others), int((~kept).sum())),
        )

    def in_words(self) -> str:
        """What is learnt from, and what is not, in one line."""
        missing = [k.name for k, s in zip(self.space.knobs, self.shared, strict=True) if not s]
        others, trials = self.dropped
        parts = [
            f"{len(self.scores)} trials of `{self.name}` on {int(self.shared.sum())} of "
            f"{len(self.shared)} knobs"
        ]
        parts += [f"not there: {', '.join(missing)}"] * bool(missing)
        parts += [f"not here: {', '.join(others)}"] * bool(others)
        parts += [f"{trials} trials with other values left out"] * bool(trials)
        return "; ".join(parts)

    def expectation(
        self, table: FeatureTable, settings: PredictorConfig, costs: CostFeatures | None
    ) -> Expectation:
        """What the study lets expect of candidates, of mean 0 and deviation up to 1.

        Args:
          table: features of the space.
          settings: of the predictor.
          costs: standardised logarithms of costs; of knobs that are not shared with the first
            value.
        """
        predictor = Predictor(
            table,
            dataclasses.replace(settings, trend=False),
            capacity=len(self.scores),
            costs=costs,
        )
        fitted = predictor.fit(
            None,
            self.vectors,
            self.scores,
            key=jax.random.key(0),
            networks=False,
            variances=self.variances,
        )
        score, shared = predictor.score_fn(fitted), self.shared.astype(np.int32)
        expected = jax.jit(lambda vectors: score(vectors * shared))
        sample = np.asarray(expected(self.space.sample(np.random.default_rng(0), SAMPLE)))
        # What was not learnt there is not to be expected here: a small deviation stays small.
        mean, deviation = sample.mean(), max(float(sample.std()), 1.0)
        return lambda vectors: (expected(vectors) - mean) / deviation


def _index(knob: Knob, values: Mapping[str, Any]) -> int:
    """The position of a trial's value of a knob; -1: it has none, or another one."""
    try:
        return knob.index(values[knob.name])
    except (KeyError, SpaceError):
        return -1


def _by_length(curves: Sequence[Sequence[float]]) -> np.ndarray:
    """Scores after as many epochs as any of N candidates trained in all, `float64[N, lengths]`."""
    lengths = sorted({len(curve) for curve in curves})
    at = lambda curve, epochs: curve[epochs - 1] if epochs <= len(curve) else np.nan
    return np.array([[at(curve, epochs) for epochs in lengths] for curve in curves], np.float64)
