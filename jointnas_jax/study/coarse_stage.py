"""The coarse stage of a study: trains candidates in rounds, or as actors become free."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from jointnas_jax.errors import StudyError
from jointnas_jax.execution.job import Job, TrainResult
from jointnas_jax.predictor.fit import PredictorState
from jointnas_jax.predictor.predictor import Fitted
from jointnas_jax.problem.problem import Problem
from jointnas_jax.strategy.coarse import Round, finished, finished_round
from jointnas_jax.strategy.early_stop import EarlyStop, early_stop
from jointnas_jax.strategy.report_card import ReportCard
from jointnas_jax.strategy.searcher import Searcher
from jointnas_jax.study.result import describe
from jointnas_jax.study.trial_runner import Batch, Trials
from jointnas_jax.telemetry.progress import Progress


class Searched(NamedTuple):
    """What a coarse stage found.

    Attributes:
      rounds: in order; without rounds, as many candidates each in the order of asking.
      cards: the predictor's report card after each, or after as many results; None while every
        trial failed.
      stop: the early-stop decision.
      fitted: the predictor.
    """

    rounds: list[Round]
    cards: list[ReportCard | None]
    stop: EarlyStop
    fitted: Fitted


class CoarseStage:
    """One run of the stage."""

    def __init__(
        self,
        problem: Problem,
        searcher: Searcher,
        trials: Trials,
        progress: Progress,
        key: jax.Array,
        key_of: Callable[[int], jax.Array],
    ):
        """Has trained nothing yet.

        Args:
          problem: of the study.
          searcher: of the study.
          trials: of the study, none so far.
          progress: told of rounds.
          key: of the search.
          key_of: the key of a trial by its number.
        """
        self._problem, self._searcher, self._trials = problem, searcher, trials
        self._progress, self._key, self._key_of = progress, key, key_of
        self._search, self._epochs = problem.config.search, problem.config.train.epochs
        self._stop: EarlyStop | None = None
        self._rounds: list[Round] = []
        self._cards: list[ReportCard | None] = []

    def run(self, pool: np.ndarray, pretrained: PredictorState) -> Searched:
        """Trains candidates of the pool `int32[P, K]` and others.

        Raises:
          StudyError: every candidate failed.
        """
        fitted = None
        for done, fitted in self._searcher.rounds(pool, pretrained, self._evaluate, self._key):
            self._rounds.append(done)
            self._judge(pretrained, fitted, self._rounds, len(done.scores))
            if self._search.asynchronous and self._stop:
                fitted = self._ask(pool, pretrained)
                break
        if self._stop is None:
            raise StudyError(f"every candidate failed: {'; '.join(self._trials.reasons())}")
        return Searched(self._rounds, self._cards, self._stop, fitted)

    def _evaluate(self, number: int, vectors: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """Trains a round."""
        first = self._trials.count
        jobs = [self._job(vector, first + i) for i, vector in enumerate(vectors)]
        batch = Batch("coarse", vectors, jobs, round=number, predicted=predicted)
        outcomes = self._trials.run(batch)
        curves = [o.accuracies for o in outcomes if o.reason is None]
        if self._stop is None and curves:
            self._decide(np.array(curves))
        return np.array([self._score(outcome) for outcome in outcomes], np.float32)

    def _decide(self, curves: np.ndarray) -> None:
        """How long later candidates train."""
        self._stop = early_stop(curves, self._search.threshold, self._search.correlation)
        epochs, of = self._stop.epochs, self._epochs
        self._progress.say(f"early stop: later candidates train {epochs} of {of} epochs")
        self._progress.shortened(epochs, of)

    def _score(self, outcome: TrainResult) -> float:
        """After the rule all trials count at the same epoch, those of round 1 as well."""
        return outcome.accuracies[self._stop.epochs - 1] if outcome.reason is None else np.nan

    def _job(self, vector: np.ndarray, number: int) -> Job:
        epochs = self._stop.epochs if self._stop else self._epochs
        return Job(self._problem.space.decode(vector), self._key_of(number), epochs)

    def _ask(self, pool: np.ndarray, pretrained: PredictorState) -> Fitted:
        """Trains one candidate after the other; returns the predictor in the end."""
        asking = self._searcher.asking(pool, pretrained, self._rounds, self._key)
        before, first, width = list(self._rounds), self._trials.count, self._search.per_round
        left = min(self._search.rounds * width, len(pool)) - first
        vectors: list[np.ndarray] = []
        predicted: list[float] = []
        scores: dict[int, float] = {}

        def ask() -> Batch | None:
            if len(vectors) == left or (found := asking.ask()) is None:
                return None
            vector, expected = found
            number = first + len(vectors)
            self._progress.batch("coarse", 1 + number // width)
            vectors.append(vector)
            predicted.append(expected)
            jobs, own = [self._job(vector, number)], np.array([expected])
            return Batch("coarse", vector[None], jobs, round=1 + number // width, predicted=own)

        def tell(position: int, outcome: TrainResult) -> None:
            scores[position] = self._score(outcome)
            asking.tell(position, scores[position])
            if len(scores) % width == 0:
                judge(width)

        def judge(count: int) -> None:
            told = [*before, some(0, sorted(scores))]
            self._judge(pretrained, asking.refit(), told, count)

        def some(number: int, positions: Sequence[int]) -> Round:
            chosen = np.array([vectors[i] for i in positions])
            found = np.array([scores[i] for i in positions], np.float32)
            return finished_round(
                number, chosen, found, np.array([predicted[i] for i in positions], np.float32)
            )

        self._trials.stream("coarse", ask, tell, left, -(-left // width))
        if rest := len(scores) % width:
            judge(rest)
        for i, start in enumerate(range(0, len(vectors), width), len(before) + 1):
            self._rounds.append(some(i, range(start, min(start + width, len(vectors)))))
        return asking.refit()

    def _judge(
        self,
        pretrained: PredictorState,
        fitted: Fitted | None,
        rounds: Sequence[Round],
        count: int,
    ) -> None:
        """Tells what is known after so many candidates more."""
        vectors, scores = completed_trials(rounds)
        best, card = "no candidate trained", None
        if fitted is not None:
            best = f"best so far {scores.max():.2%}"
            card = self._searcher.report_card(pretrained, fitted, vectors, scores, self._key)
        self._cards.append(card)
        number, text = len(self._cards), f"\n    {describe(card)}" if card else ""
        self._progress.say(f"round {number}: {count} candidates, {best}{text}")
        self._progress.round_ends(number, max(scores, default=None), card)


def completed_trials(rounds: Sequence[Round]) -> tuple[np.ndarray, np.ndarray]:
    """Vectors and scores of all trials that did not fail."""
    vectors = np.concatenate([r.vectors for r in rounds])
    return finished(vectors, np.concatenate([r.scores for r in rounds]))
