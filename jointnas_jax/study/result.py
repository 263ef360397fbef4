"""The result of a study: `result.json`, and the same for people."""

import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from jointnas_jax.files import SCHEMA
from jointnas_jax.nets.latency import LATENCY
from jointnas_jax.problem.problem import Problem
from jointnas_jax.report.words import METRICS, both_flops, metric_of
from jointnas_jax.rules import duration
from jointnas_jax.space import Candidate
from jointnas_jax.storage.trial_store import SEARCHED
from jointnas_jax.strategy.accuracy_scale import AccuracyScale, accuracy_scale
from jointnas_jax.strategy.early_stop import kendall, spearman
from jointnas_jax.strategy.evolution import Evolution
from jointnas_jax.strategy.reliability import Reliability, in_words
from jointnas_jax.study.coarse_stage import Round, Searched
from jointnas_jax.study.trial_runner import TrialRunner
from jointnas_jax.telemetry.stage_timer import StageTimer


@dataclasses.dataclass
class Contender:
    """A finalist or a reference, and what was measured.

    Attributes:
      source: the stage or rule that proposed it.
      candidate: the candidate, with vector and costs.
      predicted: predicted score.
      validation: accuracy per seed without the validation images in training; None: failed.
      scores: `config.search.score` of the same trainings, by which winners are chosen.
      test: accuracy per seed after training on the whole split; empty if not retrained.
      confusion: `int64[L, L]`, see `models/confusion.py`; of winners.
    """

    source: str
    candidate: Candidate
    predicted: float
    validation: list[float | None] = dataclasses.field(default_factory=list)
    scores: list[float | None] = dataclasses.field(default_factory=list)
    test: list[float | None] = dataclasses.field(default_factory=list)
    confusion: np.ndarray | None = None

    @property
    def identity(self) -> bytes:
        """The same for the same candidate, wherever it comes from."""
        assert self.candidate.vector is not None
        return self.candidate.vector.tobytes()

    @property
    def mean_score(self) -> float:
        """Mean over seeds; -inf where a seed failed, so that it can never win."""
        mean = _statistics(self.scores)["mean"]
        return -math.inf if mean is None else mean


def build_result(
    problem: Problem,
    searched: Searched,
    evolution: Evolution[np.ndarray],
    *,
    winners: Sequence[Contender],
    finalists: Sequence[Contender],
    references: Sequence[Contender],
    runner: TrialRunner,
    timer: StageTimer,
    test_labels: np.ndarray,
) -> dict[str, Any]:
    """Returns the content of `result.json`; the README documents it."""
    config, dataset, stop = problem.config, problem.dataset, searched.stop
    scale = accuracy_scale(runner.stored.values())
    effective = _effective_images(test_labels, config.search.metric)
    names = ["default", "random"][: len(references)]
    described = {n: _describe(problem, c, scale) for n, c in zip(names, references, strict=True)}
    best = [_describe(problem, c, scale) for c in winners]
    return {
        "schema": SCHEMA,
        "name": config.name,
        "mode": config.mode,
        "seed": config.seed,
        "dataset": {
            "name": dataset.name,
            "image_shape": list(dataset.image_shape),
            "pixels": runner.executor.pixels,
            "labels": list(dataset.labels),
        },
        "space": {"architectures": problem.space.arch_size, "recipes": problem.space.recipe_size},
        "budget": config.budget.limits(),
        "metric": config.search.metric,
        "score": config.search.score,
        "reliability": _reliability([*finalists, *references], runner)._asdict(),
        "epochs": {"search": config.train.epochs, "final": config.train.epochs_of_winners},
        "winners": best,
        "references": described,
        "comparison": {n: _compare(best[0], d, effective) for n, d in described.items()},
        "finalists": [_describe(problem, c, scale) for c in finalists],
        "trials": runner.count,
        "rounds": [_round(number, done) for number, done in enumerate(searched.rounds, 1)],
        "early_stop": {
            "epochs": stop.epochs,
            "of": config.train.epochs,
            "threshold": config.search.threshold,
            "correlation": config.search.correlation,
            "by_epoch": [_number(c) for c in stop.correlations],
        },
        "evolution": {
            "generations": int(evolution.generations),
            "children": int(evolution.children),
            "duplicates": int(evolution.duplicates),
            "best": [float(b) for b in evolution.best[: int(evolution.generations)]],
        },
        "seconds": {name: round(s, 2) for name, s in timer.seconds.items()},
        "compilations": {
            "programs": sum(timer.compilations.values()),
            "by_stage": timer.compilations,
            "seconds": round(timer.compile_seconds, 2),
        },
    }


def print_result(result: dict[str, Any], console: Console) -> None:
    """Prints who won, against what, and says where the search did not beat a reference."""
    title = f"{result['name']} on {result['dataset']['name']}"
    if (metric := metric_of(result)) != METRICS["accuracy"]:
        title += f", {metric}"
    table = Table(title=title, title_justify="left")
    timed = LATENCY in result["winners"][0]["costs"]
    for column in ("", "validation", "test", "FLOPs", "params", *([LATENCY] if timed else [])):
        table.add_column(column, justify="left" if not column else "right")
    rows = [(f"winner ({w['source']})", w) for w in result["winners"]]
    rows += [(r["source"], r) for r in result["references"].values()]
    for name, entry in rows:
        over = "" if entry["within_budget"] else " (over budget)"
        table.add_row(
            name,
            _spread(entry["validation"]),
            _spread(entry["test"]),
            f"{entry['costs']['flops']:,}{over}",
            f"{entry['costs']['params']:,}",
            *([duration(entry["costs"][LATENCY], " ")] if timed else []),
        )
    console.print(table)
    for name, comparison in result["comparison"].items():
        source = result["references"][name]["source"]
        console.print(
            f"  The search {comparison['verdict']} the {source}: "
            f"{_signed(comparison['difference'])} test {metric_of(result)}, "
            f"{both_flops(result, name)}.",
            highlight=False,
            soft_wrap=True,
        )
    console.print(f"  {in_words(result['reliability'])}", highlight=False, soft_wrap=True)
    total = sum(result["seconds"].values())
    console.print(
        f"  {total:.0f} seconds, {result['compilations']['programs']} programs compiled "
        f"({result['compilations']['seconds']:.0f} s, in parallel).",
        highlight=False,
    )


