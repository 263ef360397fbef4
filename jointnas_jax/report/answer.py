"""The answer of a study that searched a front, in sentences, given its `result.json`."""

from collections.abc import Mapping
from typing import Any

from jointnas_jax.report.words import METRICS, amount
from jointnas_jax.rules import duration

_SPACE = "\N{NO-BREAK SPACE}"
# What there is fewer of.
_LESS = {"flops": "fewer FLOPs", "params": "fewer params", "latency": "less latency"}
# The names of costs, for people.
COSTS = {"flops": "FLOPs", "params": "params", "latency": "latency"}


def sentences(result: Mapping[str, Any]) -> list[str]:
    """The two things that people want to know: as accurate for less, and more for the same."""
    front = result["front"]
    cost, metric = front["cost"], METRICS[result["metric"]]
    default = result["references"]["default"]
    if default["test"]["mean"] is None:
        return ["The default candidate failed: there is nothing to compare with."]
    name = f"default's {metric} ({_percent(default['test']['mean'])})"
    return [_fewer(result, cost, name), _gain(result, cost)]


def _fewer(result: Mapping[str, Any], cost: str, name: str) -> str:
    found, winners = result["front"]["fewer"], result["winners"]
    default = result["references"]["default"]
    if not found:
        means = [w["test"]["mean"] for w in winners if w["test"]["mean"] is not None]
        best = f"the best winner has {_percent(max(means))}" if means else "all winners failed"
        return f"No winner reaches the {name}; {best}."
    costs = [in_units(cost, e["costs"][cost]) for e in (winners[found["winner"]], default)]
    pair = f"winner {found['winner']}, {costs[0]} against {costs[1]}"
    if found["value"] < 1:
        times, kind = 1 / found["value"], _LESS[cost].replace("fewer", "more")
        return f"The {name} takes {times:.1f} times {kind.replace('less', 'more')}: {pair}."
    interval = ""
    if found["high"] is not None:
        interval = f" ({found['low']:.1f} to {found['high']:.1f})"
        if not found["low"]:  # there are resamples in which no winner is as accurate
            interval = f" (up to {found['high']:.1f}, or not reached)"
    return f"The {name} for {found['value']:.1f} times {_LESS[cost]}{interval}: {pair}."


def _gain(result: Mapping[str, Any], cost: str) -> str:
    found = result["front"]["gain"]
    if not found:
        return f"No winner has at most the default's {COSTS[cost]}."
    interval = ""
    if found["low"] is not None:
        interval = f" ({_points(found['low'])} to {_points(found['high'])})"
    what = f"{_points(found['value'], True)} points{interval}"
    return f"{what} at the default's {COSTS[cost]} or less: winner {found['winner']}."


def areas_in_words(result: Mapping[str, Any]) -> str:
    """Whether a front is ahead of what it has to beat, by hypervolume, in a line."""
    areas, parts = result["front"]["hypervolume"], []
    for group, name in (("scaled_default", "the scaled default"), ("random", "random search's")):
        if ahead := areas.get(group, {}).get("search_ahead_by"):
            unsure = ahead["low"] is not None and ahead["low"] <= 0 <= ahead["high"]
            place = "ahead of" if ahead["value"] > 0 else "behind"
            parts.append(f"{place} {name}{' (within the noise)' if unsure else ''}")
    return f"By the area under it, the front is {' and '.join(parts)}." if parts else ""


def in_units(cost: str, value: int) -> str:
    """A cost with its unit."""
    if cost == "latency":
        return duration(value, " ")
    return f"{amount(value)} {COSTS[cost]}".replace(_SPACE, " ")


def _percent(share: float | None) -> str:
    return "failed" if share is None else f"{100 * share:.1f} %"


def _points(share: float, signed: bool = False) -> str:
    text = f"{100 * share:+.1f}" if signed else f"{100 * share:.1f}"
    return text.replace("-", "\N{MINUS SIGN}")


def group_of(result: Mapping[str, Any], group: str) -> list[Any]:
    """The networks of a front's `search`, `scaled_default` (with the default one) or `random`."""
    if group == "search":
        return list(result["winners"])
    default = [result["references"]["default"]] if group == "scaled_default" else []
    return default + list(result["front"][group])


def networks(result: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """All networks of a result with their names, winners first."""
    front, winners = result.get("front"), result["winners"]
    rows = [
        (f"winner{f' {rank}' * bool(front)} ({winner['source']})", winner)
        for rank, winner in enumerate(winners)
    ]
    others = list(result["references"].values())
    if front:
        others = group_of(result, "scaled_default") + group_of(result, "random")
    return rows + [(entry["source"], entry) for entry in others]
