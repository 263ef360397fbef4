"""A study as its workdir tells it, finished or not: what the report is made of."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jointnas_jax.config import Config
from jointnas_jax.space import ArchSpec, Candidate, JointSpace, Knob
from jointnas_jax.strategy.early_stop import early_stop, kendall, spearman

Row = Mapping[str, Any]  # a trial, as a dict of `study.store.Trial`


class RoundFacts(NamedTuple):
    """A round of the coarse stage.

    Attributes:
      number: from 1.
      trained: trainings stored.
      failed: how many of them failed.
      best: score in it; None where all failed.
      ranked: candidates with a prediction and a score.
      kendall, spearman: between the two, nan where they cannot be computed.
      verdict: on the predictor after it; "" where it is not known.
    """

    number: int
    trained: int
    failed: int
    best: float | None
    ranked: int
    kendall: float
    spearman: float
    verdict: str


@dataclasses.dataclass(frozen=True)
class Record:
    """A study.

    Attributes:
      workdir: its folder.
      config: checked.
      trials: all that are stored, in the order of their numbers.
      result: content of `result.json`; None while the study is unfinished.
      budgets: content of `budgets.json`, a later search for other budgets; None where there is
        none.
    """

    workdir: Path
    config: Config
    trials: Sequence[Row]
    result: Row | None = None
    budgets: Row | None = None

    def of_stage(self, stage: str) -> list[Row]:
        """The trials of a stage."""
        return [trial for trial in self.trials if trial["stage"] == stage]

    @functools.cached_property
    def failed(self) -> list[Row]:
        """The trials that failed."""
        return [trial for trial in self.trials if trial["score"] is None]

    @functools.cached_property
    def first_curves(self) -> np.ndarray:
        """Accuracies of the first round's candidates: `float64[m, epochs]`."""
        rows = [t for t in self.of_stage("coarse") if t["round"] == 1 and t["score"] is not None]
        return np.array([t["accuracies"] for t in rows] or np.zeros((0, 0)), float)

    @functools.cached_property
    def stop(self) -> Row | None:
        """What the early-stop rule decided, as in `result.json`; None before it has."""
        if self.result:
            return self.result["early_stop"]
        search = self.config.search
        begun = sum(t["round"] == 1 for t in self.of_stage("coarse"))
        if begun < search.per_round or not len(self.first_curves):
            return None
        found = early_stop(self.first_curves, search.threshold, search.correlation)
        return {
            "epochs": found.epochs,
            "of": self.config.train.epochs,
            "threshold": search.threshold,
            "correlation": search.correlation,
            "by_epoch": [c if math.isfinite(c) else None for c in found.correlations],
        }

    @functools.cached_property
    def epochs(self) -> int:
        """Epochs after which candidates are compared: the same for all."""
        return self.stop["epochs"] if self.stop else self.config.train.epochs

    def score(self, trial: Row) -> float | None:
        """Accuracy of a candidate after `epochs`; None where the trial failed."""
        if trial["score"] is None:
            return None
        curve = trial["accuracies"]
        return curve[min(self.epochs, len(curve)) - 1]

    @functools.cached_property
    def _scored(self) -> dict[str, list[tuple[Row, float]]]:
        found: dict[str, list[tuple[Row, float]]] = {}
        for trial in self.trials:
            if (score := self.score(trial)) is not None:
                found.setdefault(trial["stage"], []).append((trial, score))
        return found

    def scored(self, *stages: str) -> list[tuple[Row, float]]:
        """The trials of some stages that did not fail, with their scores."""
        return [pair for stage in stages for pair in self._scored.get(stage, [])]

    @functools.cached_property
    def best(self) -> tuple[Row, float] | None:
        """The best trial of the coarse stage, and its score."""
        return max(self.scored("coarse"), key=lambda pair: pair[1], default=None)

    @functools.cached_property
    def rounds(self) -> list[RoundFacts]:
        """All rounds that have begun."""
        told = {r["round"]: r["report_card"] for r in self.result["rounds"]} if self.result else {}
        rows: dict[int, list[Row]] = {}
        for trial in self.of_stage("coarse"):
            rows.setdefault(trial["round"], []).append(trial)
        return [
            _facts(number, rows[number], list(map(self.score, rows[number])), told.get(number))
            for number in sorted(rows)
        ]

    # -- candidates --------------------------------------------------------------------------------

    @functools.cached_property
    def space(self) -> JointSpace:
        """The whole space of the config; only a finished study knows of channels and classes."""
        return JointSpace.from_config(self.config.space, 0, 0)

    @functools.cached_property
    def knobs(self) -> tuple[Knob, ...]:
        """The knobs that the study searched, architecture first."""
        searched = self.trials[0]["knobs"] if self.trials else {}
        return tuple(knob for knob in self.space.knobs if knob.name in searched)

    def of_recipe(self, knob: str) -> bool:
        """Whether a knob is of the recipe."""
        return any(knob == other.name for other in self.space.recipe_knobs)

    def vectors(self, rows: Sequence[Row]) -> np.ndarray:
        """Index vectors of trials over `knobs`: `int64[N, K]`."""
        found = [[knob.index(row["knobs"][knob.name]) for knob in self.knobs] for row in rows]
        return np.array(found, int).reshape(len(rows), len(self.knobs))

    def candidate(self, trial: Row) -> Candidate:
        """That of a trial; what the mode fixes is the default candidate's."""
        values = {**self.config.default, **trial["knobs"]}
        return self.space.decode(self.space.vector_from_values(values))

    @functools.cached_property
    def found(self) -> Candidate | None:
        """The best candidate so far; None before one has a score."""
        if self.result:
            return Candidate.from_dict(self.result["winners"][0]["candidate"])
        return self.candidate(self.best[0]) if self.best else None

    @functools.cached_property
    def default(self) -> Candidate:
        """The default candidate."""
        if self.result:
            return Candidate.from_dict(self.result["references"]["default"]["candidate"])
        return self.space.decode(self.space.vector_from_values(self.config.default))

    @functools.cached_property
    def archs(self) -> list[tuple[str, ArchSpec]]:
        """The networks to draw by name: the found one, and the default one if that differs.

        An unfinished study does not tell which network a file holds that fixes it.
        """
        if self.found is None or (self.config.arch_file and not self.result):
            return []
        same = self.found.arch == self.default.arch
        return [("found", self.found.arch)] + [("default", self.default.arch)] * (not same)


def _facts(
    number: int, rows: Sequence[Row], scores: Sequence[float | None], card: Row | None
) -> RoundFacts:
    sound = [score for score in scores if score is not None]
    pairs = [
        (row["predicted"], score)
        for row, score in zip(rows, scores, strict=True)
        if row["predicted"] is not None and score is not None
    ]
    predicted, measured = np.array(pairs, float).reshape(-1, 2).T
    return RoundFacts(
        *(number, len(rows), len(rows) - len(sound), max(sound, default=None), len(pairs)),
        *(kendall(predicted, measured), spearman(predicted, measured)),
        card["verdict"] if card else "",
    )
