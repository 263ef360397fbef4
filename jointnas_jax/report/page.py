"""The page that explains a study: one file, without scripts, that loads nothing."""

import pprint
import shlex
from collections import Counter
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from jointnas_jax.config import Config
from jointnas_jax.files import writing
from jointnas_jax.report import words
from jointnas_jax.report.architecture import COLUMNS, part_rows
from jointnas_jax.report.figures import Drawn, draw_figures, time_by_stage
from jointnas_jax.report.importance import FEW, FEWEST, Importance, importance
from jointnas_jax.report.record import Record
from jointnas_jax.report.style import inline_svg
from jointnas_jax.rules import quantity

# Rows that a table has at most.
_ROWS = 30
_MODES = {
    "joint": "networks and recipes",
    "arch": "networks, trained with one recipe",
    "recipe": "recipes of one network",
}


def page_of(workdir: Path) -> Path:
    """The page of a study."""
    return workdir / "report" / "index.html"


def is_current(workdir: Path) -> bool:
    """Whether a finished study has its page: one that was written before its result has not."""
    page, result = page_of(workdir), workdir / "result.json"
    return page.exists() and page.stat().st_mtime_ns >= result.stat().st_mtime_ns


def write_report(record: Record, folder: Path | None = None) -> list[Path]:
    """Writes the page, every figure as PNG and SVG, and the config that its commands need.

    Args:
      record: the study, finished or not.
      folder: where to; None: `report` in the workdir.

    Returns:
      The paths, the page first; it is written last.

    Raises:
      StorageError: they cannot be written.
    """
    page = page_of(record.workdir) if folder is None else folder / "index.html"
    with writing(page.parent):
        page.parent.mkdir(parents=True, exist_ok=True)
    config = page.with_name("config.py")
    important = importance(record)
    figures, paths = draw_figures(record, important, page.parent)
    for path, text in (
        (config, config_file(record.config)),
        (page, render(record, important, figures, config)),
    ):
        with writing(path):
            part = path.with_name(f".{path.name}")
            part.write_text(text, encoding="utf-8")
            part.replace(path)
    return [page, config, *paths]


def config_file(config: Config) -> str:
    """The config of a study as a config file for the scripts: exactly what was run."""
    values = pprint.pformat(config.to_dict(), sort_dicts=False, width=96)
    return (
        '"""The config of a study, as it was run."""\n\n'
        "from ml_collections import ConfigDict\n\n\n"
        "def get_config():\n"
        f"    return ConfigDict(VALUES)\n\n\nVALUES = {values}\n"
    )


def render(
    record: Record, important: Importance | None, figures: dict[str, Drawn], config: Path
) -> str:
    """The page as HTML; everything that comes from a user is escaped."""
    source = files("jointnas_jax.report")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.globals |= {
        "figure": lambda name: _figure(figures.get(name)),
        "amount": words.amount,
        "correlation": words.correlation,
        "count": words.count,
        "percent": words.percent,
    }
    template = environment.from_string(source.joinpath("page.html").read_text(encoding="utf-8"))
    style = Markup(source.joinpath("page.css").read_text(encoding="utf-8"))
    return template.render(
        style=style,
        record=record,
        config=record.config,
        mode=_MODES[record.config.mode],
        answer=_answer(record),
        in_words=_in_words(record),
        contenders=_contenders(record),
        verdicts=_verdicts(record),
        columns=(*COLUMNS, "FLOPs", "params"),
        parts=_parts(record),
        recipe=_beside(record, *(c and c.recipe.to_dict() for c in (record.found, record.default))),
        arch_knobs=_arch_knobs(record),
        rounds=record.rounds[-_ROWS:],
        important=important,
        few=FEW,
        fewest=FEWEST,
        spent=_spent(record),
        failures=_failures(record)[:_ROWS],
        commands=_commands(record, config),
    )


def _figure(drawn: Drawn | None) -> Markup:
    """A figure with its caption; nothing where it was not drawn."""
    if drawn is None:
        return Markup("")
    caption = escape(drawn.caption)
    svg = inline_svg(drawn.svg, drawn.name, caption)
    return Markup(f"<figure>{svg}<figcaption>{caption}</figcaption></figure>")


# -- the answer -----------------------------------------------------------------------------------


def _answer(record: Record) -> dict[str, Any] | None:
    """The best candidate: accuracy, what kind of accuracy, and cost; None before there is one."""
    if record.result:
        winner = record.result["winners"][0]
        test, seeds = winner["test"], len(winner["test"]["seeds"])
        return {
            "accuracy": words.percent(test["mean"]),
            "spread": f"± {100 * test['std']:.2f}" if test["std"] is not None else "",
            "meaning": f"test accuracy of the best network found, mean of {seeds} trainings"
            + (" and their standard deviation" if test["std"] is not None else ""),
            "costs": winner["costs"],
        }
    if record.best is None:
        return None
    trial, score = record.best
    return {
        "accuracy": words.percent(score),
        "spread": "",
        "meaning": "validation accuracy of the best candidate so far, one training of "
        f"{words.count(record.epochs, 'epoch')}",
        "costs": trial["costs"],
    }


