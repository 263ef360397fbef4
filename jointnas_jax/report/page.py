"""The page of a study: one HTML file, without scripts and external files."""

import base64
import os
import pprint
import shlex
from collections import Counter, defaultdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from jointnas_jax.config import Config
from jointnas_jax.errors import StorageError
from jointnas_jax.files import write_whole, writing
from jointnas_jax.report import words
from jointnas_jax.report.answer import areas_in_words, networks
from jointnas_jax.report.architecture import COLUMNS, part_rows
from jointnas_jax.report.figures import Drawn, draw_figures, time_by_stage
from jointnas_jax.report.importance import FEW, FEWEST, Importance, importance
from jointnas_jax.report.record import Row, StudyRecord
from jointnas_jax.report.style import inline_svg
from jointnas_jax.rules import quantity
from jointnas_jax.strategy.reliability import in_words

# Most rows of a table.
_ROWS = 30
# Most classes in the table of the hardest ones.
_CLASSES = 20
_MODES = {
    "joint": "networks and recipes",
    "arch": "networks, trained with one recipe",
    "recipe": "recipes of one network",
}


def page_of(workdir: Path) -> Path:
    """Path of the page of a study."""
    return workdir / "report" / "index.html"


def is_current(workdir: Path) -> bool:
    """Whether the page of a finished study is newer than its result."""
    page, result = page_of(workdir), workdir / "result.json"
    return page.exists() and page.stat().st_mtime_ns >= result.stat().st_mtime_ns


def write_report(record: StudyRecord, folder: Path | None = None) -> list[Path]:
    """Writes the page, every figure as PNG and SVG, and the config that its commands need.

    Args:
      record: The study, finished or not.
      folder: Folder to write to; None: `report` in the workdir.

    Returns:
      The paths, the page first, which is written last.

    Raises:
      StorageError: A file cannot be written.
    """
    page = page_of(record.workdir) if folder is None else folder / "index.html"
    with writing(page.parent):
        page.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(page.parent, os.W_OK):
            raise StorageError(f"`{page.parent}` cannot be written; give another --out")
    config = page.with_name("config.py")
    important = importance(record)
    figures = draw_figures(record, important, page.parent)
    write_whole(config, config_file(record.config).encode())
    text = render(record, important, figures, config)
    write_whole(page, text.encode(errors="replace"))  # names of files need not be UTF-8
    pictures = [page.with_name(f"{name}.{end}") for name in figures for end in ("png", "svg")]
    return [page, config, *pictures]


def config_file(config: Config) -> str:
    """The config of a study as a config file for the scripts."""
    values = pprint.pformat(config.to_dict(), sort_dicts=False, width=96)
    return (
        '"""The config of a study, as it was run."""\n\n'
        "from ml_collections import ConfigDict\n\n\n"
        "def get_config():\n"
        f"    return ConfigDict(VALUES)\n\n\nVALUES = {values}\n"
    )


def render(
    record: StudyRecord, important: Importance | None, figures: dict[str, Drawn], config: Path
) -> str:
    """The page as HTML; escapes all text of users."""
    source = files("jointnas_jax.report")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.globals |= {
        "amount": words.amount,
        "both_flops": words.both_flops,
        "expectations": words.expectations_in_words,
        "correlation": words.correlation,
        "count": words.count,
        "hardest": _hardest,
        "areas": areas_in_words,
        "networks": networks,
        "percent": words.percent,
        "points": words.points,
        "reliability": _reliability,
        "seconds": words.seconds,
        "spread": words.spread,
        "thousands": "{:,}".format,
        "value": _value,
    }
    template = environment.from_string(source.joinpath("page.html").read_text(encoding="utf-8"))
    leader = record.leader
    best = record.result["winners"][0] if record.result else record.best[0] if record.best else {}
    knobs, flops = best.get("knobs", {}), best["costs"]["flops"] if best else 0
    unit = 10 ** max(0, len(str(flops)) - 2)
    return template.render(
        style=Markup(source.joinpath("page.css").read_text(encoding="utf-8")),
        figures={
            name: (Markup(inline_svg(drawn.svg, name, escape(drawn.caption))), drawn.caption)
            for name, drawn in figures.items()
        },
        record=record,
        config=record.config,
        mode=_MODES[record.config.mode],
        leader=leader,
        costs=best.get("costs"),
        columns=(*COLUMNS, "FLOPs", "params"),
        # An unfinished study cannot count the costs of parts.
        parts=part_rows(leader.arch) if leader and record.result else [],
        searched=[knob.name for knob in record.knobs],
        recipe=leader.recipe.to_dict() if leader else {},
        arch_knobs={name: knobs[name] for name in knobs if not record.of_recipe(name)},
        rounds=record.rounds[-_ROWS:],
        important=important,
        class_rows=_CLASSES,
        data_lines=_data_lines(record.data) if record.data else [],
        sheet=base64.b64encode(record.contact_sheet).decode() if record.contact_sheet else "",
        few=FEW,
        fewest=FEWEST,
        spent=time_by_stage(record),
        failures=_failures(record)[:_ROWS],
        config_file=config,
        quote=shlex.quote,
        # Budgets of about three quarters of the FLOPs of the winner, and of all of them.
        budgets=",".join(quantity(max(1, round(s * flops / unit) * unit)) for s in (0.75, 1.0)),
    )


def _data_lines(data: Row) -> list[str]:
    """What else is known of the images."""
    (low, high), shape = data["stored"], data["shape"]
    size = "x".join(map(str, low)) + ("" if low == high else f" to {'x'.join(map(str, high))}")
    lines = [f"Files of {size}, used at {'x'.join(map(str, shape))}"]
    copies = data["copies"] or {}
    if copies.get("within"):
        lines.append(f"{words.count(copies['within'], 'training image')} of the content of another")
    if copies.get("across"):
        some = words.count(copies["across"], "validation or test image")
        lines.append(f"{some} of the content of a training image")
    return lines


def _hardest(winner: Row) -> list[int]:
    """The classes that a winner has least right, hardest first."""
    accuracies = winner["classes"]["accuracy"]
    known = [index for index, accuracy in enumerate(accuracies) if accuracy is not None]
    return sorted(known, key=lambda index: accuracies[index])[:_CLASSES]


def _reliability(reliability: Row) -> str:
    """How far the score of one training can be trusted, as a sentence."""
    text = in_words(reliability)
    return text[0].upper() + text[1:]


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _failures(record: StudyRecord) -> list[tuple[str, list[Row], Counter[str]]]:
    """Reasons of failed trials, the most frequent first, with the trials and their stages."""
    trials: dict[str, list[Row]] = defaultdict(list)
    for trial in record.failed:
        trials[trial["reason"]].append(trial)
    rows = sorted(trials.items(), key=lambda item: -len(item[1]))
    return [(reason, failed, Counter(t["stage"] for t in failed)) for reason, failed in rows]
