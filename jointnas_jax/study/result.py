"""The result of a study: `result.json`, and the same for people."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from jointnas_jax.config import Config
from jointnas_jax.files import SCHEMA
from jointnas_jax.nets.latency import LATENCY
from jointnas_jax.problem.problem import Problem
from jointnas_jax.report.answer import areas_in_words, networks, sentences
from jointnas_jax.report.words import METRICS, both_flops, expectations_in_words, metric_of
from jointnas_jax.rules import duration
from jointnas_jax.storage.trial_store import COMPLETED, SEARCHED
from jointnas_jax.strategy.accuracy_scale import AccuracyScale, accuracy_scale
from jointnas_jax.strategy.early_stop import kendall, spearman
from jointnas_jax.strategy.evolution import Evolution, counts
from jointnas_jax.strategy.reliability import Reliability, in_words
from jointnas_jax.strategy.searcher import Judged
from jointnas_jax.study.coarse_stage import Round, Searched
from jointnas_jax.study.comparison import Networks, gain, hypervolumes, times_fewer
from jointnas_jax.study.contender import Contender, References, over_seeds
from jointnas_jax.study.trial_runner import TrialRunner
from jointnas_jax.telemetry.stage_timer import StageTimer
from jointnas_jax.train.metrics import confusion


def build_result(
    problem: Problem,
    searched: Searched,
    evolutions: Sequence[Evolution[np.ndarray]],
    *,
    winners: Sequence[Contender],
    finalists: Sequence[Contender],
    references: References,
    runner: TrialRunner,
    timer: StageTimer,
    test_labels: np.ndarray,
    expectations: Sequence[Judged] = (),
) -> dict[str, Any]:
    """Returns the content of `result.json`; the README documents it."""
    config, dataset, stop = problem.config, problem.dataset, searched.stop
    scale = accuracy_scale(runner.stored.values())
    effective = _effective_images(test_labels, config.search.metric)
    classes = len(dataset.labels)

    def describe(contender: Contender) -> dict[str, Any]:
        return _describe(problem, contender, scale)

    described = {"default": describe(references.default)}
    if references.random:
        described["random"] = describe(references.random[0])
    best = [describe(c) | _classes(c, test_labels, classes) for c in winners]
    result = {
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
        "reliability": _reliability(
            [*finalists, references.default, *references.random], runner
        )._asdict(),
        "epochs": {"search": config.train.epochs, "final": config.train.epochs_of_winners},
        "winners": best,
        "references": described,
        "comparison": {n: _compare(best[0], d, effective) for n, d in described.items()},
        "front": None,
        "finalists": [describe(c) for c in finalists],
        "trials": runner.count,
        "rounds": [_round(number, done) for number, done in enumerate(searched.rounds, 1)],
        "early_stop": {
            "epochs": stop.epochs,
            "of": config.train.epochs,
            "threshold": config.stop_threshold,
            "correlation": config.search.correlation,
            "by_epoch": [_number(c) for c in stop.correlations],
        },
        "expectations": [
            {"source": e.source, "correlation": _number(e.correlation), "weight": _number(e.weight)}
            for e in expectations
        ],
        "stopping": config.search.stopping,
        "rungs": _rungs(config, searched),
        "evolution": _evolution(evolutions),
        "seconds": {name: round(s, 2) for name, s in timer.seconds.items()},
        "compilations": {
            "programs": sum(timer.compilations.values()),
            "by_stage": timer.compilations,
            "seconds": round(timer.compile_seconds, 2),
        },
    }
    if config.front:
        result["front"] = {
            "cost": config.front,
            "limit": config.budget.limits().get(config.front),
            "scaled_default": [describe(c) for c in references.scaled],
            "random": [describe(c) for c in references.random],
            **_worth(config, winners, references, test_labels),
        }
        result["answer"] = sentences(result)
    return result


def _worth(
    config: Config, winners: Sequence[Contender], references: References, labels: np.ndarray
) -> dict[str, Any]:
    """What a front is worth, see `study/comparison.py`."""
    trained = Networks.of(
        config.front, winners, references, labels=labels, metric=config.search.metric
    )
    return {
        "fewer": times_fewer(trained),
        "gain": gain(trained),
        "hypervolume": hypervolumes(trained) if len(trained.costs) else {},
    }


def _rungs(config: Config, searched: Searched) -> list[dict[str, int]]:
    """How many candidates of the coarse stage trained up to each rung."""
    reached = searched.state.rungs
    return [
        {"epochs": epochs, "candidates": int((reached > rung).sum())}
        for rung, epochs in enumerate(config.rung_epochs)
    ]


def _evolution(evolutions: Sequence[Evolution[np.ndarray]]) -> dict[str, Any]:
    """Counts of all of them; the best prediction after each generation of the last one."""
    last = evolutions[-1]
    return counts(evolutions) | {"best": [float(b) for b in last.best[: int(last.generations)]]}


def print_result(result: dict[str, Any], console: Console) -> None:
    """Prints who won, against what, and says where the search did not beat a reference.

    Of a front first what it is worth.
    """
    for sentence in result.get("answer", ()):
        console.print(sentence, highlight=False, soft_wrap=True, style="bold")
    title = f"{result['name']} on {result['dataset']['name']}"
    if (metric := metric_of(result)) != METRICS["accuracy"]:
        title += f", {metric}"
    table = Table(title=title, title_justify="left")
    timed = LATENCY in result["winners"][0]["costs"]
    for column in ("", "validation", "test", "FLOPs", "params", *([LATENCY] if timed else [])):
        table.add_column(column, justify="left" if not column else "right")
    for name, entry in networks(result):
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
    if result.get("front"):
        console.print(f"  {areas_in_words(result)}", highlight=False, soft_wrap=True)
    for name, comparison in ({} if result.get("front") else result["comparison"]).items():
        source = result["references"][name]["source"]
        console.print(
            f"  The search {comparison['verdict']} the {source}: "
            f"{_signed(comparison['difference'])} test {metric_of(result)}, "
            f"{both_flops(result, name)}.",
            highlight=False,
            soft_wrap=True,
        )
    for line in expectations_in_words(result):
        console.print(f"  {line}", highlight=False, soft_wrap=True)
    console.print(f"  {in_words(result['reliability'])}", highlight=False, soft_wrap=True)
    total = sum(result["seconds"].values())
    console.print(
        f"  {total:.0f} seconds, {result['compilations']['programs']} programs compiled "
        f"({result['compilations']['seconds']:.0f} s, in parallel).",
        highlight=False,
    )


def _describe(problem: Problem, contender: Contender, scale: AccuracyScale) -> dict[str, Any]:
    candidate = contender.candidate
    return {
        "source": contender.source,
        "knobs": problem.knobs(candidate),
        "candidate": candidate.to_dict(),
        "costs": candidate.costs,
        "within_budget": not problem.over_budget(candidate),
        "predicted": contender.predicted,
        "predicted_accuracy": scale.accuracy(contender.predicted),
        "validation": over_seeds(contender.validation),
        "score": over_seeds(contender.scores),
        "test": over_seeds(contender.test),
    }


def _classes(winner: Contender, labels: np.ndarray, classes: int) -> dict[str, Any]:
    """Accuracy of each class and all confusions of a winner's trainings; {} if not known.

    Of a confusion `[class, answer, images]`, the most frequent first; images of all trainings.
    """
    said = [answers for answers in winner.answers if answers is not None]
    if not said:
        return {}
    counts = confusion(said, labels, classes)
    images = counts.sum(1)
    wrong = counts - np.diag(np.diag(counts))
    rows = np.argwhere(wrong)
    order = np.argsort(-wrong[tuple(rows.T)], kind="stable")
    return {
        "classes": {
            "images": images.tolist(),
            "accuracy": [
                _number(c / n) if n else None for c, n in zip(np.diag(counts), images, strict=True)
            ],
            "confusions": [[int(i), int(j), int(wrong[i, j])] for i, j in rows[order]],
        }
    }


def _reliability(contenders: Sequence[Contender], runner: TrialRunner) -> Reliability:
    """Of the score of one training: what repeated ones differ by, against what candidates do."""
    once = {contender.identity: contender for contender in contenders}.values()
    sound = [c for c in once if c.scores and None not in c.scores]
    seeds = [[s for s in c.scores if s is not None] for c in sound]
    trials = runner.stored.values()
    # What stopped early scored less for that alone.
    searched = [t.score for t in trials if t.stage in SEARCHED and t.status == COMPLETED]
    return Reliability.of(seeds, [score for score in searched if score is not None])


def _effective_images(labels: np.ndarray, metric: str) -> float:
    """How many images have the accuracy as sure as these have the metric.

    A mean over classes is as unsure as its smallest classes.
    """
    if metric != "balanced_accuracy":
        return len(labels)
    sizes = np.unique(labels, return_counts=True)[1]
    return len(sizes) ** 2 / float((1 / sizes).sum())


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
        return "failed" if stats["seeds"] else ""
    return f"{stats['mean']:.2%}" + (f" ± {stats['std']:.2%}" if stats["std"] is not None else "")


def _signed(difference: float | None) -> str:
    return "no" if difference is None else f"{difference * 100:+.2f} points of"