def _in_words(record: Record) -> str:
    """The best candidate in short: its network, and its recipe where that was searched."""
    if record.found is None:
        return ""
    text = ""
    if record.archs:
        arch = record.found.arch
        blocks = sum(stage.depth for stage in arch.stages)
        text = (
            f"Network: {words.count(blocks, 'block')} in {words.count(len(arch.stages), 'stage')}, "
            f"for images of {arch.resolution} by {arch.resolution} pixels. "
        )
    recipe = record.found.recipe.to_dict()
    searched = [knob.name for knob in record.knobs if record.of_recipe(knob.name)]
    values = ", ".join(f"{name} {_value(recipe[name])}" for name in searched)
    return f"{text}Recipe: {values}." if searched else f"{text}Recipe: the default one."


def _contenders(record: Record) -> list[dict[str, Any]]:
    """Winners and references, as rows."""
    if not record.result:
        return []
    named = [(f"found ({winner['source']})", winner) for winner in record.result["winners"]]
    named += [(entry["source"], entry) for entry in record.result["references"].values()]
    return [
        {
            "name": name + ("" if entry["within_budget"] else " (over the budget)"),
            "test": words.spread(entry["test"]),
            "validation": words.spread(entry["validation"]),
            "flops": f"{entry['costs']['flops']:,}",
            "params": f"{entry['costs']['params']:,}",
        }
        for name, entry in named
    ]


def _verdicts(record: Record) -> list[str]:
    """The comparison with each reference, in a sentence each."""
    if not record.result:
        return []
    sentences = []
    for name, found in record.result["comparison"].items():
        source = record.result["references"][name]["source"]
        error = found["standard_error"]
        noise = "" if error is None else f", standard error {100 * error:.2f}"
        of = "candidate" if name == "default" else "candidates"
        source = source if source.endswith("candidate") else f"{source} {of}"
        sentences.append(
            f"The search {found['verdict']} the {source}: {words.points(found['difference'])} of "
            f"test accuracy{noise}."
        )
    if "random" not in record.result["references"]:
        sentences.append("Random search was not run for comparison, or all of it failed.")
    return sentences


# -- the candidate --------------------------------------------------------------------------------


def _parts(record: Record) -> list[tuple]:
    """The stages of the found network, as rows; an unfinished study cannot count their costs."""
    return part_rows(record.found.arch) if record.result else []


def _arch_knobs(record: Record) -> list[dict[str, Any]]:
    """The searched knobs of the found architecture beside the default candidate's."""
    if record.found is None:
        return []
    found = record.result["winners"][0]["knobs"] if record.result else record.best[0]["knobs"]
    names = [name for name in found if not record.of_recipe(name)]
    return _beside(record, {name: found[name] for name in names}, record.config.default)


def _beside(
    record: Record, found: Mapping[str, Any] | None, default: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Values by name, beside the default ones, as rows."""
    searched = {knob.name for knob in record.knobs}
    return [
        {
            "name": name,
            "found": _value(value),
            "default": _value(default[name]),
            "searched": name in searched,
            "differs": value != default[name],
        }
        for name, value in (found or {}).items()
    ]


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


# -- how it went ----------------------------------------------------------------------------------


def _spent(record: Record) -> list[dict[str, str]]:
    """Where the time went, as rows; nothing before a training is stored."""
    spent = time_by_stage(record)
    total = sum(spent.values()) or 1.0
    programs = record.result["compilations"]["by_stage"] if record.result else {}
    return [
        {
            "stage": stage,
            "time": words.seconds(value),
            "share": words.percent(value / total, 0),
            "programs": f"{programs[stage]:,}" if stage in programs else "",
        }
        for stage, value in spent.items()
    ]


def _failures(record: Record) -> list[dict[str, Any]]:
    """Reasons of failed trials, the most frequent first."""
    numbers: dict[str, list[int]] = {}
    stages: dict[str, Counter] = {}
    for trial in record.failed:
        numbers.setdefault(trial["reason"], []).append(trial["number"])
        stages.setdefault(trial["reason"], Counter())[trial["stage"]] += 1
    return [
        {
            "reason": reason,
            "trials": len(found),
            "numbers": ", ".join(map(str, found[:10])) + ", ..." * (len(found) > 10),
            "stages": ", ".join(f"{name} {n:,}" for name, n in stages[reason].items()),
        }
        for reason, found in sorted(numbers.items(), key=lambda item: -len(item[1]))
    ]


def _commands(record: Record, config: Path) -> list[tuple[str, list[str]]]:
    """What to do next, and the words of the command for it, quoted for a shell."""
    script = lambda name, *flags: ["python", f"scripts/{name}.py", *map(shlex.quote, flags)]
    workdir = f"--workdir={record.workdir}"
    report = ("write this page again", script("report", workdir))
    if not record.result:
        return [report]
    best = f"--candidate={record.workdir / 'winner0.json'}"
    flops = _smaller(record.result["winners"][0]["costs"]["flops"])
    return [
        (
            "train the found network again, fully",
            script("train_candidate", best, f"--config={config}"),
        ),
        (
            "search other budgets with the trained predictor, without training",
            script("search_budgets", workdir, f"--flops={','.join(flops)}"),
        ),
        ("export it, with a model card", script("export", workdir, "--format=onnx")),
        report,
    ]


def _smaller(flops: int) -> list[str]:
    """Budgets of about three quarters of a number of FLOPs, and of all of it."""
    unit = 10 ** max(0, len(str(flops)) - 2)
    return [quantity(max(1, round(share * flops / unit) * unit)) for share in (0.75, 1.0)]
