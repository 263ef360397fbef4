"""The coarse stage of a study: trains candidates in rounds, or as lanes become free."""

import dataclasses
import math
from typing import NamedTuple

import jax
import numpy as np

from jointnas_jax.errors import StudyError
from jointnas_jax.execution.job import Job, TrainResult
from jointnas_jax.predictor.fit import PredictorState
from jointnas_jax.predictor.predictor import Fitted
from jointnas_jax.problem.problem import Problem
from jointnas_jax.strategy.early_stop import EarlyStop, early_stop
from jointnas_jax.strategy.report_card import ReportCard
from jointnas_jax.strategy.searcher import Proposals, Searcher, State
from jointnas_jax.study.trial_runner import TrialRunner, TrialSpec, TrialStream
from jointnas_jax.telemetry.progress import Progress


class Round(NamedTuple):
    """The candidates of a round, or as many in the order of asking where there are no rounds.

    Attributes:
      scores: `float32[m]`, nan where a training failed.
      predicted: `float[m]`, before any of them trained; nan in the first round.
      card: report card of the predictor after the round, or after as many results; None while every
        training failed.
    """

    scores: np.ndarray
    predicted: np.ndarray
    card: ReportCard | None


class Searched(NamedTuple):
    """What a coarse stage found.

    Attributes:
      rounds: all rounds, in order.
      stop: the early-stop decision.
      state: state of the search, with a fitted predictor; scores are `float32[T]`.
    """

    rounds: list[Round]
    stop: EarlyStop
    state: State

    @property
    def fitted(self) -> Fitted:
        """The predictor."""
        assert self.state.fitted is not None
        return self.state.fitted


