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
from jointnas_jax.strategy.searcher import Proposals, Searcher
from jointnas_jax.strategy.state import State
from jointnas_jax.study.trial_runner import TrialRunner, TrialSpec, TrialStream
from jointnas_jax.telemetry.progress import Progress
from jointnas_jax.train.paused import Paused


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
      trainings: how many whole ones it took; with the paper's rule a shorter one counts as one.
    """

    rounds: list[Round]
    stop: EarlyStop
    state: State
    trainings: int

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
        self._rungs = problem.config.rung_epochs
        self._spent = 0  # epochs
        self._trial_of: dict[int, int] = {}  # candidate -> its latest trial
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
        while (left := self._left(wanted, state)) > 0 and not (streams and self._stop):
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
        trainings = len(state.vectors)
        if self._by_rungs:
            trainings = math.ceil(self._spent / self._epochs)
        return Searched(rounds, self._stop, state, trainings)

    @property
    def _by_rungs(self) -> bool:
        return len(self._rungs) > 1

    def _left(self, wanted: int, state: State) -> int:
        """How many candidates can still train; at rungs one that goes on counts, too."""
        if not self._by_rungs:
            return wanted - len(state.vectors)
        shortest = int(np.diff([0, *self._rungs]).min())
        return (wanted * self._epochs - self._spent) // shortest

    def _train(self, state: State, asked: Proposals) -> tuple[State, np.ndarray]:
        """Trains a round; returns the fitted state, and the scores `float32[m]` of the round."""
        number, first = 1 + len(self._cards), self._runner.count
        specs = self._specs(asked, number)
        outcomes = self._runner.run(specs)
        self._spent += sum(spec.job.epochs - spec.job.first_epoch for spec in specs)
        self._trial_of |= {n: first + i for i, n in enumerate(asked.numbers)}
        curves = [o.score_curve for o in outcomes if o.reason is None]
        if self._stop is None and curves:
            self._stop = self._decide(np.array(curves))
        scores = np.array([self._score(outcome) for outcome in outcomes], np.float32)
        state = self._searcher.tell(state, asked.numbers, scores)
        return self._judged(state, len(scores)), scores

    def _decide(self, curves: np.ndarray) -> EarlyStop:
        """How long later candidates train, after the `float[m, epochs]` of the first round."""
        search, of = self._search, self._epochs
        if self._by_rungs:
            return EarlyStop(of, ())
        stop = early_stop(curves, self._problem.config.stop_threshold, search.correlation)
        if search.stopping == "none":
            return stop
        self._progress.say(f"early stop: later candidates train {stop.epochs} of {of} epochs")
        self._progress.shortened(stop.epochs, of)
        return stop

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
            self._trial_of[number] = number
            state = self._searcher.tell(state, [number], [self._score(outcome)])
            results += 1
            if results % width == 0:
                state = self._judged(state, width)
        if rest := results % width:
            state = self._judged(state, rest)
        return _in_32_bits(state), np.array(predicted, np.float32)

    def _specs(self, asked: Proposals, round_number: int) -> list[TrialSpec]:
        return [
            TrialSpec(
                stage="coarse",
                job=self._job(vector, rung),
                round=round_number,
                predicted=float(predicted),
                resumed=self._trial_of[number] if rung else None,
            )
            for vector, predicted, number, rung in zip(
                asked.vectors, asked.predicted, asked.numbers, asked.rungs, strict=True
            )
        ]

    def _job(self, vector: np.ndarray, rung: int) -> Job:
        """The training of a candidate up to a rung, from the one before."""
        epochs = self._rungs[rung]
        if self._stop and not self._by_rungs:
            epochs = self._stop.epochs
        return Job(
            self._problem.candidate(vector),
            self._key,
            epochs,
            full_epochs=self._epochs,
            resumed=Paused(self._rungs[rung - 1]) if rung else None,
            pauses=epochs < self._rungs[-1] and self._by_rungs,
        )

    def _score(self, outcome: TrainResult) -> float:
        """After the rule all trials count at the same epoch, those of round 1 as well."""
        if outcome.reason is not None or self._stop is None:
            return math.nan
        if self._by_rungs:
            return outcome.score_curve[-1]
        return outcome.score_curve[self._stop.epochs - 1]

    def _judged(self, state: State, count: int) -> State:
        """Fits the predictor to `count` results more, and says what it is worth."""
        state = self._searcher.fit(state)
        text, best, card = "no candidate trained", None, None
        if state.fitted is not None and self._stop:
            number = int(np.nanargmax(state.scores))
            accuracies = self._runner.stored[self._trial_of[number]].accuracies
            accuracy = accuracies[: self._stop.epochs][-1]
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
