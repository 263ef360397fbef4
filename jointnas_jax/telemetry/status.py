"""Status of the run in a workdir, for other processes; imports no JAX and changes nothing."""

import dataclasses
import os
import shlex
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from jointnas_jax.errors import WorkdirError
from jointnas_jax.files import read_json
from jointnas_jax.report.words import seconds
from jointnas_jax.rules import is_url
from jointnas_jax.storage import lease
from jointnas_jax.storage.lock import owner
from jointnas_jax.storage.manifest import as_input, at_top, fetched
from jointnas_jax.storage.workdir import CONFIG, RESULT, SCHEMA, TRAINING
from jointnas_jax.telemetry.console import describe_progress, describe_stage
from jointnas_jax.telemetry.progress import Snapshot

STARTING, RUNNING, FINISHED = "starting", "running", "finished"
INTERRUPTED, FAILED = "interrupted", "failed"


def look_at(name: str | Path) -> dict[str, Any]:
    """Returns the status of the study, or of the training of one candidate, in a workdir.

    Args:
      name: Path of the workdir, or its URL in a bucket.

    Returns:
      `workdir`, `name`, `state`, `owner` (the process that owns the workdir, if any), `command`
      (to continue, if there is one), `progress` (see `Snapshot`), `result` (None: unfinished).

    Raises:
      WorkdirError: There is none, or it cannot be read.
      DamagedError: Stored data is not what was written.
    """
    url = str(name)
    if not is_url(url):
        if not os.path.isdir(name):
            raise WorkdirError(f"workdir `{name}` is no folder; name that of a study")
        return _look_at(Path(name), owner(Path(name)))
    with as_input():
        by = lease.owner(url)
    with fetched(url, at_top) as folder:
        return _look_at(folder, by) | {"workdir": url}


def _look_at(workdir: Path, by: str | None) -> dict[str, Any]:
    file = next((workdir / n for n in (CONFIG, TRAINING) if (workdir / n).exists()), None)
    if file is None and by is None:
        raise WorkdirError(
            f"workdir `{workdir}` holds no study and no training: it has neither `{CONFIG}` nor "
            f"`{TRAINING}`"
        )
    described = read_json(file, SCHEMA) if file else {}
    result = read_json(workdir / RESULT) if file and (workdir / RESULT).exists() else None
    now = Snapshot.read(workdir) if file else None
    if now and now.seconds_left is not None and by:
        passed = time.time() - now.time
        now = dataclasses.replace(now, seconds_left=max(0.0, round(now.seconds_left - passed, 1)))
    if result is not None:
        state = FINISHED
    elif by:
        state = RUNNING if file else STARTING
    else:
        failed = now and now.stopped and not now.stopped.startswith("interrupted")
        state = FAILED if failed else INTERRUPTED
    return {
        "workdir": str(workdir),
        "name": described.get("config", described).get("name"),
        "state": state,
        "owner": by,
        "command": _command(now) if now and state in (INTERRUPTED, FAILED) else None,
        "progress": now and dataclasses.asdict(now),
        "result": result and _outcome(result),
    }


def print_status(status: dict[str, Any], console: Console) -> None:
    """Prints it for people."""
    progress = status["progress"]
    now = Snapshot(**progress) if progress else None
    state, by = status["state"], status["owner"]
    lines = {"study": status["name"], "state": state + (f", by {by}" if by else "")}
    if now and now.stopped and state == FAILED:
        lines["why"] = now.stopped
    if state == FINISHED:
        lines |= _outcome_lines(status["result"])
    elif now:
        if state != RUNNING:
            now = dataclasses.replace(now, seconds_left=None)
        lines |= {"stage": describe_stage(now), "done": "; ".join(describe_progress(now))}
        training = [f"{pack}: epoch {epoch} of {of}" for pack, _, epoch, of in now.groups]
        if training and state == RUNNING:
            lines["training"] = ", ".join(training)
        lines["last seen"] = f"{seconds(max(0.0, time.time() - now.time), ' ')} ago"
    if state in (INTERRUPTED, FAILED):
        lines["to go on"] = status["command"] or "the command that began it"
    for name, text in lines.items():
        console.print(f"  {name:<12} {text}", highlight=False, soft_wrap=True)


def _command(now: Snapshot) -> str | None:
    """The command that continues the run, from the present folder."""
    if not now.command:
        return None
    there = "" if now.folder == os.getcwd() else f"cd {shlex.quote(now.folder)} && "
    return there + now.command


def _outcome(result: dict[str, Any]) -> dict[str, Any]:
    """The result in numbers."""
    if "accuracy" in result:  # the training of one candidate
        return {"test": result["accuracy"], "epochs": result["epochs"]}
    cards = [r["report_card"] for r in result["rounds"] if r["report_card"]]
    entries = {"winner": result["winners"][0]} | result["references"]
    return {
        "trainings": result["trials"],
        "metric": result.get("metric", "accuracy"),
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
    """The result in words."""
    if "candidates" not in outcome:
        return {"test": f"{outcome['test']:.2%} after {outcome['epochs']} epochs"}
    lines = {"trainings": f"{outcome['trainings']:,}"}
    for name, entry in outcome["candidates"].items():
        test, validation = (
            "failed" if entry[split] is None else f"{entry[split]:.2%}"
            for split in ("test", "validation")
        )
        told = f"{validation} validation {outcome['metric'].replace('_', ' ')}"
        lines[name] = f"{test} test, {told}, {entry['flops']:,} FLOPs"
    if outcome["kendall"] is not None:
        lines["predictor"] = f"Kendall {outcome['kendall']:.2f}, Spearman {outcome['spearman']:.2f}"
    return lines