class CoarseStage:
    """One run of the stage, which comes first in a study: trials are numbered as it asks."""

    def __init__(
        self,
        problem: Problem,
        searcher: Searcher,
        runner: TrialRunner,
        progress: Progress,
        *,
        key: jax.Array,
    ):
        """Asks for nothing yet; all candidates train with the key."""
        self._problem = problem
        self._searcher = searcher
        self._runner = runner
        self._progress = progress
        self._key = key
        self._search = problem.config.search
        self._epochs = problem.config.train.epochs
        self._stop: EarlyStop | None = None
        self._cards: list[ReportCard | None] = []

    def run(self, pool: np.ndarray, pretrained: PredictorState, key: jax.Array) -> Searched:
        """Trains candidates of the pool `int32[P, K]` and others; consumes the key.

        Raises:
          StudyError: every candidate failed.
        """
        width, streams = self._search.per_round, self._search.asynchronous
        wanted, rounds = self._search.rounds * width, []
        state = self._searcher.init(pool=pool, pretrained=pretrained, key=key)
        while (left := wanted - len(state.vectors)) > 0 and not (streams and self._stop):
            state, asked = self._searcher.ask(state, min(width, left))
            if not len(asked.vectors):
                break
            state, scores = self._train(state, asked)
            rounds.append(Round(scores, asked.predicted, self._cards[-1]))
        if self._stop is None:
            raise StudyError(f"every candidate failed: {'; '.join(self._runner.reasons())}")
        if streams:
            first = len(state.vectors)
            state, predicted = self._stream(state, min(wanted, len(pool)) - first)
            for i in range(0, len(predicted), width):
                scores = state.scores[first + i : first + i + width]
                rounds.append(Round(scores, predicted[i : i + width], self._cards[len(rounds)]))
        return Searched(rounds, self._stop, state)

    def _train(self, state: State, asked: Proposals) -> tuple[State, np.ndarray]:
        """Trains a round; returns the fitted state, and the scores `float32[m]` of the round."""
        number = 1 + len(self._cards)
        outcomes = self._runner.run(self._specs(asked, number))
        curves = [o.score_curve for o in outcomes if o.reason is None]
        if self._stop is None and curves:
            search, of = self._search, self._epochs
            self._stop = early_stop(np.array(curves), search.threshold, search.correlation)
            epochs = self._stop.epochs
            self._progress.say(f"early stop: later candidates train {epochs} of {of} epochs")
            self._progress.shortened(epochs, of)
        scores = np.array([self._score(outcome) for outcome in outcomes], np.float32)
        state = self._searcher.tell(state, asked.numbers, scores)
        return self._judged(state, len(scores)), scores

    def _stream(self, state: State, count: int) -> tuple[State, np.ndarray]:
        """Trains so many candidates, one more whenever a lane is free.

        Returns:
          The fitted state, and what was predicted before each training, `float32[m]`.
        """
        width = self._search.per_round
        rounds = -(-count // width)
        stream = TrialStream(self._runner, self._progress, count=count, rounds=rounds)
        # Results that come one by one count with all their 64 bits.
        state = dataclasses.replace(state, scores=state.scores.astype(np.float64))
        predicted: list[float] = []
        results = 0
        while True:
            while len(predicted) < count and stream.takes_more():
                state, asked = self._searcher.ask(state, 1)
                if not len(asked.vectors):
                    break
                predicted.append(float(asked.predicted[0]))
                (spec,) = self._specs(asked, 1 + asked.numbers[0] // width)
                stream.submit(spec)
            if (ended := stream.next_result()) is None:
                break
            number, outcome = ended
            state = self._searcher.tell(state, [number], [self._score(outcome)])
            results += 1
            if results % width == 0:
                state = self._judged(state, width)
        if rest := results % width:
            state = self._judged(state, rest)
        return _in_32_bits(state), np.array(predicted, np.float32)

    def _specs(self, asked: Proposals, round_number: int) -> list[TrialSpec]:
        full = self._epochs
        epochs = self._stop.epochs if self._stop else full
        return [
            TrialSpec(
                stage="coarse",
                job=Job(
                    self._problem.candidate(vector),
                    self._key,
                    epochs,
                    full_epochs=full,
                ),
                round=round_number,
                predicted=float(predicted),
            )
            for vector, predicted in zip(asked.vectors, asked.predicted, strict=True)
        ]

    def _score(self, outcome: TrainResult) -> float:
        """After the rule all trials count at the same epoch, those of round 1 as well."""
        if outcome.reason is not None or self._stop is None:
            return math.nan
        return outcome.score_curve[self._stop.epochs - 1]

    def _judged(self, state: State, count: int) -> State:
        """Fits the predictor to `count` results more, and says what it is worth."""
        state = self._searcher.fit(state)
        text, best, card = "no candidate trained", None, None
        if state.fitted is not None and self._stop:
            number = int(np.nanargmax(state.scores))  # of its trial, too: the stage is the first
            accuracy = self._runner.stored[number].accuracies[self._stop.epochs - 1]
            best = float(state.scores[number]), accuracy
            text = f"best so far {accuracy:.2%}"
            card = self._searcher.report_card(_in_32_bits(state))
            text += f"\n    {describe(card)}"
        self._cards.append(card)
        number = len(self._cards)
        self._progress.say(f"round {number}: {count} candidates, {text}")
        self._progress.round_ends(number, best, card)
        return state


def describe(card: ReportCard) -> str:
    """A report card in a line or two."""
    if math.isnan(card.kendall):
        return card.verdict()
    noise = "" if math.isnan(card.noise) else f", noise of a score {100 * card.noise:.2f} points"
    return (
        f"{card.verdict()} (cross-validated: Kendall {card.kendall:.2f}, Spearman "
        f"{card.spearman:.2f}, {card.coverage:.0%} in the 90% interval, best of the top three "
        f"{100 * card.regret:.2f} points behind{noise})"
    )


def _in_32_bits(state: State) -> State:
    """The state with scores as reports have them, `float32[T]`."""
    return dataclasses.replace(state, scores=state.scores.astype(np.float32))
