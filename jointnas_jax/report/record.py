"""A study as stored in its workdir, finished or not: the input of the report."""

import collections
import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jointnas_jax.config import Config
from jointnas_jax.report.words import METRICS
from jointnas_jax.space import ArchSpec, Candidate, JointSpace, Knob
from jointnas_jax.strategy.early_stop import early_stop, kendall, spearman

Row = Mapping[str, Any]  # a trial, as a dict of `storage.trial_store.Trial`
# Status of a trial that stopped at a rung, see there.
_PRUNED = "PRUNED"


class RoundSummary(NamedTuple):
    """A round of the coarse stage.

    Attributes:
      number: Number of the round, from 1.
      trained: Stored trainings.
      failed: Failed ones among them.
      best: Best score of the round; None where all failed.
      ranked: Candidates with a prediction and a score.
      kendall, spearman: Rank correlations between the two, nan where undefined.
      verdict: Verdict on the predictor after the round, "" before there is one.
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
class StudyRecord:
    """A study.

    Attributes:
      workdir: Folder of the study.
      config: Its config, checked.
      trials: All stored trials, in the order of their numbers.
      result: Content of `result.json`; None while the study is unfinished.
      budgets: Content of `budgets.json`, a later search for other budgets, if any.
      data: What the dataset holds, see `data/summary.py`; None in studies of earlier versions.
      contact_sheet: Some of its images, a PNG file.
      url: URL of the workdir in a bucket; "" where it is on this machine.
    """

    workdir: Path
    config: Config
    trials: Sequence[Row]
    result: Row | None = None
    budgets: Row | None = None
    data: Row | None = None
    contact_sheet: bytes | None = None
    url: str = ""

    def of_stage(self, stage: str) -> list[Row]:
        """The trials of a stage."""
        return [trial for trial in self.trials if trial["stage"] == stage]

    def candidates(self, stage: str) -> list[Row]:
        """The trials of a stage, of a candidate that went on after a rung the last one."""
        before = {trial.get("resumed") for trial in self.trials}
        return [trial for trial in self.of_stage(stage) if trial["number"] not in before]

    @functools.cached_property
    def failed(self) -> list[Row]:
        """The trials that failed."""
        return [trial for trial in self.trials if trial["score"] is None]

    @functools.cached_property
    def first_curves(self) -> np.ndarray:
        """Scores of the first round's candidates: `float64[m, epochs]`."""
        rows = [t for t in self.of_stage("coarse") if t["round"] == 1 and t["score"] is not None]
        return np.array([_curve(t) for t in rows] or np.zeros((0, 0)), float)

    @functools.cached_property
    def curves(self) -> list[np.ndarray]:
        """Scores of all candidates of the coarse stage by epoch, those that failed left out."""
        rows = [t for t in self.candidates("coarse") if t["score"] is not None]
        return [np.array(_curve(t), float) for t in rows]

    @functools.cached_property
    def stop(self) -> Row | None:
        """Decision of the early-stop rule, as in `result.json`; None before there is one."""
        if self.result:
            return self.result["early_stop"]
        search = self.config.search
        begun = sum(t["round"] == 1 for t in self.of_stage("coarse"))
        if begun < search.per_round or not len(self.first_curves):
            return None
        if search.stopping == "curve":
            return None
        threshold = self.config.stop_threshold
        stop = early_stop(self.first_curves, threshold, search.correlation)
        return {
            "epochs": stop.epochs,
            "of": self.config.train.epochs,
            "threshold": threshold,
            "correlation": search.correlation,
            "by_epoch": [c if math.isfinite(c) else None for c in stop.correlations],
        }

    @functools.cached_property
    def epochs(self) -> int:
        """Epochs after which all candidates are compared."""
        return self.stop["epochs"] if self.stop else self.config.train.epochs

    def score(self, trial: Row) -> float | None:
        """Score of a candidate after `epochs`; None where the trial failed, or stopped before."""
        if trial["score"] is None or trial["status"] == _PRUNED:
            return None
        curve = _curve(trial)
        return curve[min(self.epochs, len(curve)) - 1]

    def scored(self, *stages: str) -> list[tuple[Row, float]]:
        """The trials of some stages that reached the end, with their scores."""
        scores = ((t, self.score(t)) for stage in stages for t in self.of_stage(stage))
        return [(trial, score) for trial, score in scores if score is not None]

    @property
    def score_label(self) -> str:
        """What scores are, for people."""
        names = {"brier": "score (1 - Brier / 2)", "log_loss": "score (exp of -log loss)"}
        return names.get(self.config.search.score, f"validation {self.metric}")

    @property
    def metric(self) -> str:
        """What results are told in, for people."""
        return METRICS[self.config.search.metric]

    @functools.cached_property
    def winners_by_class(self) -> list[tuple[Row, list[str]]]:
        """Winners of which each class was measured, with the names of the classes."""
        if not self.result:
            return []
        winners = [winner for winner in self.result["winners"] if "classes" in winner]
        return [(winner, self.result["dataset"]["labels"]) for winner in winners]

    @functools.cached_property
    def best(self) -> tuple[Row, float] | None:
        """The best trial of the coarse stage, and its score."""
        return max(self.scored("coarse"), key=lambda pair: pair[1], default=None)

    @functools.cached_property
    def rounds(self) -> list[RoundSummary]:
        """All rounds that have begun."""
        cards = {r["round"]: r["report_card"] for r in self.result["rounds"]} if self.result else {}
        rounds: dict[int, list[Row]] = collections.defaultdict(list)
        for trial in self.of_stage("coarse"):
            rounds[trial["round"]].append(trial)
        summaries = []
        for number, trials in sorted(rounds.items()):
            scored = [(t, score) for t in trials if (score := self.score(t)) is not None]
            pairs = [(t["predicted"], score) for t, score in scored if t["predicted"] is not None]
            predicted, measured = np.array(pairs, float).reshape(-1, 2).T
            card = cards.get(number)
            summaries.append(
                RoundSummary(
                    number=number,
                    trained=len(trials),
                    failed=sum(trial["score"] is None for trial in trials),
                    best=max((score for _, score in scored), default=None),
                    ranked=len(pairs),
                    kendall=kendall(predicted, measured),
                    spearman=spearman(predicted, measured),
                    verdict=card["verdict"] if card else "",
                )
            )
        return summaries

    # -- candidates --------------------------------------------------------------------------------

    @functools.cached_property
    def space(self) -> JointSpace:
        """The whole space of the config; channels and classes of the dataset are not at hand."""
        return JointSpace.from_config(self.config.space, image_channels=1, num_classes=1)

    @functools.cached_property
    def knobs(self) -> tuple[Knob, ...]:
        """The knobs that the study searched, architecture first."""
        searched = self.trials[0]["knobs"] if self.trials else {}
        return tuple(knob for knob in self.space.knobs if knob.name in searched)

    def of_recipe(self, knob: str) -> bool:
        """Whether a knob belongs to the recipe."""
        return any(knob == other.name for other in self.space.recipe_knobs)

    def vectors(self, rows: Sequence[Row]) -> np.ndarray:
        """Index vectors of trials over `knobs`: `int64[N, K]`."""
        indices = [[knob.index(row["knobs"][knob.name]) for knob in self.knobs] for row in rows]
        return np.array(indices, int).reshape(len(rows), len(self.knobs))

    @functools.cached_property
    def leader(self) -> Candidate | None:
        """The winner, or the best candidate so far; None before one has a score."""
        if self.result:
            return Candidate.from_dict(self.result["winners"][0]["candidate"])
        if self.best is None:
            return None
        # Knobs that the mode fixes are the default candidate's.
        values = {**self.config.default, **self.best[0]["knobs"]}
        return self.space.decode(self.space.vector_from_values(values))

    @functools.cached_property
    def default(self) -> Candidate:
        """The default candidate."""
        if self.result:
            return Candidate.from_dict(self.result["references"]["default"]["candidate"])
        return self.space.decode(self.space.vector_from_values(self.config.default))

    @functools.cached_property
    def archs(self) -> list[tuple[str, ArchSpec]]:
        """The networks to draw by name: the leader's, and the default one if that differs.

        An unfinished study has no copy of a network that `arch_file` fixes.
        """
        if self.leader is None or (self.config.arch_file and not self.result):
            return []
        same = self.leader.arch == self.default.arch
        return [("found", self.leader.arch)] + [("default", self.default.arch)] * (not same)


def _curve(trial: Row) -> Sequence[float]:
    """The score after each epoch, see `Trial.score_curve`."""
    return trial.get("scores") or trial["accuracies"]
