"""Numbers as text, with units."""

import math
from collections.abc import Mapping
from typing import Any

# A `config.search.metric`, for people.
METRICS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "top5": "top-5 accuracy",
}
_UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "K"))
_SPACE = "\N{NO-BREAK SPACE}"


def percent(share: float | None, digits: int = 2) -> str:
    """A share of 1 in percent; None is "failed"."""
    return "failed" if share is None else f"{100 * share:.{digits}f}{_SPACE}%"


def mean_and_std(stats: Mapping[str, Any] | None, missing: str = "not known") -> str:
    """Mean and standard deviation over seeds in plain text, given those of `result.json`."""
    if not stats or stats["mean"] is None:
        return missing
    return f"{stats['mean']:.2%}" + (f" ± {stats['std']:.2%}" if stats["std"] is not None else "")


def spread(stats: Mapping[str, Any]) -> str:
    """Mean and standard deviation over seeds, given those of `result.json`."""
    if stats["mean"] is None:
        return "failed" if stats["seeds"] else "not measured"
    return percent(stats["mean"]) + (f" ± {100 * stats['std']:.2f}" if stats["std"] else "")


def expectations_in_words(result: Mapping[str, Any]) -> list[str]:
    """How far the prior and each earlier study foretold what was measured, a sentence each."""
    lines = []
    for expected in result.get("expectations", ()):
        source = expected["source"]
        name = "prior" if source == "prior" else f"expectation from `{source}`"
        if expected["correlation"] is not None:
            lines.append(f"The {name} has a rank correlation of {expected['correlation']:.2f}")
            lines[-1] += " with the scores measured here"
            if expected["weight"] is not None:
                lines[-1] += f", and a weight of {expected['weight']:.2f} in the predictor"
            lines[-1] += "."
    return lines


def points(difference: float | None) -> str:
    """A difference of accuracies, in percentage points."""
    if difference is None:
        return "unknown"
    return f"{100 * difference:+.2f}{_SPACE}points".replace("-", "\N{MINUS SIGN}")


def amount(value: float) -> str:
    """A number of FLOPs or params to three digits: 305 K, 1.24 G."""
    for size, unit in _UNITS:
        if value >= 0.9995 * size:
            return f"{value / size:.3g}{_SPACE}{unit}"
    return f"{value:g}"


def seconds(value: float, space: str = _SPACE) -> str:
    """A time: 4.2 s, 5 min 20 s, 3 h 12 min."""
    if value < 10:
        return f"{value:.1f}{space}s"
    if value < 60:
        return f"{value:.0f}{space}s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes}{space}min {rest}{space}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,}{space}h {minutes}{space}min"


def correlation(value: float | None) -> str:
    """A rank correlation; a dash where there is none."""
    return "\N{EN DASH}" if value is None or math.isnan(value) else f"{value:.2f}"


def metric_of(result: Mapping[str, Any]) -> str:
    """What the results of a study are told in, by its `result.json`."""
    return METRICS[result.get("metric", "accuracy")]


def count(number: int, what: str) -> str:
    """A number of things: 1 trial, 2 trials."""
    return f"{number:,} {what}" + "s" * (number != 1)


def both_flops(result: Mapping[str, Any], reference: str) -> str:
    """FLOPs of the winner beside those of a reference, and how many times fewer or more."""
    pair = (result["winners"][0], result["references"][reference])
    ours, theirs = (entry["costs"]["flops"] for entry in pair)
    text = (
        f"{amount(ours).replace(_SPACE, ' ')} against {amount(theirs).replace(_SPACE, ' ')} FLOPs"
    )
    if max(ours, theirs) < 1.05 * min(ours, theirs):
        return text
    ratio, kind = (theirs / ours, "fewer") if ours < theirs else (ours / theirs, "more")
    return f"{text} ({ratio:.1f} times {kind})"
