"""The answer of a study that searched a front, in sentences, given its `result.json`."""

from collections.abc import Mapping
from typing import Any

from jointnas_jax.report.words import METRICS, amount
from jointnas_jax.rules import duration

_SPACE = "\N{NO-BREAK SPACE}"
# What there is fewer of.
_LESS = {"flops": "fewer FLOPs", "params": "fewer params", "latency": "less latency"}
_MORE = {"flops": "more FLOPs", "params": "more params", "latency": "more latency"}
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
    fewer, winners = result["front"]["fewer"], result["winners"]
    if not fewer:
        sound = [w for w in winners if w["test"]["mean"] is not None]
        if not sound:
            return f"No winner reaches the {name}: all of them failed."
        best = max(sound, key=lambda winner: winner["test"]["mean"])
        return (
            f"No other network that was found reaches the {name}; the best winner has "
            f"{_percent(best['test']['mean'])}, {_costs(result, cost, best)}."
        )
    pair = f"winner {fewer['winner']}, {_costs(result, cost, winners[fewer['winner']])}"
    if fewer["value"] < 1:
        return f"The {name} takes {1 / fewer['value']:.1f} times {_MORE[cost]}: {pair}."
    interval = ""
    if fewer["high"] is not None:
        interval = f" ({fewer['low']:.1f} to {fewer['high']:.1f})"
        if not fewer["low"]:
            share = f"{100 * fewer['reached']:.0f} %"
            interval = f" (up to {fewer['high']:.1f}; reached in {share} of resamples)"
    return f"The {name} for {fewer['value']:.1f} times {_LESS[cost]}{interval}: {pair}."


def _gain(result: Mapping[str, Any], cost: str) -> str:
    gain = result["front"]["gain"]
    if not gain:
        return f"No other winner has at most the default's {COSTS[cost]}."
    interval = ""
    if gain["low"] is not None:
        unsure = ", within the noise" * (gain["low"] <= 0 <= gain["high"])
        interval = f" ({_points(gain['low'])} to {_points(gain['high'])}{unsure})"
    pair = f"winner {gain['winner']}, {_costs(result, cost, result['winners'][gain['winner']])}"
    what = f"{_points(gain['value'], True)} points{interval}"
    return f"{what} at the default's {COSTS[cost]} or less: {pair}."


def _costs(result: Mapping[str, Any], cost: str, winner: Mapping[str, Any]) -> str:
    """The cost of a winner beside the default candidate's."""
    default = result["references"]["default"]
    ours, theirs = (in_units(cost, entry["costs"][cost]) for entry in (winner, default))
    return f"{ours} against {theirs}"


def areas_in_words(result: Mapping[str, Any]) -> str:
    """Whether a front is ahead of what it has to beat, by hypervolume, in a line."""
    areas, parts = result["front"]["hypervolume"], []
    for group, name in (("scaled_default", "the scaled default"), ("random", "random search's")):
        if ahead := areas.get(group, {}).get("search_ahead_by"):
            unsure = ahead["low"] is None or ahead["low"] <= 0 <= ahead["high"]
            place = "ahead of" if ahead["value"] > 0 else "behind"
            place = place if ahead["value"] else "level with"
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
        (f"winner{f' {rank}' * (len(winners) > 1)} ({winner['source']})", winner)
        for rank, winner in enumerate(winners)
    ]
    others = list(result["references"].values())
    if front:
        others = group_of(result, "scaled_default") + group_of(result, "random")
    return rows + [(entry["source"], entry) for entry in others]