def _describe(problem: Problem, contender: Contender, scale: AccuracyScale) -> dict[str, Any]:
    candidate, counts = contender.candidate, contender.confusion
    classes = {} if counts is None else {"classes": _classes(counts)}
    return {
        "source": contender.source,
        "knobs": problem.knobs(candidate),
        "candidate": candidate.to_dict(),
        "costs": candidate.costs,
        "within_budget": not problem.over_budget(candidate),
        "predicted": contender.predicted,
        "predicted_accuracy": scale.accuracy(contender.predicted),
        "validation": _statistics(contender.validation),
        "score": _statistics(contender.scores),
        "test": _statistics(contender.test),
        **classes,
    }


def _classes(counts: np.ndarray) -> dict[str, Any]:
    """Accuracy of each class and all confusions, given those of a winner's trainings.

    Of a confusion `[class, answer, images]`, the most frequent first; images of all trainings.
    """
    images = counts.sum(1)
    wrong = counts - np.diag(np.diag(counts))
    rows = np.argwhere(wrong)
    order = np.argsort(-wrong[tuple(rows.T)], kind="stable")
    return {
        "images": images.tolist(),
        "accuracy": [
            _number(c / n) if n else None for c, n in zip(np.diag(counts), images, strict=True)
        ],
        "confusions": [[int(i), int(j), int(wrong[i, j])] for i, j in rows[order]],
    }


def _reliability(contenders: Sequence[Contender], runner: TrialRunner) -> Reliability:
    """Of the score of one training: what repeated ones differ by, against what candidates do."""
    seeds = [[s for s in c.scores if s is not None] for c in contenders if None not in c.scores]
    searched = [t.score for t in runner.stored.values() if t.stage in SEARCHED]
    return Reliability.of(seeds, [score for score in searched if score is not None])


def _effective_images(labels: np.ndarray, metric: str) -> float:
    """How many images have the accuracy as sure as these have the metric.

    A mean over classes is as unsure as its smallest classes.
    """
    if metric != "balanced_accuracy":
        return len(labels)
    sizes = np.unique(labels, return_counts=True)[1]
    return len(sizes) ** 2 / float((1 / sizes).sum())


def _statistics(accuracies: Sequence[float | None]) -> dict[str, Any]:
    """Mean and deviation over seeds; none where a seed failed, for the rest would flatter."""
    sound = [a for a in accuracies if a is not None]
    if len(sound) < len(accuracies):
        sound = []
    return {
        "seeds": list(accuracies),
        "mean": statistics.fmean(sound) if sound else None,
        "std": statistics.stdev(sound) if len(sound) > 1 else None,
    }


def _compare(
    winner: dict[str, Any], reference: dict[str, Any], test_images: float
) -> dict[str, Any]:
    """Difference of mean test accuracy, with a verdict that respects the noise.

    The standard error has two parts: of the seeds, and of a test set of this size.
    """
    both = (winner["test"], reference["test"])
    if None in (both[0]["mean"], both[1]["mean"]):
        return {"difference": None, "standard_error": None, "verdict": "could not be compared with"}
    difference = both[0]["mean"] - both[1]["mean"]
    error = None
    if None not in (both[0]["std"], both[1]["std"]):
        seeds = sum(s["std"] ** 2 / len(s["seeds"]) for s in both)
        images = sum(s["mean"] * (1 - s["mean"]) / test_images for s in both)
        error = math.sqrt(seeds + images)
    if difference <= 0:
        verdict = "did not beat"
    elif error is not None and difference > 2 * error:
        verdict = "beat"
    else:
        verdict = "is ahead, within the noise, of"
    return {"difference": difference, "standard_error": error, "verdict": verdict}


def _round(number: int, done: Round) -> dict[str, Any]:
    finite, card = done.scores[np.isfinite(done.scores)], done.card
    both = np.isfinite(done.scores) & np.isfinite(done.predicted)
    predicted, measured = done.predicted[both], done.scores[both]
    return {
        "round": number,
        "trained": len(done.scores),
        "failed": int(len(done.scores) - len(finite)),
        "best": float(finite.max()) if len(finite) else None,
        "kendall": _number(kendall(predicted, measured)),
        "spearman": _number(spearman(predicted, measured)),
        "report_card": card
        and {
            **{name: _number(mark) for name, mark in card._asdict().items()},
            "verdict": card.verdict(),
        },
    }


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _spread(stats: dict[str, Any]) -> str:
    if stats["mean"] is None:
        return "failed"
    return f"{stats['mean']:.2%}" + (f" ± {stats['std']:.2%}" if stats["std"] is not None else "")


def _signed(difference: float | None) -> str:
    return "no" if difference is None else f"{difference * 100:+.2f} points of"
