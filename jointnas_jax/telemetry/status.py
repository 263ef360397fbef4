"""Where the run in a workdir is, as seen from outside; imports no JAX and changes nothing."""

import dataclasses
import os
import shlex
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from jointnas_jax.errors import WorkdirError
from jointnas_jax.files import read_json
from jointnas_jax.storage.lock import owner
from jointnas_jax.storage.workdir import CONFIG, RESULT, SCHEMA, TRAINING
from jointnas_jax.telemetry.console import duration, facts, place
from jointnas_jax.telemetry.progress import Snapshot

STARTING, RUNNING, FINISHED = "starting", "running", "finished"
INTERRUPTED, FAILED = "interrupted", "failed"


def look_at(workdir: Path) -> dict[str, Any]:
    """Tells where the study, or the training of one candidate, in a workdir is.

    Returns:
      `workdir`, `name`, `state`, `owner` (the process that owns the workdir, or None), `command`
      (that goes on, None if it is not known or there is nothing to go on with), `progress` (see
      `Snapshot`, or None) and, of a finished one, `result`.

    Raises:
      WorkdirError: there is none, or it cannot be read.
      DamagedError: what is stored is not what was written.
    """
    if not os.path.isdir(workdir):
        raise WorkdirError(f"workdir `{workdir}` is no folder; name that of a study")
    by = owner(workdir)
    known = next((name for name in (CONFIG, TRAINING) if (workdir / name).exists()), None)
    if known is None and by is None:
        raise WorkdirError(
            f"workdir `{workdir}` holds no study and no training: it has neither `{CONFIG}` nor "
            f"`{TRAINING}`"
        )
    described = read_json(workdir / known, SCHEMA) if known else {}
    result = read_json(workdir / RESULT) if known and (workdir / RESULT).exists() else None
    now = Snapshot.read(workdir) if known else None
    if now and now.seconds_left is not None and by:
        passed = time.time() - now.time
        now = dataclasses.replace(now, seconds_left=max(0.0, round(now.seconds_left - passed, 1)))
    state = _state(known, by, result, now)
    ended = state in (INTERRUPTED, FAILED)
    return {
        "workdir": str(workdir),
        "name": described.get("config", described).get("name"),
        "state": state,
        "owner": by,
        "command": _command(now) if ended else None,
        "progress": now and dataclasses.asdict(now),
        "result": result and _outcome(result),
    }


def print_status(status: dict[str, Any], console: Console) -> None:
    """Prints it for people."""
    progress = status["progress"]
    now = Snapshot(**progress) if progress else None
    state, by = status["state"], status["owner"]
    lines = {"study": status["name"], "state": state + (f", by {by}" if by else "")}
    if state == FAILED:
        lines["why"] = now.stopped
    if state == FINISHED:
        lines |= _outcome_lines(status["result"])
    elif now:
        if state != RUNNING:
            now = dataclasses.replace(now, seconds_left=None)
        lines |= {"stage": place(now), "done": "; ".join(facts(now))}
        training = [f"{pack}: epoch {epoch} of {of}" for pack, _, epoch, of in now.groups]
        if training and state == RUNNING:
            lines["training"] = ", ".join(training)
        lines["last seen"] = f"{duration(max(0.0, time.time() - now.time))} ago"
    if state in (INTERRUPTED, FAILED):
        lines["to go on"] = status["command"] or "the command that began it"
    for name, text in lines.items():
        console.print(f"  {name:<12} {text}", highlight=False, soft_wrap=True)


def _state(known: str | None, by: str | None, result: Any, now: Snapshot | None) -> str:
    if result is not None:
        return FINISHED
    if by:
        return RUNNING if known else STARTING
    killed = now is None or now.stopped is None or now.stopped.startswith("interrupted")
    return INTERRUPTED if killed else FAILED


def _command(now: Snapshot | None) -> str | None:
    """The command that goes on, from the present folder."""
    if now is None or not now.command:
        return None
    there = "" if now.folder == os.getcwd() else f"cd {shlex.quote(now.folder)} && "
    return there + now.command


def _outcome(result: dict[str, Any]) -> dict[str, Any]:
    """What came out, in numbers."""
    if "accuracy" in result:  # the training of one candidate
        return {"test": result["accuracy"], "epochs": result["epochs"]}
    cards = [r["report_card"] for r in result["rounds"] if r["report_card"]]
    entries = {"winner": result["winners"][0]} | result["references"]
    return {
        "trainings": result["trials"],
        "candidates": {
            name: {
                "test": entry["test"]["mean"],
                "validation": entry["validation"]["mean"],
                "flops": entry["costs"]["flops"],
            }
            for name, entry in entries.items()
        },
        "kendall": cards[-1]["kendall"] if cards else None,
        "spearman": cards[-1]["spearman"] if cards else None,
    }


def _outcome_lines(outcome: dict[str, Any]) -> dict[str, str]:
    """The same in words."""
    if "candidates" not in outcome:
        return {"test": f"{outcome['test']:.2%} after {outcome['epochs']} epochs"}
    share = lambda mean: "failed" if mean is None else f"{mean:.2%}"
    lines = {"trainings": f"{outcome['trainings']:,}"}
    for name, found in outcome["candidates"].items():
        lines[name] = (
            f"{share(found['test'])} test, {share(found['validation'])} validation accuracy, "
            f"{found['flops']:,} FLOPs"
        )
    if outcome["kendall"] is not None:
        lines["predictor"] = f"Kendall {outcome['kendall']:.2f}, Spearman {outcome['spearman']:.2f}"
    return lines
